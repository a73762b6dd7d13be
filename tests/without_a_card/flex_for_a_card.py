"""FlexAttention as the package calls it, compiled for a card that is not there: which kernels, how much shared memory.

python flex_for_a_card.py '{"capability": [8, 9], "cases": [{"heads": 16, "key_heads": 2, "dim": 128, ...}]}'

A line of JSON for each case: {"kernels": [[name, bytes, whether it is the decoding kernel], ...]} of the forward and
the backward, or {"error": what it failed with}.
"""

import json
import sys
from unittest import mock

import torch
from pretended_card import compile_without_launching, pretend

from hf_rewardplug.model.kernels import flex
from hf_rewardplug.model.layout import TreeLayout


def kernels_of(case: dict) -> list[tuple[str, int, bool]]:
    """One forward and one backward."""
    kernels = []
    compile_without_launching(lambda name, source, shared: kernels.append((name, shared, "SPLIT_KV" in source)))
    torch._dynamo.reset()
    flex._compiled_flex.cache_clear()
    size, dim, dtype = case["tokens"], case["dim"], getattr(torch, case["dtype"])
    with torch._subclasses.FakeTensorMode():
        positions_T = torch.empty(size, dtype=torch.long, device="cuda")
        layout = TreeLayout([(0, size, 0, size)], positions_T, size)
        tensors = [
            torch.empty(size, heads, dim, dtype=dtype, device="cuda").transpose(0, 1).requires_grad_()
            for heads in (case["heads"], case["key_heads"], case["key_heads"])
        ]
        options = case.get("options")
        with mock.patch.object(flex, "kernel_options", (lambda *args: options) if options else flex.kernel_options):
            output = flex.flex_attention(*tensors, layout, dim**-0.5, case["softcap"], case["window"])
        output.sum().backward()
    assert output.dtype == dtype and [tensor.grad.shape for tensor in tensors] == [tensor.shape for tensor in tensors]
    return kernels


def main(task: dict) -> None:
    pretend(tuple(task["capability"]))
    for case in task["cases"]:
        try:
            result = {"kernels": kernels_of(case)}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

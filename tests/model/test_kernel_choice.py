"""Which kernel a model takes on a device: by what the card can do, and by what the kernel computes there."""

import logging
import shutil

import pytest
import torch
from packaging.version import Version

from hf_rewardplug.model.kernels import (
    Heads,
    choice,
    choose_kernel,
    flash_attention,
    flex_attention,
    span_attention,
)
from hf_rewardplug.model.kernels.choice import candidates, find_fault, small_tree
from hf_rewardplug.model.layout import branches

CUDA = torch.device("cuda", 0)


def heads_of(dtype=torch.bfloat16, query_dim=128, value_dim=None, device=CUDA, **options) -> Heads:
    return Heads(device, dtype, 4, 2, query_dim, query_dim if value_dim is None else value_dim, 0.3, **options)


@pytest.fixture
def card(monkeypatch):
    """A card of a compute capability, whose kernels are what a test says."""

    def of(capability=(9, 0), **replaced):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        for name, kernel in replaced.items():
            kernel.__name__ = name
            monkeypatch.setattr(choice, name, kernel)
        monkeypatch.setattr(choice, "small_tree", lambda device: small_tree(torch.device("cpu")))
        choice._checked_kernel.cache_clear()
        choice._warn_once.cache_clear()

    yield of
    choice._checked_kernel.cache_clear()


@pytest.fixture
def on_the_cpu(monkeypatch):
    """`find_fault` computes on the CPU, whatever the device is called."""
    plain = choice.errors_on_small_tree
    monkeypatch.setattr(
        choice, "errors_on_small_tree", lambda kernel, heads: plain(kernel, heads._replace(device=torch.device("cpu")))
    )


@pytest.mark.parametrize(
    ("heads", "capability", "expected", "reason"),
    [
        (heads_of(), (9, 0), [flash_attention, flex_attention], None),
        (heads_of(torch.float16), (8, 0), [flash_attention, flex_attention], None),
        (heads_of(softcap=30.0, query_dim=256), (8, 9), [flex_attention], None),
        (heads_of(torch.float32), (9, 0), [flex_attention], None),
        (heads_of(), (7, 5), [], "compute capability 7.5"),
        (heads_of(torch.float64), (9, 0), [], "float64"),
        (heads_of(query_dim=8), (9, 0), [], "8 wide"),
        (heads_of(query_dim=100), (9, 0), [], "100 wide"),
        (heads_of(query_dim=512, softcap=30.0), (9, 0), [], "512 wide"),
        (heads_of(query_dim=192, value_dim=128), (9, 0), [], "values 128"),
    ],
)
def test_candidates(heads, capability, expected, reason):
    kernels_of, why = candidates(heads, capability)
    assert kernels_of == expected
    assert why is None if reason is None else reason in why


def test_the_cpu_takes_spans():
    assert choose_kernel(heads_of(device=torch.device("cpu"))) is span_attention


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_kernel_has_no_fault(dtype, softcap, window):
    heads = heads_of(dtype, 16, device=torch.device("cpu"), softcap=softcap, window=window)
    assert find_fault(span_attention, heads) is None


def wrong(change):
    """Attention that is a little off."""

    def kernel(query, key, value, layout, scale, softcap=None, window=None):
        return change(query, key, value, layout, scale, softcap, window)

    return kernel


def sees_no_prompt(query, key, value, layout, *options):
    spans = [span for span in layout.spans if span[:2] == span[2:]]
    return span_attention(query, key, value, type(layout)(spans, layout.position_ids_T, layout.longest), *options)


def one_key_less(query, key, value, layout, scale, softcap, window):
    return span_attention(query, key, value, layout, scale, softcap, (window or 170) - 1)


def other_heads(query, key, value, layout, *options):
    """Query heads take the key heads in turn instead of in groups."""
    groups = query.shape[0] // key.shape[0]
    return span_attention(query, key.repeat(groups, 1, 1), value.repeat(groups, 1, 1), layout, *options)


def gradient_of_values_is_half(query, key, value, layout, *options):
    return span_attention(query, key, value / 2 + value.detach() / 2, layout, *options)


def not_a_number(*arguments):
    return span_attention(*arguments) * torch.nan


@pytest.mark.parametrize(
    ("change", "named", "window"),
    [
        (sees_no_prompt, "output", None),
        (one_key_less, "", 4),
        (other_heads, "", None),
        (gradient_of_values_is_half, "gradient of the values is 0.5 off", None),
        (not_a_number, "nan off", None),
    ],
)
def test_a_wrong_kernel_is_found_out(change, named, window):
    fault = find_fault(wrong(change), heads_of(torch.float32, 16, device=torch.device("cpu"), window=window))
    assert fault.startswith("is wrong") and named in fault


def test_the_tree_that_kernels_are_tried_on():
    """Its drawing, and that it has a fork, a fork in a branch, two sequences and more than two blocks of 128 tokens."""
    layout = small_tree(torch.device("cpu"))
    assert branches(layout.spans) == [
        (0, 170, []),
        (170, 230, [(0, 90)]),
        (230, 262, [(0, 90), (170, 200)]),
        (262, 300, []),
    ]
    seen_TT = layout.mask_TT(None)
    assert torch.equal(seen_TT.sum(1) - 1, layout.position_ids_T), "a token sees its own prefix"
    assert seen_TT[261].nonzero().flatten().tolist() == [*range(90), *range(170, 200), *range(230, 262)]


def fails(*arguments):
    raise RuntimeError("No valid triton configs.\nout of resource: shared memory")


def test_what_fails_is_replaced_with_one_warning(card, on_the_cpu, caplog):
    card(flash_attention=wrong(fails), flex_attention=wrong(lambda *arguments: span_attention(*arguments)))
    assert choose_kernel(heads_of(query_dim=16)).__name__ == "flex_attention"
    assert choose_kernel(heads_of(query_dim=16)).__name__ == "flex_attention"
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "`flash_attention` fails (RuntimeError: No valid triton configs.)" in record.message
    assert "`flex_attention` takes its place" in record.message


def test_spans_take_the_place_of_all(card, on_the_cpu, caplog):
    card(flash_attention=wrong(fails), flex_attention=wrong(sees_no_prompt))
    assert choose_kernel(heads_of(query_dim=16)) is span_attention
    [record] = caplog.records
    assert "`flex_attention` is wrong (its " in record.message and "`span_attention` takes its place" in record.message


@pytest.mark.parametrize(
    ("capability", "heads", "reason"),
    [((7, 5), heads_of(torch.float16), "compute capability 7.5"), ((9, 0), heads_of(query_dim=8), "8 wide")],
)
def test_old_cards_and_narrow_heads_take_spans_and_say_so(card, caplog, capability, heads, reason):
    card(capability)
    for _ in range(2):
        assert choose_kernel(heads) is span_attention
    [record] = caplog.records
    assert reason in record.message


def test_without_memory_nothing_is_decided(card, on_the_cpu):
    """The next call, with a smaller batch, checks again."""
    full = [True]

    def flash(*arguments):
        if full:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory")
            except torch.OutOfMemoryError as error:
                raise RuntimeError("the backend compiler failed") from error
        return span_attention(*arguments)

    card(flash_attention=wrong(flash))
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        choose_kernel(heads_of(query_dim=16))
    full.clear()
    assert choose_kernel(heads_of(query_dim=16)).__name__ == "flash_attention"


def test_a_kernel_is_checked_once(card, on_the_cpu):
    calls = []

    def flash(*arguments):
        calls.append(arguments[4:])
        return span_attention(*arguments)

    card(flash_attention=wrong(flash))
    for _ in range(3):
        for window in (None, 4096, 100):  # a small tree shows that of 40
            choose_kernel(heads_of(query_dim=16, window=window))
    with torch.no_grad():  # a scorer's kernel is checked with its backward too
        choose_kernel(heads_of(query_dim=16))
    assert calls == [(0.3, None, None), (0.3, None, 40)], "with the model's own scale"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_other_libraries_words_for_a_full_card(error):
    def full(*arguments):
        raise error

    with pytest.raises(torch.OutOfMemoryError):
        find_fault(full, heads_of(torch.float32, 16, device=torch.device("cpu")))


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_check_leaves_no_trace_in_the_step(card, on_the_cpu, reentrant):
    """It runs in the first forward, beneath a checkpoint that counts what is saved, autocast and inference mode."""
    card(flash_attention=wrong(lambda *arguments: span_attention(*arguments)))

    def layer(tensor):
        choose_kernel(heads_of(query_dim=16))
        return tensor.sin().square()

    tensor = torch.ones(3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.utils.checkpoint.checkpoint(layer, tensor, use_reentrant=reentrant).sum().backward()
    torch.testing.assert_close(tensor.grad, torch.full((3,), 2.0).sin())
    choice._checked_kernel.cache_clear()
    with torch.inference_mode():
        assert choose_kernel(heads_of(query_dim=16)).__name__ == "flash_attention"


@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention is compiled with g++ here")
def test_a_compiled_kernel_is_checked_in_its_backward():
    """The CPU's FlexAttention has none."""
    heads = heads_of(torch.float32, 16, device=torch.device("cpu"), softcap=5.0, window=40)
    fault = choice._in_a_thread(find_fault, flex_attention, heads)
    old = Version(torch.__version__) < Version("2.8")  # which does not compile it either
    assert fault.startswith("fails (InductorError" if old else "fails (NotImplementedError: FlexAttention")


def test_flex_attention_that_would_not_be_compiled_is_refused():
    heads = heads_of(torch.float32, 16, device=torch.device("cpu"), softcap=5.0)
    with torch._dynamo.config.patch(disable=True):
        assert "FlexAttention is not compiled where TORCHDYNAMO_DISABLE is set" in find_fault(flex_attention, heads)


def test_flash_attention_refuses_a_soft_cap():
    tensors = [torch.zeros(2, 4, 16)] * 3
    with pytest.raises(ValueError, match=r"no soft-cap, got softcap=30.0. Use `flex_attention`"):
        flash_attention(*tensors, small_tree(torch.device("cpu")), 1.0, 30.0)

"""What fused pieces of our own could save of a training step, measured before any kernel is written.

    python benchmarks/fused.py [--json OUT] [--rounds 3]    Qwen2.5-3B's shape in bf16; on a CPU SmolLM2-135M's, fp32
    python benchmarks/fused.py --smoke                      tiny shapes: whether it runs at all

In: nothing; weights and token ids are random, batches are this package's packed ones. Out: a table a candidate, with a
verdict a row, and the same as JSON. Pieces are timed interleaved with the step that they are of (forward and backward,
gradient checkpointing, no optimizer), on CUDA by themselves and without launches, which such steps hide. Figures are
medians, shares and ratios those of the rounds' ratios.

keys   keys and values gathered inside the attention. `copies`: copying them in all layers as flash attention does,
       twice forward (checkpointing) and once backward, over the step: the most that a kernel saves. A CPU copies none
       now: `spans` is SpanAttention in all layers over the step, `twin` its twin, which copies and then attends a
       branch, `saves` what SpanAttention saves of a step with that twin.
head   the head, the loss and its gradient at the score positions. `share`: all behind the body's hidden states over the
       step, the most that one pass saves; `one pass`: its closed form over the step; `saves`: what that saves of it.
mlp    rows of one long pair, the MLPs in chunks of as many tokens as the hidden size (Liger's default), computed again
       in the backward pass: by a loop of checkpoints, and by Liger's tiled MLP. `time` and `memory` of the step (peak
       beyond weights and gradients) over those with the model's own; `differs`: relative, loss and all gradients.

A piece wins if it saves 3 % of the step's time, or 20 % of its peak memory at no more than 5 % more time; where only a
bound is measured, it "may win".
"""

import argparse
import atexit
import functools
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from statistics import median

import torch
import torch.nn.functional as F
from device_figures import device_seconds
from gpu_stages import free, tried
from parts import write_json
from random_workloads import SHAPES, WORKLOADS, rows_of
from shared_model import CUDA, DEVICE, DTYPE, Setting, Subject
from side_by_side import Contestant, disagreement, machine, on_device, peak_memory, stepper, timed
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config

from hf_rewardplug.model.kernels import SpanAttention
from hf_rewardplug.model.layout import TreeLayout

SHAPE = "Qwen2.5-3B" if CUDA else "SmolLM2-135M, 4 layers"
SMALL = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9}
SMALL |= {"num_key_value_heads": 3, "vocab_size": 8192}  # few words: their gradient is not to be the peak of memory
SHAPES.setdefault(SHAPE, (Qwen2Config, SMALL))
SIZES = {"8 pairs": 8, "8 long pairs": 8 if CUDA else 3, "tree of steps": 1}  # rows a batch
LENGTHS = (4096, 16384) if CUDA else (1024, 3072)
REPEATS = 20  # of the head, which is over too soon to be timed once
TOLERANCE = 0.2 if CUDA else 1e-5  # of whole gradients in bf16, in fp32


def measure_pieces(subject: Subject, rows: list[dict], rounds: int) -> tuple[dict, dict]:
    """A row of the table of keys, and one of the head's."""
    batch = on_device(subject.ours.data_collator(rows), DEVICE)
    step = Contestant("step", [batch], stepper(subject.ours), subject.model, prepare=lambda: subject.prepare(Setting()))
    keys, runs = key_pieces(subject.model, batch)
    contestants = [step]
    for name, (run, times) in (runs | head_pieces(subject.ours, batch)).items():
        contestants.append(Contestant(name, [{}] * times, lambda _, run=run: run(), torch.nn.Identity()))
    timed(contestants, rounds + 1)
    seconds = {one.name: one.seconds[1:] for one in contestants}
    if CUDA:
        seconds |= {one.name: [on_device_alone(one) for _ in range(rounds)] for one in contestants[1:]}
    share = {name: ratio(of_piece, seconds["step"]) for name, of_piece in seconds.items()}
    autograd, fused = (share[name] / REPEATS for name in ("autograd", "one pass"))
    head = {"step seconds": median(seconds["step"]), "share": autograd, "one pass": fused, "saves": autograd - fused}
    keys |= {"copies": share["copies"], "verdict": verdict(1 - share["copies"]).replace("wins", "may win")}
    if not CUDA:
        more = share["twin"] - share["spans"]
        keys |= {"spans": share["spans"], "twin": share["twin"], "saves": more / (1 + more)}
        keys["verdict"] = verdict(1 / (1 + more)).replace("wins", "wins, as SpanAttention")
    return keys, {**head, "verdict": verdict(1 - autograd + fused)}


def on_device_alone(contestant: Contestant) -> float:
    """Seconds without the launches: all are queued while the device waits, some 50 ms."""
    return device_seconds(lambda: [contestant.run(batch) for batch in contestant.batches], 1, cycles=100_000_000)


def ratio(seconds: list[float], of: list[float]) -> float:
    return median(a / b for a, b in zip(seconds, of, strict=True))


def apart(found, expected) -> float:
    """Relative difference of two lists of tensors, each taken for one vector."""
    squares = torch.zeros(2, dtype=torch.double)
    for a, b in zip(found, expected, strict=True):
        b = b.detach().to(a.device).float()
        squares += torch.stack([(a.detach().float() - b).square().sum(), b.square().sum()]).cpu()
    return float(squares[0] / squares[1]) ** 0.5


def verdict(time: float, memory: float = 1.0) -> str:
    """By the rule above, from ratios to a step without the candidate."""
    return "wins" if time <= 0.97 or (memory <= 0.8 and time <= 1.05) else "does not win"


def key_pieces(model, batch: dict) -> tuple[dict, dict]:
    """How much is copied; and copying, on a CPU also attention without and with it, to be run for each layer."""
    config, tree, length = model.config, batch["prefix_tree"], batch["input_ids"].shape[1]
    layout = TreeLayout(tree["spans"], batch["position_ids"][0], tree["longest"], tree.get("index"))
    heads, index_N = (config.num_attention_heads, *[config.num_key_value_heads] * 2), layout.on(DEVICE)["key_index"]
    size = model.model.layers[0].self_attn.head_dim
    leaves = [torch.randn(length, n, size, device=DEVICE, dtype=DTYPE, requires_grad=True) for n in heads]
    gradient_NKD, gradient_HTD = leaves[1].detach()[index_N], leaves[0].detach().transpose(0, 1)

    def copy():
        for tensor_TKD in leaves[1:]:
            with torch.no_grad():
                tensor_TKD.index_select(0, index_N)
            torch.autograd.grad(tensor_TKD.index_select(0, index_N), tensor_TKD, gradient_NKD)

    def attend(kernel):
        arguments = [*(tensor.transpose(0, 1) for tensor in leaves), layout, size**-0.5, None, None]
        with torch.no_grad():
            kernel(*arguments)
        output_HTD = kernel(*arguments)
        return output_HTD, *torch.autograd.grad(output_HTD, leaves, gradient_HTD)

    pieces = {"copies": copy}
    if not CUDA:
        pieces |= {"spans": lambda: attend(SpanAttention.apply), "twin": lambda: attend(copied_attention)}
        assert apart(pieces["twin"](), pieces["spans"]()) < TOLERANCE
    figures = {"tokens": length, "keys": len(index_N), "MiB a layer": 2 * gradient_NKD.nbytes / 2**20}
    return figures, {name: (run, config.num_hidden_layers) for name, run in pieces.items()}


def copied_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap, window):
    """SpanAttention's twin: keys and values gathered as for flash attention, then SDPA a branch."""
    index, key_heads = layout.on(query_HTD.device), len(key_KTD)
    if "branches" not in layout.cache:  # once, as flash attention's lengths
        sizes = [index[name].diff().tolist() for name in ("cu_seq_q", "cu_seq_k")]
        some = [torch.ones(q, k, dtype=torch.bool).tril(k - q) if q < k else None for q, k in zip(*sizes, strict=True)]
        layout.cache["branches"] = (*sizes, some)
    queries, keys, masks = layout.cache["branches"]
    gathered = (tensor.index_select(1, index["key_index"])[:, None] for tensor in (key_KTD, value_KTD))
    branches = (tensor.expand(-1, len(query_HTD) // key_heads, -1, -1).split(keys, 2) for tensor in gathered)
    branches = zip(query_HTD.unflatten(0, (key_heads, -1)).split(queries, 2), *branches, masks, strict=True)
    attend = functools.partial(F.scaled_dot_product_attention, scale=scale)
    outputs = [attend(*tensors, attn_mask=mask, is_causal=mask is None) for *tensors, mask in branches]
    return torch.cat(outputs, 2).flatten(0, 1)


def head_pieces(trainer, batch: dict) -> dict:
    """The candidate, and its slow twin, which is the trainer's own way: loss, gradients of hidden states and head."""
    head, positions_S = trainer.model.score, batch["score_positions"]
    shape = (batch["input_ids"].shape[1], trainer.model.config.hidden_size)
    hidden_TD = torch.randn(*shape, device=DEVICE, dtype=DTYPE, requires_grad=True)

    def by_autograd(hidden_TD):
        losses, _ = trainer.training_objective.losses(head(hidden_TD[positions_S]), batch)
        loss = losses.sum() / len(losses)
        return [loss, *torch.autograd.grad(loss, [hidden_TD, *head.parameters()])]

    @torch.no_grad()
    def one_pass(hidden_TD):
        hidden_SD = hidden_TD[positions_S].float()
        logits_SC = F.linear(hidden_SD, head.weight, head.bias)
        if "step_labels" in batch:
            log_probs_SC, right_S = logits_SC.log_softmax(-1), batch["step_labels"]
            targets_SC = torch.stack([1 - right_S, right_S], -1) / len(right_S)
            loss, slopes_SC = -(targets_SC * log_probs_SC).sum(), log_probs_SC.exp() / len(right_S) - targets_SC
        else:
            margins_NC = torch.sub(*logits_SC.chunk(2))
            slopes_NC = torch.sigmoid(-margins_NC) / len(margins_NC)
            loss, slopes_SC = F.softplus(-margins_NC).mean(), torch.cat([-slopes_NC, slopes_NC])
        rows_SD = (slopes_SC @ head.weight).to(hidden_TD.dtype)
        gradients = [torch.zeros_like(hidden_TD).index_add_(0, positions_S, rows_SD), slopes_SC.T @ hidden_SD]
        return [loss, *gradients] + ([] if head.bias is None else [slopes_SC.sum(0)])

    exact_TD = hidden_TD.detach().float().requires_grad_()
    for found, expected in zip(one_pass(exact_TD), by_autograd(exact_TD), strict=True):
        assert apart([found], [expected]) < 1e-6
    return {"one pass": (lambda: one_pass(hidden_TD), REPEATS), "autograd": (lambda: by_autograd(hidden_TD), REPEATS)}


def mlp_stages(subject: Subject, smoke: bool):
    """(name, contestants) of each length, with and without gradient checkpointing."""

    def loop(mlp, hidden_BLD):
        forward, parts = functools.partial(type(mlp).forward, mlp), hidden_BLD.split(hidden_BLD.shape[-1], dim=1)
        return torch.cat([checkpoint(forward, one, use_reentrant=False, preserve_rng_state=False) for one in parts], 1)

    def prepare(forward, checkpointing):
        subject.prepare(Setting(checkpointing="non-reentrant" if checkpointing else None))
        for layer in subject.model.model.layers:
            vars(layer.mlp).pop("forward", None)
            if forward is not None:
                vars(layer.mlp)["forward"] = functools.partial(forward, layer.mlp)

    forwards = {"own": None, "chunks": loop}
    if find_spec("liger_kernel"):
        from liger_kernel.ops.tiled_mlp import apply_tiled_mlp

        forwards["liger"] = lambda mlp, hidden_BLD: apply_tiled_mlp(type(mlp).forward, mlp, hidden_BLD)
    generator, vocabulary = random.Random(0), subject.model.config.vocab_size
    for length in (64, 256) if smoke else LENGTHS:
        prompt, *ends = ([generator.randrange(10, vocabulary) for _ in range(length // n)] for n in (2, 4, 4))
        row = {"chosen_ids": prompt + ends[0], "rejected_ids": prompt + ends[1]}
        batch = on_device(subject.ours.data_collator([row]), DEVICE)
        for checkpointing in (True, False):
            contestants = [Contestant(name, [batch], stepper(subject.ours), subject.model, 1) for name in forwards]
            for one, forward in zip(contestants, forwards.values(), strict=True):
                one.prepare = functools.partial(prepare, forward, checkpointing)
            yield f"{length} tokens, {'' if checkpointing else 'no '}checkpointing", contestants


def measure_mlps(subject: Subject, contestants: list[Contestant], peaks: dict[str, float], rounds: int) -> dict:
    """Rows of the table of MLPs. `peaks`: GiB, on a CPU; another process has measured them."""
    table, results, running, expected = {}, {}, [], None
    for one in contestants:
        reason = tried(one, results, peaks if CUDA else {})
        table[one.name] = {"verdict": reason or "-"}
        if reason is None:
            running.append(one)
            gradients = [parameter.grad for parameter in subject.model.parameters()]
            expected = expected or [gradient.to("cpu", copy=True) for gradient in gradients]
            differs = max(apart(gradients, expected), disagreement(results[one.name], results[running[0].name]))
            table[one.name] |= {"GiB": peaks[one.name], "differs": differs}
        free()
    timed(running, rounds if running else 0)
    for one in running:
        figures, own = table[one.name], running[0]
        figures["seconds"] = one.median
        if own.name != "own":
            figures["verdict"] = "wins: the model's own does not run"
        elif one is not own:
            figures |= {"time": ratio(one.seconds, own.seconds), "memory": peaks[one.name] / (peaks[own.name] or 1)}
            figures["verdict"] = verdict(figures["time"], figures["memory"])
        if figures["differs"] > TOLERANCE:
            figures["verdict"] = "failed: computes something else"
    return table


def print_table(title: str, rows: dict[str, dict]) -> None:
    columns = list(dict.fromkeys(column for figures in rows.values() for column in figures if column != "verdict"))
    print(f"\n{title:38}" + "".join(f"{column:>14}" for column in columns))
    for name, row in rows.items():
        cells = "".join(f"{row[column]:14.4g}" if column in row else f"{'-':>14}" for column in columns)
        print(f"{name:38}{cells}   {row['verdict']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: whether it runs at all")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    gc.freeze()  # what is imported: to collect it before each run takes longer than many a run
    atexit.register(gc.unfreeze)
    results = {"machine": machine(), "shape": SHAPE, "smoke": options.smoke, "keys": {}, "head": {}, "mlp": {}}
    vocabulary = 512 if options.smoke else min(100_000, SHAPES[SHAPE][1]["vocab_size"])
    for kind in ("orm", "prm"):
        workloads = [replace(one, size=SIZES[one.name], batches=1) for one in WORKLOADS[kind] if one.name in SIZES]
        batches = [rows_of(workload, kind, vocabulary, options.smoke)[0] for workload in workloads]
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject(SHAPE, kind, batches[0], folder, smoke=options.smoke)
            stages, peaks = mlp_stages(subject, options.smoke) if kind == "orm" else (), {}
            if options.memory:
                print(json.dumps({name: {one.name: peak_memory(one) / 2**30 for one in some} for name, some in stages}))
                return 0
            for workload, rows in zip(workloads, batches, strict=True):
                name = workload.name.replace("8", str(len(rows)))
                results["keys"][name], results["head"][name] = measure_pieces(subject, rows, options.rounds)
            if stages and not CUDA:  # which takes a process of its own
                command = [sys.executable, __file__, "--memory"] + ["--smoke"] * options.smoke
                environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
                peaks = json.loads(done.stdout.splitlines()[-1])
            for name, contestants in stages:
                table = measure_mlps(subject, contestants, peaks.get(name, {}), options.rounds)
                results["mlp"] |= {f"{name}, {one}": figures for one, figures in table.items()}
        write_json(results, options.json)
        del subject, stages
        free()
    for title in ("keys", "head", "mlp"):
        print_table(title, results[title])
    return int(any(figures["verdict"].startswith("failed") for figures in results["mlp"].values()))


if __name__ == "__main__":
    sys.exit(main())

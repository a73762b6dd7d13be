"""What fused pieces of our own could save of a training step: a table of figures a candidate, before any kernel.

    python benchmarks/fused.py [--json OUT] [--rounds 3]    CUDA: Qwen2.5-3B's shape in bf16; CPU: SmolLM2-135M's in fp32
    python benchmarks/fused.py --smoke                      tiny shapes: whether it runs at all

In: nothing; weights and token ids are random, batches are this package's packed ones. Out: three tables, a line with the
verdict for each of their rows, and all of it as JSON. A piece is timed interleaved with the step that it is a piece of
(forward and backward, with gradient checkpointing, no optimizer); ratios are medians of the rounds' ratios.

keys   keys and values gathered inside the attention, not copied. `copies`: copying them in all layers, as varlen
       attention does, twice forward (checkpointing) and once backward, over the step: the most that a kernel saves.
       On the CPU nothing is copied: `spans` is all of SpanAttention over the step, `copied / spans` its twin that copies
       and then attends a branch, and `saves` what the step with copies would have taken longer.
head   the head, the loss and its gradient at the score positions in one pass. `share`: what is behind the body's hidden
       states over the step: the most that one pass saves; `one pass / autograd`: the closed form, checked to 1e-6;
       `saves`: what it saves of the step.
mlp    the MLPs in chunks of tokens, each computed again in the backward pass, beside the model's own MLP: ratios of
       time and of peak memory (beyond weights and gradients) of whole steps, rows with one long pair. `chunks` are a
       loop of checkpoints, `liger` is Liger's tiled MLP, as many tokens a chunk as the hidden size (Liger's default).

On CUDA `copies` and `share` are the device's time alone, since a step of this size hides the launches; "launched" counts
them. Rule: a piece wins if it saves 3 % of the step's time, or 20 % of its peak memory for at most 5 % more time. A bound
says no more than that it may win.
"""

import argparse
import functools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from gpu import TOLERANCE, free, rounded, tried, write
from random_workloads import SHAPES, WORKLOADS, rows_of
from shared_model import CUDA, DEVICE, DTYPE, Setting, Subject
from side_by_side import Contestant, machine, on_device, peak_memory, stepper, synchronize, timed
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2Config

from hf_rewardplug.model.kernels import SpanAttention
from hf_rewardplug.model.layout import TreeLayout

SHAPE = "Qwen2.5-3B" if CUDA else "SmolLM2-135M, 4 layers"
SMALL = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9}
SMALL |= {"num_key_value_heads": 3, "vocab_size": 8192}  # few words: their gradient is not to be the peak of memory
SHAPES.setdefault(SHAPE, (Qwen2Config, SMALL))
LENGTHS = (4096, 16384) if CUDA else (1024, 4096)
REPEATS = 20  # of the head, which is over too soon to be timed once


def piece(name: str, run, repeats: int) -> Contestant:
    return Contestant(name, [{}] * repeats, lambda _: run(), torch.nn.Identity())


def apart(found, expected) -> float:
    """Relative difference of two lists of tensors, all taken for one vector."""
    pairs = [(a.detach().float(), b.detach().to(a.device).float()) for a, b in zip(found, expected, strict=True)]
    return math.sqrt(
        sum((a - b).square().sum().item() for a, b in pairs) / sum(b.square().sum().item() for _, b in pairs)
    )


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


# ---- keys -----------------------------------------------------------------------------------------------------------


def copied_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """SpanAttention's twin: varlen attention's gathered keys and values, and SDPA a branch."""
    index, key_heads = layout.on(query_HTD.device), key_KTD.shape[0]
    query_KGTD = query_HTD.unflatten(0, (key_heads, -1))
    shape = (-1, query_KGTD.shape[1], -1, -1)
    key_KGND, value_KGND = (
        tensor.index_select(1, index["key_index"])[:, None].expand(shape) for tensor in (key_KTD, value_KTD)
    )
    if "branches" not in layout.cache:  # once a forward, as varlen attention's lengths
        sizes = [index[name].diff().tolist() for name in ("cu_seq_q", "cu_seq_k")]
        layout.cache["branches"] = [
            (q, k, None if q == k else torch.ones(q, k, dtype=torch.bool).tril(k - q))
            for q, k in zip(*sizes, strict=True)
        ]
    outputs, q0, k0 = [], 0, 0
    for q, k, mask in layout.cache["branches"]:
        tensors = (query_KGTD[:, :, q0 : q0 + q], key_KGND[:, :, k0 : k0 + k], value_KGND[:, :, k0 : k0 + k])
        outputs.append(F.scaled_dot_product_attention(*tensors, attn_mask=mask, is_causal=mask is None, scale=scale))
        q0, k0 = q0 + q, k0 + k
    return torch.cat(outputs, 2).flatten(0, 1)


def key_pieces(model, batch: dict) -> tuple[list[Contestant], dict]:
    """Copying in all layers and, on the CPU, attention without and with it; and how much is copied."""
    config, tree, length = model.config, batch["prefix_tree"], batch["input_ids"].shape[1]
    layout = TreeLayout(tree["spans"], batch["position_ids"][0], tree["longest"], tree.get("index"))
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    query_THD, key_TKD, value_TKD = leaves = [  # in memory as the projections leave them
        normal(length, count, size, seed=seed).requires_grad_() for seed, count in enumerate(heads)
    ]
    index_N = layout.on(DEVICE)["key_index"]
    gradient_NKD, gradient_HTD = normal(len(index_N), heads[1], size), normal(heads[0], length, size)

    def copy():
        for tensor_TKD in (key_TKD, value_TKD):
            with torch.no_grad():
                tensor_TKD.index_select(0, index_N)
            torch.autograd.grad(tensor_TKD.index_select(0, index_N), tensor_TKD, gradient_NKD)

    def attend(kernel):
        tensors = [tensor.transpose(0, 1) for tensor in leaves]
        with torch.no_grad():
            kernel(*tensors, layout, size**-0.5, None, None)
        output_HTD = kernel(*tensors, layout, size**-0.5, None, None)
        return output_HTD, *torch.autograd.grad(output_HTD, leaves, gradient_HTD)

    layers = config.num_hidden_layers
    pieces = [piece("copies", copy, layers)]
    figures = {"tokens": length, "keys": len(index_N), "copied_MiB": 2 * gradient_NKD.nbytes / 2**20}
    if not CUDA:
        assert apart(attend(SpanAttention.apply), attend(copied_attention)) < 1e-5
        pieces.append(piece("spans", lambda: attend(SpanAttention.apply), layers))
        pieces.append(piece("copied", lambda: attend(copied_attention), layers))
    return pieces, figures


# ---- head -----------------------------------------------------------------------------------------------------------


def pair_slopes(logits_S1: torch.Tensor, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, d loss / d logits) of `bradley_terry_loss`, mean over the pairs."""
    chosen_N, rejected_N = logits_S1[:, 0].chunk(2)
    margins_N = chosen_N - rejected_N
    slopes_N = torch.sigmoid(-margins_N) / len(margins_N)
    return F.softplus(-margins_N).mean(), torch.cat([-slopes_N, slopes_N])[:, None]


def step_slopes(logits_S2: torch.Tensor, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, d loss / d logits) of `step_loss`, mean over the steps."""
    log_probs_S2, right_S = logits_S2.log_softmax(-1), batch["step_labels"]
    target_S2 = torch.stack([1 - right_S, right_S], -1)
    return -(target_S2 * log_probs_S2).sum(-1).mean(), (log_probs_S2.exp() - target_S2) / len(target_S2)


def one_pass(slopes, head, hidden_TD: torch.Tensor, batch: dict) -> list[torch.Tensor]:
    """Loss and gradients of hidden states, weight and bias, in closed form: the candidate."""
    positions_S = batch["score_positions"]
    hidden_SD = hidden_TD[positions_S].float()
    loss, slopes_SC = slopes(F.linear(hidden_SD, head.weight, head.bias), batch)
    rows_SD = (slopes_SC @ head.weight).to(hidden_TD.dtype)
    found = [loss, torch.zeros_like(hidden_TD).index_add_(0, positions_S, rows_SD), slopes_SC.T @ hidden_SD]
    return found if head.bias is None else [*found, slopes_SC.sum(0)]


def by_autograd(trainer, head, hidden_TD: torch.Tensor, batch: dict) -> list[torch.Tensor]:
    """The same as the trainer computes it: its slow twin."""
    losses, _ = trainer.item_losses(head(hidden_TD[batch["score_positions"]]), batch)
    loss = losses.sum() / len(losses)
    return [loss, *torch.autograd.grad(loss, [hidden_TD, *head.parameters()])]


def head_pieces(trainer, batch: dict, kind: str) -> list[Contestant]:
    head, slopes = trainer.model.score, {"orm": pair_slopes, "prm": step_slopes}[kind]
    hidden_TD = normal(batch["input_ids"].shape[1], trainer.model.config.hidden_size).requires_grad_()
    exact_TD = hidden_TD.detach().float().requires_grad_()
    with torch.no_grad():
        closed = one_pass(slopes, head, exact_TD, batch)
    for found, expected in zip(closed, by_autograd(trainer, head, exact_TD, batch), strict=True):
        assert apart([found], [expected]) < 1e-6
    fused = torch.no_grad()(functools.partial(one_pass, slopes, head, hidden_TD, batch))
    twin = functools.partial(by_autograd, trainer, head, hidden_TD, batch)
    return [piece("one pass", fused, REPEATS), piece("autograd", twin, REPEATS)]


def measure_pieces(subject: Subject, kind: str, name: str, rows: list[dict], rounds: int, results: dict) -> None:
    """The row `name` of the tables of keys and of the head."""
    batch = on_device(subject.ours.data_collator(rows), DEVICE)
    step = Contestant("step", [batch], stepper(subject.ours), subject.model, prepare=lambda: subject.prepare(Setting()))
    keys, figures = key_pieces(subject.model, batch)
    contestants = [step, *keys, *head_pieces(subject.ours, batch, kind)]
    time_warm(contestants, rounds)
    launched = {one.name: one.seconds for one in contestants}
    times = {**launched, **{one.name: on_device_alone(one, rounds) for one in contestants[1:] if CUDA}}
    steps, autograd, fused = times["step"], *([t / REPEATS for t in times[name]] for name in ("autograd", "one pass"))
    figures["copies"] = saves = ratio(times["copies"], steps)
    if CUDA:
        figures["launched"] = ratio(launched["copies"], steps)
    else:
        figures["spans"] = ratio(times["spans"], steps)
        figures["copied / spans"] = ratio(times["copied"], times["spans"])
        more = [copied - spans for copied, spans in zip(times["copied"], times["spans"], strict=True)]
        figures["saves"] = saves = ratio(more, [a + b for a, b in zip(steps, more, strict=True)])
    results["keys"][name] = {**figures, "verdict": verdict(1 - saves, bound=CUDA)}
    saves = ratio([a - b for a, b in zip(autograd, fused, strict=True)], steps)
    figures = {"share": ratio(autograd, steps), "one pass / autograd": ratio(fused, autograd), "saves": saves}
    if CUDA:
        figures["launched"] = ratio(launched["autograd"], steps) / REPEATS
    results["head"][name] = {"step_s": statistics.median(steps), **figures, "verdict": verdict(1 - saves)}


def time_warm(contestants: list[Contestant], rounds: int) -> None:
    timed(contestants, 1)
    for contestant in contestants:
        contestant.seconds.clear()
    timed(contestants, rounds)


def on_device_alone(contestant: Contestant, rounds: int) -> list[float]:
    """Seconds without the launches: all are queued while the device waits."""
    seconds = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        synchronize()
        torch.cuda._sleep(100_000_000)  # cycles, some 50 ms
        start.record()
        for batch in contestant.batches:
            contestant.run(batch)
        end.record()
        synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return seconds


def ratio(seconds: list[float], of: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(seconds, of, strict=True))


def verdict(time: float, memory: float = 1.0, bound: bool = False) -> str:
    """By the rule above, from ratios to what there is now."""
    wins = time <= 0.97 or (memory <= 0.8 and time <= 1.05)
    return ("may win" if bound else "wins") if wins else "does not win"


# ---- mlp ------------------------------------------------------------------------------------------------------------


def in_chunks(mlp: torch.nn.Module, hidden_BLD: torch.Tensor) -> torch.Tensor:
    own = functools.partial(type(mlp).forward, mlp)
    parts = hidden_BLD.split(hidden_BLD.shape[-1], dim=1)
    return torch.cat([checkpoint(own, part, use_reentrant=False, preserve_rng_state=False) for part in parts], dim=1)


def by_liger(mlp: torch.nn.Module, hidden_BLD: torch.Tensor) -> torch.Tensor:
    from liger_kernel.ops.tiled_mlp import apply_tiled_mlp

    return apply_tiled_mlp(type(mlp).forward, mlp, hidden_BLD)


def mlp_contestants(subject: Subject, length: int, checkpointing: bool) -> list[Contestant]:
    """Steps over one pair of `length` unique tokens, half of them the prompt."""
    generator, vocabulary = random.Random(0), subject.model.config.vocab_size
    prompt, *answers = ([generator.randrange(10, vocabulary) for _ in range(length // n)] for n in (2, 4, 4))
    row = {name: prompt + answer for name, answer in zip(("chosen_ids", "rejected_ids"), answers, strict=True)}
    batch = on_device(subject.ours.data_collator([row]), DEVICE)
    forwards = {"own": None, "chunks": in_chunks} | ({"liger": by_liger} if find_spec("liger_kernel") else {})

    def prepare(forward):
        subject.prepare(Setting(checkpointing=checkpointing))
        for layer in subject.model.model.layers:
            vars(layer.mlp).pop("forward", None)
            if forward is not None:
                vars(layer.mlp)["forward"] = functools.partial(forward, layer.mlp)

    return [
        Contestant(name, [batch], stepper(subject.ours), subject.model, 1, prepare=functools.partial(prepare, forward))
        for name, forward in forwards.items()
    ]


def measure_mlps(subject: Subject, name: str, contestants: list[Contestant], peaks: dict, options) -> dict:
    """Rows of the table of MLPs. `peaks`: bytes, where another process has measured them."""
    table, expected, found, running = {}, None, {}, []
    for one in contestants:
        reason = tried(one, found, one_peak := {})
        free()
        if reason is not None:
            table[one.name] = {"verdict": reason}
            continue
        peaks[f"{name}, {one.name}"] = peaks.get(f"{name}, {one.name}") or one_peak[one.name] * 2**30
        gradients = [parameter.grad for parameter in subject.model.parameters()]
        expected = expected or [gradient.cpu() for gradient in gradients]
        differs = max(apart(gradients, expected), abs(found[one.name][0] / next(iter(found.values()))[0] - 1))
        table[one.name] = {"differs": differs}
        running.append(one)
    timed(running, options.rounds)
    for one in running:
        figures = {"seconds": one.median, "peak_MiB": peaks[f"{name}, {one.name}"] / 2**20}
        if running[0].name == "own" and one is not running[0]:
            figures["time"] = ratio(one.seconds, running[0].seconds)
            figures["memory"] = figures["peak_MiB"] / table["own"]["peak_MiB"]
            figures["verdict"] = verdict(figures["time"], figures["memory"])
        elif one.name != "own":
            figures["verdict"] = "wins: the model's own is out of memory"
        if table[one.name]["differs"] > TOLERANCE:
            figures["verdict"] = "failed: computes something else"
        table[one.name] |= figures
    return {f"{name}, {one}": figures for one, figures in table.items()}


def mlp_stages(subject: Subject, smoke: bool):
    """(name, contestants) of each length, with and without gradient checkpointing."""
    for length in (64, 256) if smoke else LENGTHS:
        for checkpointing in (True, False):
            name = f"{length} tokens, {'' if checkpointing else 'no '}checkpointing"
            yield name, mlp_contestants(subject, length, checkpointing)


def peaks_in_own_process(options) -> dict[str, int]:
    command = [sys.executable, __file__, "--memory"] + ["--smoke"] * options.smoke
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ---- all ------------------------------------------------------------------------------------------------------------


def workloads(smoke: bool) -> dict[str, tuple[str, list[dict]]]:
    """name -> kind, rows of one batch."""
    vocabulary = 512 if smoke else min(100_000, SHAPES[SHAPE][1]["vocab_size"])
    found = {}
    for kind, number, size in (("orm", 0, 8), ("orm", 2, 8 if CUDA else 3), ("prm", 1, 1)):
        workload = replace(WORKLOADS[kind][number], size=size, batches=1)
        name = workload.name if number != 2 else f"{size} long pairs"
        found[name] = (kind, rows_of(workload, kind, vocabulary, smoke)[0])
    return found


def print_table(results: dict, name: str) -> None:
    rows = results[name]
    columns = list(dict.fromkeys(column for figures in rows.values() for column in figures if column != "verdict"))
    width = max(map(len, rows)) + 2
    print(f"\n{name:{width}}" + "".join(f"{column:>{len(column) + 8 - min(6, len(column) - 1)}}" for column in columns))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes: whether it runs at all")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    results = {"machine": machine(), "shape": SHAPE, "smoke": options.smoke, "keys": {}, "head": {}, "mlp": {}}
    batches = workloads(options.smoke)
    for kind in ("orm", "prm"):
        of_kind = {name: rows for name, (its_kind, rows) in batches.items() if its_kind == kind}
        with tempfile.TemporaryDirectory() as folder:
            subject = Subject(SHAPE, kind, next(iter(of_kind.values())), folder, options.smoke)
            if options.memory:
                stages = mlp_stages(subject, options.smoke)
                print(json.dumps({f"{n}, {one.name}": peak_memory(one) for n, stage in stages for one in stage}))
                return 0
            for name, rows in of_kind.items():
                measure_pieces(subject, kind, name, rows, options.rounds, results)
            if kind == "orm":
                peaks = {} if CUDA else peaks_in_own_process(options)
                for name, contestants in mlp_stages(subject, options.smoke):
                    results["mlp"] |= measure_mlps(subject, name, contestants, peaks, options)
            write(results, options.json)
            del subject
            free()
    for name in ("keys", "head", "mlp"):
        print_table(results, name)
    return int(any("failed" in str(figures.get("verdict")) for figures in results["mlp"].values()))


if __name__ == "__main__":
    sys.exit(main())

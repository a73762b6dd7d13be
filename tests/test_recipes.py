"""The recipes as a user starts them: plain, under both launchers on two CPU processes, on real files, as a demo."""

import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import run_forked
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "accelerate": [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ],
    "fsdp2": [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(torch.cuda.device_count())),
        *("--config_file", str(ROOT / "recipes" / "accelerate" / "fsdp2.yaml"), "--main_process_port", "0"),
    ],
    "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", "29511"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}
LAUNCHES = {
    "ddp": ("accelerate", []),
    "zero2": ("deepspeed", []),  # the launcher's default
    "zero3": ("deepspeed", ["--deepspeed", str(ROOT / "recipes" / "deepspeed" / "zero3.json")]),
}
WRAPPER = str(ROOT / "tests" / "without_compiling.py")
WRAPPERS = {"deepspeed": [WRAPPER], "torchrun": [WRAPPER]}
EVERYDAY = {("orm_gemma", "ddp"), ("prm_qwen", "zero2")}
"""what `make test` starts; test_launchers.py has the other launches on a real model"""

AUTO_CLASS = {"orm_gemma": AutoModelForSequenceClassification, "prm_qwen": AutoModelForTokenClassification}


def start(recipe: str, folder: Path, *arguments: str, launcher: str | None = None) -> tuple[dict, str]:
    """Run a recipe to its end; its eval_results.json and everything that it printed."""
    words = [*arguments, "--output_dir", str(folder / "out"), "--disable_tqdm", "true"]
    if launcher == "accelerate":
        words += ["--use_cpu", "true"]
    script = ROOT / "recipes" / f"{recipe}.py"
    if launcher is None:
        printed = run_forked(run_script, str(script), words, log=folder / "printed.log", cwd=folder)
    else:
        starter = [*LAUNCHERS[launcher], *WRAPPERS.get(launcher, ())]
        printed = launch([*starter, str(script), *words], folder, cpu=launcher not in ("torchrun", "fsdp2"))
    for name in ("model.safetensors", "config.json", "tokenizer.json", "training.png", "trainer_state.json"):
        assert (folder / "out" / name).stat().st_size > 100, name
    AUTO_CLASS[recipe].from_pretrained(folder / "out")
    AutoTokenizer.from_pretrained(folder / "out")
    return json.loads((folder / "out" / "eval_results.json").read_text()), printed


def run_script(script: str, words: list[str]) -> None:
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def launch(command: list[str], folder: Path, *, cpu: bool) -> str:
    """Run a launcher's command to its end; everything that it printed. `cpu` tells DeepSpeed to take no GPU."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(folder / "cache"),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    if not cpu:
        del environment["DS_ACCELERATOR"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def baselines(printed: str) -> list[float]:
    lines = [line for line in printed.splitlines() if "the longer one wins" in line or "the majority label" in line]
    return [float(re.search(r"([\d.]+)\s*$", line)[1]) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["orm_gemma", pytest.param("prm_qwen", marks=pytest.mark.matrix)])
def test_the_demo_learns(recipe, tmp_path):
    figures, printed = start(recipe, tmp_path, "--demo")
    assert figures["eval_accuracy"] >= 0.95
    if recipe == "prm_qwen":
        assert figures["eval_f1_wrong"] >= 0.95
    (baseline,) = baselines(printed)
    assert 0.4 <= baseline <= 0.6
    assert "Three held-out examples" in printed and "before" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "launch"),
    [
        pytest.param(*cell, marks=() if cell in EVERYDAY else pytest.mark.matrix)
        for cell in itertools.product(AUTO_CLASS, LAUNCHES)
    ],
)
def test_two_packed_ranks_train_as_one_padded_process(recipe, launch, tmp_path):
    assert_two_packed_ranks_train_as_one_padded_process(recipe, *LAUNCHES[launch], tmp_path)


@pytest.mark.slow
def test_zero3_under_torchrun_on_the_cpu(tmp_path):
    """PITFALLS 28: torchrun neither names DeepSpeed's accelerator nor sets gloo up; the recipe does."""
    assert_two_packed_ranks_train_as_one_padded_process("orm_gemma", "torchrun", LAUNCHES["zero3"][1], tmp_path)


def assert_two_packed_ranks_train_as_one_padded_process(
    recipe: str, launcher: str, ranks_only: list[str], tmp_path: Path
) -> None:
    arguments = ["--demo", "--max_steps", "2", "--logging_steps", "1", "--eval_strategy", "no", "--eval_on_start", "no"]
    runs = {}
    for name, batch, more, options in (
        ("two", "4", ranks_only, {"launcher": launcher}),
        ("one", "8", ["--prefix_sharing", "false"], {}),
    ):
        (tmp_path / name).mkdir()
        start(recipe, tmp_path / name, *arguments, "--per_device_train_batch_size", batch, *more, **options)
        state = json.loads((tmp_path / name / "out" / "trainer_state.json").read_text())
        runs[name] = [log for log in state["log_history"] if "loss" in log]
    for two, one in zip(runs["two"], runs["one"], strict=True):
        for key in ("loss", "grad_norm", "num_tokens", "accuracy"):
            assert two[key] == pytest.approx(one[key], rel=2e-4), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", AUTO_CLASS)
def test_fsdp2_as_accelerate_shards_keeps_the_head_in_fp32(recipe, tmp_path):
    figures, _ = start(recipe, tmp_path, "--demo", "--bf16", "true", launcher="fsdp2")
    assert figures["eval_accuracy"] >= 0.95
    head = load_file(tmp_path / "out" / "model.safetensors")["score.weight"]
    assert head.dtype == torch.float32 and not torch.equal(head, head.bfloat16().float())
    if recipe == "orm_gemma":  # bf16 has too few distinct values for 400 pairs of rewards
        assert figures["eval_ties"] < 0.01


@pytest.mark.slow
def test_an_orm_on_real_preferences(assets, tmp_path):
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    (tmp_path / "config.yaml").write_text(
        f"chat_template_path: {template}\nmax_steps: 6\nmax_length: 512\nlearning_rate: 1.0e-3\n"
    )
    figures, printed = start(
        "orm_gemma",
        tmp_path,
        *("--config", str(tmp_path / "config.yaml"), "--model_name_or_path", str(assets / "stories260K")),
        *("--dataset_name", str(assets / "pandalm" / "test.jsonl"), "--max_eval_rows", "16"),
        *("--max_train_rows", "60", "--gradient_accumulation_steps", "1"),
    )
    assert 0 <= figures["eval_accuracy"] <= 1 and figures["eval_std_reward"] > 0
    assert "longer than max_length=512" in printed


@pytest.mark.slow
def test_a_prm_on_real_steps(assets, tmp_path):
    figures, printed = start(
        "prm_qwen",
        tmp_path,
        *("--model_name_or_path", str(assets / "stories260K")),
        *("--dataset_name", str(assets / "prm800k_val" / "val.jsonl"), "--max_train_rows", "60"),
        *("--eval_dataset_name", str(assets / "processbench" / "gsm8k.jsonl"), "--max_eval_rows", "16"),
        *("--max_steps", "6", "--max_length", "512", "--gradient_accumulation_steps", "1", "--learning_rate", "1e-3"),
    )
    assert 0 < figures["eval_loss"] < 3 and {"eval_accuracy", "eval_f1_wrong"} <= set(figures)
    assert "solutions" in printed

"""Under every launcher a run is that of one process, its checkpoints are complete, and it goes on from them.

PITFALLS 1, 2, 27 and 30: gradients times ranks, checkpoints without a head, counters that restart. No ZeRO run sets
`use_cpu`, which switches DeepSpeed off.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import launched_run
import psutil
import pytest
import torch
import transformers
from packaging.version import Version
from peft import PeftModel
from ranks import free_port, run_forked
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from hf_rewardplug.model.loading import ADAPTER_MODEL_CONFIG

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--max_restarts", "0"),
]
ZERO = {
    "zero1": [1, None, None],
    "zero2": [2, None, None],
    "zero3": [3, None, None],
    "zero3_offload": [3, "cpu", "cpu"],
}
"""recipes/deepspeed/*.json: stage, device of the optimizer's states, device of the parameters"""

CPU_ADAM_ROUNDING = 1e-5
"""DeepSpeedCPUAdam multiplies up its betas' powers step by step in fp32, and asks `pow` for them when it resumes"""

CLASSES = {"orm": (AutoModelForSequenceClassification, 1), "prm": (AutoModelForTokenClassification, 2)}
TUNINGS = ("full", "lora")


def cells(everyday: set[str], *factors) -> list:
    """Every combination, with whether its launcher starts the ranks. The launchers themselves, which import everything
    several times, are left to `make test-all`; every day some of the combinations run on forked ranks."""
    names = ["-".join(cell) for cell in itertools.product(*factors)]
    assert everyday <= set(names)
    return [
        *(pytest.param(*name.split("-"), False, id=f"{name}-forked") for name in names if name in everyday),
        *(pytest.param(*name.split("-"), True, id=name, marks=pytest.mark.matrix) for name in names),
    ]


def skip_without_resume(launcher: str) -> None:
    """Only on CPUs: the optimizer is to be loaded onto "cpu:0", a device that torch.load does not know."""
    if launcher == "ddp" and Version(transformers.__version__) < Version("5.18"):
        pytest.skip("transformers before 5.18 cannot resume on several CPU ranks")


def launch(
    launcher: str, runs: list[dict], folder: Path, *, launched: bool = False, dies: bool = False, script=launched_run
) -> None:
    """Do the runs on two ranks, unless "plain". The launcher starts them, or they are forked."""
    file = folder / f"{Path(runs[-1]['output_dir']).name}-runs.json"
    file.write_text(json.dumps([{**run, **options(launcher)} for run in runs]))
    log = file.with_suffix(".log")
    if launched and launcher != "plain":
        launch_script(launcher, Path(script.__file__), file, log, dies)
    else:
        run_forked(script.main, str(file), ranks=1 if launcher == "plain" else 2, log=log, dies=dies)


def launch_script(launcher: str, script: Path, file: Path, log: Path, dies: bool) -> None:
    """Start the launcher, and see to it that no process stays behind."""
    port = free_port()
    if launcher == "ddp":
        starter = [*ACCELERATE, "--main_process_port", port]
    else:
        starter = [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", port]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    with log.open("w") as output:
        process = subprocess.Popen([*starter, str(script), str(file)], stdout=output, stderr=output, env=environment)
        try:
            status = process.wait(timeout=600)
        finally:
            for left in psutil.process_iter(["cmdline"]):
                if str(file) in (left.info["cmdline"] or ()):
                    left.kill()
    assert (status != 0) is dies, log.read_text()[-5000:]


def options(launcher: str) -> dict:
    """The arguments of `launched_run.run` that a launcher decides: as many rows a micro-batch on one rank as on two."""
    zero = {"deepspeed": str(ROOT / "recipes" / "deepspeed" / f"{launcher}.json")} if launcher in ZERO else {}
    return {"batch_size": 4 if launcher == "plain" else 2, **zero}


def result(folder: Path, launcher: str, *, steps: int) -> dict:
    """What a run wrote, which must have trained so many steps, under the launcher that it was meant to be under."""
    found = json.loads(folder.with_suffix(".json").read_text())
    assert found["ranks"] == (1 if launcher == "plain" else 2)
    assert found["zero"] == ZERO.get(launcher)
    assert found["steps"] == steps
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def assert_equal_weights(found: Path, expected: Path, **tolerance) -> None:
    torch.testing.assert_close(weights(found), weights(expected), **tolerance)


def assert_same_logs(found: dict, expected: dict, *, rel: float) -> None:
    """Every figure but the speed."""
    for log, expected_log in zip(found["logs"], expected["logs"], strict=True):
        timeless = [
            {key: value for key, value in one.items() if "per_second" not in key} for one in (log, expected_log)
        ]
        assert timeless[0] == pytest.approx(timeless[1], rel=rel, abs=rel), log["step"]


@pytest.fixture(scope="module")
def one_process(assets, tmp_path_factory):
    """`one_process("orm", "lora")`: folder of the run that every launch must repeat."""
    folder = tmp_path_factory.mktemp("one_process")

    def train(kind: str, tuning: str) -> Path:
        output_dir = folder / f"{kind}-{tuning}"
        if not output_dir.exists():
            launch("plain", [four_steps(assets, kind, tuning, output_dir)], folder)
        return output_dir

    return train


def four_steps(assets: Path, kind: str, tuning: str, output_dir: Path, **more) -> dict:
    steps = {"max_steps": 4, "save_steps": 2, "lora": tuning == "lora"}
    return {"kind": kind, "model": str(assets / "stories260K"), "output_dir": str(output_dir), **steps, **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "kind", "tuning", "launched"),
    cells(
        {
            "ddp-orm-lora",
            "zero1-prm-lora",
            "zero2-orm-full",
            "zero3-prm-lora",
        },
        ("ddp", *ZERO),
        CLASSES,
        TUNINGS,
    ),
)
def test_two_ranks_are_one_process(launcher, kind, tuning, launched, assets, one_process, tmp_path):
    skip_without_resume(launcher)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    checkpoint = str(whole / "checkpoint-2")
    launch(
        launcher,
        [
            four_steps(assets, kind, tuning, whole),
            four_steps(assets, kind, tuning, resumed, checkpoint=checkpoint),
        ],
        tmp_path,
        launched=launched,
    )
    expected, found = result(one_process(kind, tuning), "plain", steps=4), result(whole, launcher, steps=4)
    for log, expected_log in zip(found["logs"], expected["logs"], strict=True):
        for key in ("loss", "grad_norm", "accuracy", "num_tokens"):
            assert log[key] == pytest.approx(expected_log[key], rel=2e-5), (key, log["step"])
    for saved in ("checkpoint-2", "checkpoint-4", "final"):
        assert_equal_weights(whole / saved, one_process(kind, tuning) / saved, rtol=1e-4, atol=1e-5)
    assert_complete(whole / "checkpoint-2", kind, tuning, assets / "stories260K", found["scored_rows"])
    rounding = CPU_ADAM_ROUNDING if launcher == "zero3_offload" else 1e-7
    assert_same_logs(result(resumed, launcher, steps=2), found, rel=rounding)
    for saved in ("checkpoint-4", "final"):
        assert_equal_weights(resumed / saved, whole / saved, rtol=rounding, atol=1e-7)


def assert_complete(checkpoint: Path, kind: str, tuning: str, base: Path, scored_rows: list[dict]) -> None:
    """Plain transformers and PEFT load the folder, and score as the trainer did when it saved it."""
    auto_class, labels = CLASSES[kind]
    (head,) = (tensor for name, tensor in weights(checkpoint).items() if name.endswith("score.weight"))
    assert head.shape == (labels, 64)
    if tuning == "lora":
        model = PeftModel.from_pretrained(auto_class.from_pretrained(base, num_labels=labels), checkpoint)
    else:
        model, loading = auto_class.from_pretrained(checkpoint, output_loading_info=True)
        assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.eval()
    for row in scored_rows:
        with torch.no_grad():
            logits = model(torch.tensor([row["ids"]])).logits
        scores = logits[0, row["positions"]] if kind == "prm" else logits
        torch.testing.assert_close(scores, torch.tensor(row["scores"]), rtol=1e-5, atol=1e-5)
    config = json.loads((checkpoint / ("config.json" if tuning == "full" else ADAPTER_MODEL_CONFIG)).read_text())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert config["rewardplug"]["kind"] == kind


@pytest.mark.slow
@pytest.mark.matrix
def test_a_head_of_another_name_arrives_under_zero_3(assets, tmp_path):
    base, foreign = assets / "stories260K", tmp_path / "foreign"
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(foreign)
    AutoTokenizer.from_pretrained(base).save_pretrained(foreign)
    renamed = {key.replace("score.", "v_head.summary."): value for key, value in weights(foreign).items()}
    save_file(renamed, foreign / "model.safetensors", metadata={"format": "pt"})
    found = {}
    for launcher in ("plain", "zero3"):
        folder = tmp_path / launcher
        launch(
            launcher,
            [{**four_steps(assets, "orm", "full", folder), "model": str(foreign), "max_steps": 2}],
            tmp_path,
            launched=True,
        )
        found[launcher] = result(folder, launcher, steps=2)
    for log, expected in zip(found["zero3"]["logs"], found["plain"]["logs"], strict=True):
        assert log["loss"] == pytest.approx(expected["loss"], rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "kind", "launched"),
    cells({"plain-orm", "ddp-prm"}, ("plain", "ddp", "zero2", "zero3"), CLASSES),
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(launcher, kind, launched, assets, tmp_path):
    """kill -9 between the micro-batches of step 4 of 6, on the last rank; step 3 was saved."""
    skip_without_resume(launcher)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs = [four_steps(assets, kind, "full", folder, max_steps=6, save_steps=3) for folder in (whole, killed)]
    launch(launcher, [runs[0], {**runs[1], "kill_in_step": 4}], tmp_path, launched=launched, dies=True)
    assert [path.name for path in killed.glob("checkpoint-*")] == ["checkpoint-3"]
    assert (killed / "killed").exists() and not (killed / "final").exists()
    launch(launcher, [runs[1]], tmp_path, launched=launched)
    expected, found = result(whole, launcher, steps=6), result(killed, launcher, steps=3)
    rounding = 0 if launcher == "plain" else 1e-7
    assert_same_logs(found, expected, rel=rounding)
    for saved in ("checkpoint-6", "final"):
        assert_equal_weights(killed / saved, whole / saved, rtol=0, atol=rounding)

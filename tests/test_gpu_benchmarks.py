"""benchmarks/gpu*.py: that they start anywhere, and that what fails costs itself alone. Nothing here needs a GPU."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def folder_of_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name, value in (("CUDA_VISIBLE_DEVICES", "0"), ("KINETO_LOG_LEVEL", "99")):  # which the scripts set for good
        monkeypatch.setenv(name, os.environ.get(name, value))


@pytest.fixture
def parts():
    return importlib.import_module("parts")  # from the folder of the benchmarks, as their scripts do


@pytest.fixture
def script(tmp_path):
    """`script(text)`: a file with this work to do as a part."""

    def write(text: str) -> str:
        path = tmp_path / f"script_{len(list(tmp_path.glob('script_*')))}.py"
        head = f"import os, sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom parts import as_part, record\n"
        path.write_text(f"{head}with as_part() as seconds:\n    {text}\n", encoding="utf-8")
        return str(path)

    return write


# ---- processes ------------------------------------------------------------------------------------------------------


def test_what_crashes_raises_or_hangs_costs_itself_alone(parts, script, monkeypatch, capfd):
    monkeypatch.setattr(parts, "LEAST", 0)
    crash = parts.Part("crash", [script("record(before=1); os.abort()")])
    error = parts.Part("error", [script("raise ValueError('no such kernel\\nand more')")])
    hang = parts.Part("hang", [script("import threading; threading.Event().wait()")], seconds=0.5)
    fine = parts.Part("fine", [script("print('printed', flush=True); record(after=seconds)")], seconds=100)
    done = parts.run_parts([[crash, error], [hang], [fine]])
    assert [part.name for part in done] == ["crash", "error", "hang", "fine"]
    assert crash.failure == "ended by SIGABRT" and crash.recorded("before") == 1
    assert error.failure == "ValueError: no such kernel"
    assert hang.failure.startswith("stopped after")
    assert fine.failure is None and fine.recorded("after") == 100
    assert all(part.process.poll() is not None for part in done)
    assert "printed" in capfd.readouterr().out


@pytest.mark.parametrize("alone", [False, True])
def test_the_next_part_is_launched_early_and_waits(parts, script, tmp_path, alone):
    mark, launched = tmp_path / "mark", []
    second = parts.Part("second", [script(f"record(waited=os.path.exists({str(mark)!r}))")])
    first = parts.Part("first", [script(f"open({str(mark)!r}, 'w').close()")], alone=alone)
    first.finished = lambda part: launched.append(second.process is not None)
    parts.run_parts([[first], [second]])
    assert second.recorded("waited") is True and launched == [not alone]


def test_a_part_without_time_is_skipped_and_leaves_no_process(parts, script):
    late = parts.Part("late", [script("record(ran=True)")], until=-math.inf)
    parts.run_parts([[late]])
    assert late.skipped and late.failure == "skipped, the time was used up" and late.recorded("ran") is None
    assert late.process.poll() is not None


# ---- stages ---------------------------------------------------------------------------------------------------------


def test_the_stages_that_answer_the_most_come_first():
    gpu, workloads = importlib.import_module("gpu"), importlib.import_module("random_workloads")
    stages = [stage for group in gpu.GROUPS for stage in group.stages]
    assert stages[:4] == [
        "Qwen2.5-3B, 8 pairs",
        "Gemma-2-2b, 8 pairs",
        "Qwen2.5-3B, tree of steps",
        "Qwen2.5-3B, 32 pairs",
    ]
    assert "Qwen2.5-3B, 8 pairs, fp32 weights" in stages and "Qwen2.5-0.5B, 8 pairs" in stages
    assert len(stages) == len(set(stages))
    for group in gpu.GROUPS:
        assert group.shape in workloads.SHAPES
        assert {*group.workloads} <= {workload.name for workload in workloads.WORKLOADS[group.kind]}


FAKE_STAGES = """
    argv = sys.argv
    record(machine={"device": "none"})
    record(trying="trl")
    if "Gemma-2-2b" in argv:
        record(trying=None)
        os.abort()
    if "orm" in argv and "--default" not in argv:
        record(trying="Liger")
        if "--without=Liger" not in argv:
            os.abort()
    record(trying=None)
    name = ", ".join(argv[1:4:2]) + (", fp32 weights" if "--default" in argv else "")
    record(stage=name, figures={"kernel": "none", "contestants": {}, "notes": {"others": "not run"}})
"""


def test_a_contestant_or_a_group_that_crashes_costs_itself_alone(parts, script, tmp_path):
    gpu = importlib.import_module("gpu")
    benchmark = gpu.Benchmark(True, math.inf, str(tmp_path / "gpu.json"), script(FAKE_STAGES.strip()))
    parts.run_parts(benchmark.parts())
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["failed"] == {"Gemma-2-2b, 8 pairs": "ended by SIGABRT"}
    notes = {name: stage["notes"] for name, stage in results["stages"].items()}
    assert notes == {
        "Qwen2.5-3B, 8 pairs": {"others": "not run", "Liger": "failed: ended by SIGABRT"},
        "Qwen2.5-3B, tree of steps": {"others": "not run"},
        "Qwen2.5-3B, 8 pairs, fp32 weights": {"others": "not run"},
    }
    assert results["machine"] == {"device": "none"} and benchmark.failed


class OneWeight:
    """The subject of contestants whose model has one weight, and twice that weight as its loss."""

    dtype, body = torch.float32, 1

    def __init__(self):
        self.model = torch.nn.Linear(1, 1, bias=False)

    def contestant(self, name: str, run=None):
        side_by_side = importlib.import_module("side_by_side")

        def step(batch):
            loss = 2 * self.model.weight.sum()
            loss.backward()
            return loss.detach()

        batch = {"input_ids": torch.zeros(1, 4, dtype=torch.long)}
        return side_by_side.Contestant(name, [batch], run or step, self.model, pairs=1)


def fails(batch):
    raise ValueError("no kernel")


def test_a_contestant_that_fails_has_a_note_and_the_others_have_figures():
    stages, subject, notes = importlib.import_module("gpu_stages"), OneWeight(), {}
    contestants = [subject.contestant("trl"), subject.contestant("Liger", fails), subject.contestant("hf_rewardplug")]
    table = stages.measured(subject, contestants, notes, 0.0)
    assert [*table] == ["trl", "hf_rewardplug"] and notes == {"Liger": "failed: ValueError: no kernel"}
    assert table["hf_rewardplug"]["times_as_slow"] == 1 and table["hf_rewardplug"]["disagreement"] == 0


def test_a_lost_device_ends_the_stage_and_names_the_contestant(parts, monkeypatch, tmp_path):
    stages, subject = importlib.import_module("gpu_stages"), OneWeight()

    def lost():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(stages, "synchronize", lost)
    monkeypatch.setattr(parts, "RECORDS", str(tmp_path / "records"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        stages.measured(subject, [subject.contestant("trl"), subject.contestant("Liger", fails)], {}, 0.0)
    last = (tmp_path / "records").read_text().splitlines()[-1]
    assert json.loads(last) == {"trying": "Liger"}


def names_and_notes(folder: Path) -> tuple[set[str], dict[str, str]]:
    """The contestants for a batch of two pairs, and why others do not run."""
    stages, gpu = importlib.import_module("gpu_stages"), importlib.import_module("gpu")
    workloads = importlib.import_module("random_workloads")
    batches = workloads.rows_of(workloads.Workload("2 pairs", 2, 1, 40, 20), "orm", 512, True)
    subject = stages.Subject("Qwen2.5-3B", "orm", batches[0], str(folder), smoke=True)
    contestants, missing = stages.contestants_of(subject, batches, gpu.GROUPS[0], ["dense"])
    return {contestant.name for contestant in contestants}, missing


def test_liger_that_cannot_patch_the_model_is_missing_alone(monkeypatch, tmp_path):
    shared = importlib.import_module("shared_model")
    monkeypatch.setattr(shared, "liger_can_run", lambda: True)
    monkeypatch.setattr(shared, "Liger", fails)
    names, missing = names_and_notes(tmp_path)
    assert missing["Liger"] == "failed: ValueError: no kernel"
    assert {"trl", "hf_rewardplug"} <= names and not {"Liger", "dense"} & names


def test_without_trl_the_others_run_and_a_note_says_why(monkeypatch, tmp_path):
    shared = importlib.import_module("shared_model")
    monkeypatch.setattr(shared, "trainer_classes", lambda: fails(None))
    names, missing = names_and_notes(tmp_path)
    assert missing["trl"] == "not run: TRL cannot be imported (ValueError: no kernel)"
    assert {"hf_rewardplug", "padding-free", "prefix_sharing=False"} <= names and "trl" not in names


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_the_plain_step_is_the_trainers(kind, tmp_path):
    """Loss and gradient norm of TRL's trainer (steps: of this package's with padded batches) on the same weights."""
    shared, side_by_side = importlib.import_module("shared_model"), importlib.import_module("side_by_side")
    workloads = importlib.import_module("random_workloads")
    rows = workloads.rows_of(workloads.Workload("3 rows", 3, 1, 60, 30), kind, 512, True)[0]
    plain = shared.Subject("Qwen2.5-3B", kind, rows, str(tmp_path), smoke=True, plain=True)
    subject = shared.Subject("Qwen2.5-3B", kind, rows, str(tmp_path), smoke=True)
    assert isinstance(plain.ours, shared.PlainTrainer) and not isinstance(subject.ours, shared.PlainTrainer)
    trainer, collator = subject.trl, subject.trl and subject.trl.data_collator
    if kind == "prm":
        trainer, collator = subject.ours, type(subject.ours.data_collator)(0)
    subject.prepare(shared.Setting(tree=False))
    results = [
        side_by_side.Contestant("", [collate(rows)], side_by_side.stepper(one), one.model).step()
        for one, collate in ((trainer, collator), (plain.ours, plain.ours.data_collator))
    ]
    assert side_by_side.disagreement(*results) < 1e-5


# ---- figures --------------------------------------------------------------------------------------------------------


def test_reads_of_values_and_operations_are_counted():
    figures = importlib.import_module("device_figures")
    one = torch.ones(1)
    assert figures.host_waits(lambda: [one.item() for _ in range(3)]) == (0 if torch.cuda.is_available() else 3)
    assert figures.launches(lambda: torch.add(one, one)) == (0 if torch.cuda.is_available() else 1)
    enqueued, whole = figures.enqueued_and_whole(lambda: torch.add(one, one), 1)
    assert 0 < enqueued <= whole


def test_a_kernel_that_is_wrong_is_named(monkeypatch, capsys):
    kernels = importlib.import_module("gpu_kernels")
    heads, right = kernels.Heads(torch.device("cpu"), torch.float32, 4, 2, 16, 16, 0.25), kernels.kernels.span_attention
    monkeypatch.setattr(kernels.kernels, "span_attention", lambda *args: 1.1 * right(*args))
    monkeypatch.setattr(kernels, "cases", lambda kernel, dims: [heads])
    with pytest.raises(RuntimeError, match="1 cases are wrong or fail, the first: span_attention 4/2 heads 16 wide"):
        kernels.say_errors("span_attention", [16])
    assert "WRONG" in capsys.readouterr().out


def test_pytests_report_is_read(tmp_path):
    tests = importlib.import_module("gpu_tests")
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><skipped message="no GPU"/></testcase>'
        '<testcase name="c[flex]"><failure message="assert 1 == 2&#10;more">text</failure></testcase>'
        '<testcase name="d"><error message="failed on setup"/></testcase></testsuite></testsuites>'
    )
    assert tests.read_report(report) == {
        "counts": {"passed": 1, "skipped": 1, "failed": 2},
        "skipped": {"no GPU": 1},
        "failed_tests": {"c[flex]": "assert 1 == 2", "d": "failed on setup"},
    }


# ---- whole runs -----------------------------------------------------------------------------------------------------

NOT_INSTALLED = f"""
import sys
sys.path = [folder for folder in sys.path if folder != {str(ROOT)!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path.insert(0, {str(BENCHMARKS)!r})
import importlib.util
assert importlib.util.find_spec("hf_rewardplug") is None
import gpu, gpu_all, gpu_probe
assert "torch" not in sys.modules  # they only start processes
import gpu_ceilings, gpu_kernels, gpu_stages, gpu_steps, gpu_tests
import hf_rewardplug
print(hf_rewardplug.__file__)
"""


@pytest.mark.slow
def test_all_can_be_imported_elsewhere_without_an_installed_package(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command, options = [sys.executable, "-c", NOT_INSTALLED], {"capture_output": True, "text": True}
    done = subprocess.run(command, cwd=tmp_path, env=environment, **options)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[-1]) == ROOT / "hf_rewardplug" / "__init__.py"


@pytest.mark.matrix
def test_the_one_command_runs_to_its_end(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path)}
    command = [sys.executable, str(BENCHMARKS / "gpu_all.py"), "--smoke"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results = json.loads((tmp_path / "gpu_all.json").read_text())
    assert [*results["benchmark"]["stages"]] == [
        "Qwen2.5-3B, 8 pairs",
        "Gemma-2-2b, 8 pairs",
        "Qwen2.5-3B, tree of steps",
        "Qwen2.5-3B, 8 pairs, fp32 weights",
    ]
    assert not any(part["failure"] for part in results["parts"].values())
    assert {"device", "default step of Qwen2.5-3B", "kernel tests", "flex tests", "hot path"} <= {*results["parts"]}
    assert "==== summary" in done.stdout

"""One optimizer step has one loss, and one eval set one figure, whatever the micro-batches, ranks and streaming.

PITFALLS 1, 2, 14, 15 and 18: gradients times accumulation steps or processes, metrics that change with the split.
"""

import json
from pathlib import Path

import pytest
import split_run
from ranks import run_forked


def run(kind: str, batch_size: int, accumulation: int, model: Path, folder: Path, *flags: str, ranks: int = 1) -> dict:
    out = folder / f"{kind}-{batch_size}-{accumulation}-{ranks}{''.join(flags)}.json"
    words = (kind, str(batch_size), str(accumulation), str(model), str(out), *flags)
    run_forked(split_run.main, words, ranks=ranks, log=out.with_suffix(".log"))
    result = json.loads(out.read_text())
    assert result["ranks"] == ranks
    return result


def assert_same_run(found: dict, expected: dict, what: str) -> None:
    for log, expected_log in zip(found["logs"], expected["logs"], strict=True):
        for key in ("loss", "grad_norm", "accuracy", "num_tokens"):
            assert log[key] == pytest.approx(expected_log[key], rel=1e-5), (what, key)
    assert found["eval"] == pytest.approx(expected["eval"], rel=1e-5, abs=1e-6), what
    assert found["weights"] == pytest.approx(expected["weights"], rel=1e-6), what


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_a_step_is_the_same_on_every_split(kind, assets, tmp_path):
    model = assets / "stories260K"
    whole = run(kind, 8, 1, model, tmp_path, "--padded")
    others = {
        "4x2": run(kind, 4, 2, model, tmp_path),
        "2x4": run(kind, 2, 4, model, tmp_path),
        "1x8": run(kind, 1, 8, model, tmp_path, "--streaming"),
        "2 ranks of 2x2": run(kind, 2, 2, model, tmp_path, "--evaluate_first", ranks=2),
        "2 ranks of 4x1, streaming": run(kind, 4, 1, model, tmp_path, "--streaming", ranks=2),
    }
    for split, other in others.items():
        assert_same_run(other, whole, split)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lists", "outcomes"])
def test_weights_and_outcomes_count_over_the_whole_step(kind, assets, tmp_path):
    """What a loss is divided by is no number of rows: weights from 0 to 2, solutions of some steps."""
    model = assets / "stories260K"
    whole = run(kind, 8, 1, model, tmp_path, "--padded")
    assert_same_run(run(kind, 2, 4, model, tmp_path), whole, "2x4")
    assert_same_run(run(kind, 2, 2, model, tmp_path, ranks=2), whole, "2 ranks of 2x2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["orm", pytest.param("prm", marks=pytest.mark.matrix)])
def test_batches_by_tokens_are_one_step_on_two_ranks(kind, assets, tmp_path):
    model = assets / "stories260K"
    two = run(kind, 4, 1, model, tmp_path, "--tokens", ranks=2)
    one = run(kind, 4, 2, model, tmp_path, "--tokens", "--planned_for_two")
    assert_same_run(two, one, "two ranks")

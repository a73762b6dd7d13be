"""Two thousand steps with evaluation and saving hold no more at the end than behind the warm-up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("long_run.py")


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_memory_is_flat(kind, assets, tmp_path):
    command = [sys.executable, str(SCRIPT), kind, str(assets / "stories260K"), str(tmp_path / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows[-1]["step"] == 2000
    warm = [row for row in rows if row["step"] >= 500]
    resident = [row["resident_mib"] for row in warm]
    assert max(resident) <= 1.02 * resident[0], resident
    assert len({row["tensors"] for row in warm}) == 1, [row["tensors"] for row in warm]
    assert {row["evaluated"] for row in rows} == {0}
    checkpoints = list((tmp_path / kind).glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-2000"]

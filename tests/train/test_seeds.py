"""The seed decides everything: two processes with it end with the same bits, whatever Python's hash seed is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import seeded_run
from ranks import run_forked


def run_with_another_hash_seed(*arguments) -> dict:
    """In a new interpreter, which orders sets of texts otherwise than the server of the forked processes."""
    script = Path(seeded_run.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2]), "PYTHONHASHSEED": "1"}
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def run(model, folder, seed: int) -> dict:
    words = list(map(str, (model, folder, seed)))
    return json.loads(run_forked(seeded_run.main, words, log=folder / f"{seed}.log").splitlines()[-1])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_another_process(assets, tmp_path):
    model = assets / "stories260K"
    one, two, other = run_with_another_hash_seed(model, tmp_path, 7), run(model, tmp_path, 7), run(model, tmp_path, 8)
    assert one == two
    for name, found in one.items():
        for key in ("head", "losses", "weights"):
            assert found[key] != other[name][key], (name, key)
        assert "workers" in name or found["order"] != other[name]["order"], name

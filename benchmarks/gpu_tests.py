"""Some of the project's tests as a part: a script of its own, so that its start takes no time of the device's.

In: pytest's arguments. Out: pytest's own report, and as records how many passed, why others were skipped, what failed.
"""

import os
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers  # noqa: F401  (before the start)
from parts import FOLDER, as_part, record

if torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "0"  # whether or not `tests/conftest.py` finds `nvidia-smi`


def read_report(path: Path) -> dict:
    """pytest's JUnit file: counts, reasons for skips, and the first line of what failed, by test."""
    counts, skipped, failed = Counter(), Counter(), {}
    for case in ElementTree.parse(path).iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        message = "" if outcome is None else (outcome.get("message") or "").strip().split("\n")[0][:300]
        if outcome is None:
            counts["passed"] += 1
        elif outcome.tag == "skipped":
            counts["skipped"] += 1
            skipped[message] += 1
        else:
            counts["failed"] += 1
            failed[case.get("name")] = message
    return {"counts": dict(counts), "skipped": dict(skipped), "failed_tests": failed}


def main() -> None:
    os.chdir(FOLDER.parent)
    sys.path.insert(0, str(FOLDER.parent))  # the package, where it is not installed
    with as_part(), tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        options = ["--junitxml", str(report), "-p", "no:cacheprovider", "--tb=short", "-rs"]
        status = pytest.main([*sys.argv[1:], *options])
        record(**read_report(report))
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise RuntimeError(f"pytest ended with {pytest.ExitCode(status).name}")


if __name__ == "__main__":
    main()

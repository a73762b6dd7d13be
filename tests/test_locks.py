"""A lock on a file is held by one process, ends with it, and is of no use once the file is another."""

import subprocess
import sys

import pytest

from hf_rewardplug.locks import HAS_LOCKS, is_still_at, lock_file

pytestmark = pytest.mark.skipif(not HAS_LOCKS, reason="the system has no locks on files")

HOLDER = """import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_is_locked_until_the_process_that_holds_it_is_dead(tmp_path):
    path = tmp_path / "scores.jsonl"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with open(path, "ab") as file:
            with pytest.raises(BlockingIOError):
                lock_file(file)
            holder.kill()
            holder.wait()
            lock_file(file)


def test_a_file_that_was_removed_or_replaced_is_another(tmp_path):
    path = tmp_path / "scores.jsonl"
    with open(path, "ab") as file:
        assert is_still_at(path, file)
        path.unlink()
        assert not is_still_at(path, file)
        path.write_text("")
        assert not is_still_at(path, file)

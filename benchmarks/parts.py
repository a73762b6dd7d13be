"""Parts of a measurement, each in a process of its own: what crashes, hangs or loses the device costs itself alone.

In: scripts of this folder that do their work in `with as_part() as seconds`. Out: their output as it comes, what each
has recorded, and why one failed. While a part runs, the process of the next one imports what it needs and waits, so
that no start takes the device's time.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
RECORDS = os.environ.pop("BENCHMARK_RECORDS", None)
"""file of the records, where the process is a part"""
LEAST = 5
"""seconds under which no part is started"""


# ---- in a part's process --------------------------------------------------------------------------------------------


@contextmanager
def as_part() -> Iterator[float]:
    """Wait for the start; the seconds that there are then, without end where the script was started by hand.

    What is raised inside is recorded as the part's failure, and the process ends with status 1.
    """
    seconds = math.inf
    if RECORDS is not None:
        line = sys.stdin.readline()
        if not line:  # nobody waits for the part any more
            sys.exit(1)
        seconds = float(line)
    try:
        yield seconds
    except Exception as error:
        traceback.print_exc()
        record(failed=reason_of(error))
        sys.exit(1)


def record(**values) -> None:
    """Hand values to whoever started the part; they arrive even if the process crashes next."""
    if RECORDS is not None:
        with open(RECORDS, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def say(line: str) -> None:
    """Print a line at once and in one piece, beside other parts."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def line_of(name: str, figures: dict) -> str:
    """The name, and each key with its value, floats in four digits.

    >>> line_of("copy", {"GiB": 4.0, "GB_per_second": 4312.345})
    'copy                GiB 4, GB_per_second 4312'
    """
    shown = (f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in figures.items())
    return f"{name:20}{', '.join(shown)}"


def reason_of(error: BaseException) -> str:
    """The error's class and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


# ---- who starts them ------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """One process.

    Args:
        name: as it is printed.
        arguments: a script of this folder and its options.
        seconds: that it may take from its start on.
        until: `time.monotonic()` at which it ends at the latest.
        finished: called with the part when it has ended; what is to be run next in its place, or None.
        alone: the next stage is launched when this part has ended, since starts would disturb what it measures.
    """

    name: str
    arguments: list[str]
    seconds: float = math.inf
    until: float = math.inf
    finished: Callable[["Part"], "Part | None"] = lambda part: None
    alone: bool = False
    records: list[dict] = field(default_factory=list)
    failure: str | None = None
    skipped: bool = False
    took: float = 0.0
    process: subprocess.Popen | None = None

    def recorded(self, key: str, default=None):
        """The last value of this name."""
        return next((record[key] for record in reversed(self.records) if key in record), default)

    def launch(self, folder: str) -> None:
        """Begin the process, which waits for its start."""
        if self.process is None:
            handle, self.file = tempfile.mkstemp(dir=folder)
            os.close(handle)
            path = os.pathsep.join([str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
            environment = {**os.environ, "BENCHMARK_RECORDS": self.file, "PYTHONPATH": path}
            script, *options = self.arguments
            command = [sys.executable, str(FOLDER / script), *options]
            start = {"stdin": subprocess.PIPE, "text": True, "preexec_fn": os.setpgrp, "cwd": FOLDER.parent}
            self.process = subprocess.Popen(command, env=environment, **start)

    def start(self) -> None:
        self.begun = time.monotonic()
        self.seconds = min(self.seconds, self.until - self.begun)
        self.skipped = self.seconds < LEAST
        if not self.skipped:
            with suppress(BrokenPipeError):  # it has crashed already, as `finish` will see
                self.process.stdin.write(f"{self.seconds}\n")
                self.process.stdin.close()

    def finish(self) -> None:
        """Wait for the end, or bring it about; read the records."""
        if not self.skipped:
            try:
                status = self.process.wait(max(0.0, self.begun + self.seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                status, self.failure = None, f"stopped after {self.seconds:.0f} s"
                self._signal(signal.SIGINT)  # pytest then says what it has
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)
        self.took = time.monotonic() - self.begun
        self.end()
        with suppress(json.JSONDecodeError):  # of a line that was cut off
            self.records += map(json.loads, Path(self.file).read_text(encoding="utf-8").splitlines())
        if self.skipped:
            self.failure = "skipped, the time was used up"
        elif status is not None and status != 0:
            by_signal = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            self.failure = self.recorded("failed", by_signal)

    def end(self) -> None:
        """Leave nothing of the process behind, its own children included."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run_parts(stages: Iterable[list[Part]], then: Callable[[list[Part]], None] = lambda done: None) -> list[Part]:
    """Run stage after stage, the parts of a stage side by side; all parts in the order in which they ended.

    `then` is called with those that have ended whenever one has. Neither SIGTERM nor an exception leaves a process.
    """
    queue, launched, done = deque(stages), [], []

    def launch(stage: list[Part]) -> None:
        launched.extend(stage)
        for part in stage:
            part.launch(folder)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory() as folder:
        try:
            while queue:
                stage = queue.popleft()
                launch(stage)
                say("\n== " + ", ".join(part.name for part in stage))
                for part in stage:
                    part.start()
                if queue and not any(part.alone for part in stage):
                    launch(queue[0])
                for part in stage:
                    part.finish()
                    done.append(part)
                    say(f"-- {part.name}: {part.failure or f'{part.took:.0f} s'}")
                    if follower := part.finished(part):
                        queue.appendleft([follower])
                    then(done)
        finally:
            for part in launched:
                part.end()
            signal.signal(signal.SIGTERM, before)
    return done


def selected(stages: list[list[Part]], words: list[str]) -> list[list[Part]]:
    """The parts whose name has one of `words`, or all of them without words: what a rerun needs no more is left out."""
    chosen = [[part for part in stage if not words or any(word in part.name for word in words)] for stage in stages]
    return [stage for stage in chosen if stage]


def write_json(results: dict, path: str | None) -> None:
    if path:
        Path(path).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def default_json(name: str) -> str | None:
    """A file of this name in the folder `$OUT`, where that is set."""
    return str(Path(os.environ["OUT"], name)) if os.environ.get("OUT") else None

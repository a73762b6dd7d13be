"""What belongs to a file of scores: its lock, the rows that have no score, and the options that it was begun with.

In: the path OUT. Out: OUT, open for one run alone; `OUT.rejects`, a line of JSON for each row that was passed over; and
`OUT.options`, JSON of the options that scores depend on. A file of one of these names that holds something else is
somebody else's, and stays as it is.
"""

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..locks import is_still_at, lock_file

_BEGINNINGS = (b'{"file": ', b'{"line": ', b'{"row": ')
"""how a record of the rejects begins"""


def is_stream(out: str | Path) -> bool:
    """Whether rows go to standard output ("-") or into a pipe, and not into a file that stays."""
    out = Path(out)
    return str(out) in ("-", "/dev/stdout") or (out.exists() and not out.is_file() and not out.is_dir())


@contextlib.contextmanager
def opened(out: Path) -> Iterator[IO[bytes]]:
    """Open `out` to append to it, for one run at a time. A new file that is still empty at the end is removed.

    Raises:
        ValueError: another run writes to it.
    """
    if is_stream(out):
        with contextlib.nullcontext(sys.stdout.buffer) if str(out) == "-" else open(out, "wb") as stream:
            yield stream
        return
    new = not out.exists()
    with open(out, "ab") as file:
        try:
            lock_file(file)
        except BlockingIOError:
            raise ValueError(f"another run writes to '{out}' now. Wait for it, or choose another output.") from None
        if not is_still_at(out, file):
            raise ValueError(f"another run took '{out}' away just now. Try again.")
        try:
            yield file
        finally:
            file.flush()
            if new and not out.stat().st_size:
                out.unlink()


def json_text(value: Any, **options: Any) -> str:
    """JSON of a value; numbers that JSON does not have (NaN, Infinity) are null.

    >>> json_text({"a": float("nan"), "b": [1e999, 1.5]})
    '{"a": null, "b": [null, 1.5]}'
    """
    try:
        return json.dumps(value, default=str, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(value), default=str, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- rejects -------------------------------------------------------------------------------------------------------


def rejects_of(out: str | Path) -> Path:
    """Where the lines are named that could not be scored.

    >>> rejects_of("scores.jsonl").name
    'scores.jsonl.rejects'
    """
    return Path(f"{out}.rejects")


def read_rejects(out: str | Path) -> dict[tuple, dict] | None:
    """The records of `rejects_of(out)` by their place (`place_of`); None if it is somebody else's file."""
    path = rejects_of(out)
    if not path.exists():
        return {}
    *lines, torn = path.read_bytes().split(b"\n") if path.is_file() else [b"a folder"]
    if not any(torn[: len(start)] == start[: len(torn)] for start in _BEGINNINGS):
        return None
    try:
        records = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return None
    ours = (isinstance(each, dict) and {"line", "row"} & each.keys() and "error" in each for each in records)
    return {place_of(record): record for record in records} if all(ours) else None


def place_of(record: Mapping[str, Any]) -> tuple:
    return record.get("file"), record.get("row"), record.get("line")


def write_rejects(out: str | Path, records: Iterable[dict], mode: str) -> None:
    """Write or append records; of scores that go to standard output, to standard error."""
    text, path = "".join(json.dumps(record) + "\n" for record in records), rejects_of(out)
    if is_stream(out):
        sys.stderr.write(text)
    elif text:
        with open(path, mode, newline="\n") as file:
            file.write(text)
    elif mode == "w":
        path.unlink(missing_ok=True)


# ---- options -------------------------------------------------------------------------------------------------------


def check_options(out: str | Path, options: Mapping[str, Any], *, goes_on: bool) -> None:
    """Write the options of a run beside `out`; of a run that goes on, compare them with those that it was begun with.

    Nothing is written beside a stream, which no run goes on with.

    Raises:
        ValueError: one of them is another, or `OUT.options` is somebody else's.
    """
    if is_stream(out):
        return
    path, before = Path(f"{out}.options"), None
    options = json.loads(json_text(options))
    if path.exists() and path.stat().st_size:
        try:
            before = dict(json.loads(path.read_bytes())["rewardplug score"])
        except (ValueError, TypeError, KeyError, OSError, RecursionError):
            raise ValueError(
                f"'{path}' is not a file of this command, which keeps its options there. Move it, or choose another "
                "output."
            ) from None
    if goes_on and before is not None:
        for name, value in options.items():
            if name in before and before[name] != value:
                raise ValueError(
                    f"'{out}' was begun with {name}={before[name]!r}, and this run has {value!r}: other options made "
                    "it. Choose another output, or start again with --overwrite (overwrite=True)."
                )
        return
    path.write_text(json.dumps({"rewardplug score": options}) + "\n", encoding="utf-8")

"""Locks that keep two runs from writing to the same file or folder. Every room may import it; it imports none.

In: an open file. Out: the kernel's lock on it, which ends with the process, whatever ends the process. Windows has no
such lock, so nothing is locked there.
"""

import os
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HAS_LOCKS = fcntl is not None
"""whether the system has locks on files"""


def lock_file(file: IO) -> None:
    """Lock an open file for this process, without waiting.

    Raises:
        BlockingIOError: another process holds the lock. OSError: the file system has no locks.
    """
    if HAS_LOCKS:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_still_at(path: Path, file: IO) -> bool:
    """Whether `path` is still the open file. The last holder of its lock may have removed or replaced it meanwhile."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())

"""How a command ends that meets an error: in one line where the user can do something about it.

In: an error. Out: the line, or None for a fault of this package, whose traceback says more.
"""

from .texts import USER_ERRORS, error_text

_OUT_OF_MEMORY = (
    "error: the device is out of memory. Lower max_tokens_per_batch or the batch, or take a dtype with fewer bits."
)


def error_line(error: Exception) -> str | None:
    """The line that every command and every recipe prints of `error`.

    >>> error_line(ValueError("no such file")), error_line(KeyError("x"))
    ('error: no such file', None)
    >>> error_line(MemoryError()).partition(". ")[0]
    'error: the device is out of memory'
    """
    if isinstance(error, MemoryError | RuntimeError) and out_of_memory(error):
        return _OUT_OF_MEMORY
    return error_text(error) if isinstance(error, USER_ERRORS) else None


def out_of_memory(error: Exception) -> bool:
    """Whether it is memory that ran out, a device's or the machine's."""
    from accelerate.utils.memory import should_reduce_batch_size  # imports torch, which most errors do not need

    return isinstance(error, MemoryError) or should_reduce_batch_size(error)

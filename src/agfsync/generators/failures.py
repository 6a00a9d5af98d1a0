"""Whatever a model raises while it is made or used, as one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from agfsync.errors import AgfsyncError, ModelError
from agfsync.memory import lacks_memory

LONGEST_CAUSE = 300
"""characters of what a library says"""


@contextmanager
def model_errors(what: str) -> Iterator[None]:
    """Turn all that is raised within, but for a lack of memory, into a ModelError that begins with `what`.

    A model's files decide what the libraries do with it, and these raise anything: KeyError, TypeError, OverflowError.

    Raises:
        ModelError: something failed; the cause follows `what`.
    """
    try:
        yield
    except AgfsyncError:
        raise
    except Exception as failure:
        if lacks_memory(failure):
            raise
        raise ModelError(f"{what}: {cause(failure)}") from failure


def cause(failure: Exception) -> str:
    """Return what a library says in an exception, with the exception's name where the words say little by themselves.

    >>> cause(KeyError("unet"))
    "KeyError: 'unet'"
    """
    said = " ".join(str(failure).split())[:LONGEST_CAUSE]
    if isinstance(failure, OSError | ValueError | RuntimeError) and said:
        return said
    return f"{type(failure).__name__}: {said}" if said else type(failure).__name__

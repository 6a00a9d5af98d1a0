"""The error tree. What a user can mend is an `AgfsyncError`: one line that says what is wrong, where, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 2000
"""characters of an error"""
CITED = 300
"""characters of a library's message within one"""
TOLD_BY_TEXT = (OSError, ValueError, RuntimeError)
"""Exceptions whose text says what is wrong; that of a KeyError or a TypeError needs its name beside it."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""What CUDA and MPS, the CPU, and cuBLAS say when memory runs out."""


class AgfsyncError(Exception):
    """Base of every error that the command line prints as one line, with exit code 2.

    It may cite files and servers: what they hold can neither break the line nor steer the terminal.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class RecipeError(AgfsyncError):
    """A recipe that can't be read, or an unknown key or value in it."""


class ModelError(AgfsyncError):
    """A model that is missing or isn't what the recipe takes it for."""


class FormatError(AgfsyncError):
    """A file or folder of prompts or pairs that is missing, of no known format, or not what its format says."""


class RunError(AgfsyncError):
    """A run folder that is missing, in use, made by other settings, or lacks an earlier stage."""


class InUseError(RunError):
    """A folder that another process writes to."""


class StoreError(AgfsyncError):
    """The disk failed: no space, no permission, or a part that is damaged."""


class DamagedError(StoreError):
    """A file failed verification and was quarantined; the same command regenerates it."""


class OutOfMemoryError(AgfsyncError):
    """A stage, as the recipe sets it, needs more memory than the machine or its accelerator has."""


class WorkerError(AgfsyncError):
    """Workers that can't be had, or that die again and again."""


class NoReplyError(AgfsyncError):
    """A language model gave no reply to one request, or none that can be read. Others may fare better."""


class BudgetError(AgfsyncError):
    """More items failed than the recipe's budget allows, or a model ran dry."""


class DivergedError(AgfsyncError):
    """Training left the numbers: a loss or gradient that isn't finite."""


class PeerError(AgfsyncError):
    """Another process of a training by several has ended, never came, or doesn't see what this one sees."""


def lacks_memory(failure: BaseException) -> bool:
    """Return True if `failure` is a lack of memory. torch's may be any RuntimeError by that text."""
    by_text = isinstance(failure, RuntimeError) and any(sign in str(failure) for sign in OUT_OF_MEMORY)
    return by_text or isinstance(failure, MemoryError)


@contextmanager
def model_errors(what: str) -> Iterator[None]:
    """Turn whatever is raised within, but for a lack of memory, into a ModelError that begins with `what`.

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
    said = " ".join(str(failure).split())[:CITED]
    if said and isinstance(failure, TOLD_BY_TEXT):
        return said
    return f"{type(failure).__name__}: {said}" if said else type(failure).__name__

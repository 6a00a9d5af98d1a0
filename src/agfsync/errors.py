"""The exceptions. An `AgfsyncError` is one that a user can fix: one line with what is wrong, where, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 2000
"""the most characters of an error's message"""
CITED = 300
"""the most characters of a library's message in it"""
TOLD_BY_TEXT = (OSError, ValueError, RuntimeError)
"""Exceptions with a message that is clear by itself; the others (KeyError, TypeError) need the name of their class."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""Texts in out-of-memory errors: of CUDA and MPS, of the CPU, of cuBLAS."""


class AgfsyncError(Exception):
    """Base of the errors that the command line prints as one line, with exit code 2.

    A message may quote files and servers, so line breaks and control characters are replaced.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class RecipeError(AgfsyncError):
    """A recipe that can't be read, or an unknown key or value in it."""


class ModelError(AgfsyncError):
    """A model that is missing, or isn't of the kind that the recipe says."""


class FormatError(AgfsyncError):
    """A file or folder of prompts or pairs that is missing, of an unknown format, or invalid in its format."""


class RunError(AgfsyncError):
    """A run folder that is missing, in use, written with other settings, or without an earlier stage."""


class InUseError(RunError):
    """A folder that is locked by a process."""


class StoreError(AgfsyncError):
    """The disk failed (no space, no permission), or a part is damaged."""


class DamagedError(StoreError):
    """A file failed verification and was quarantined; the same command regenerates it."""


class OutOfMemoryError(AgfsyncError):
    """A stage needs more memory, with the recipe's settings, than the machine or its accelerator has."""


class WorkerError(AgfsyncError):
    """Workers can't be started, or die repeatedly."""


class NoReplyError(AgfsyncError):
    """A language model gave no reply to one request, or an invalid one. Other requests may succeed."""


class BudgetError(AgfsyncError):
    """Too many items failed, too few items can be made, or a language model's budget is spent."""


class DivergedError(AgfsyncError):
    """Training diverged: a loss or gradient isn't finite."""


class PeerError(AgfsyncError):
    """Another process of a distributed training has ended, didn't join, or sees other data than this one."""


def lacks_memory(failure: BaseException) -> bool:
    """Return True if `failure` is an out-of-memory error; torch's are RuntimeErrors, recognised by their text."""
    by_text = isinstance(failure, RuntimeError) and any(sign in str(failure) for sign in OUT_OF_MEMORY)
    return by_text or isinstance(failure, MemoryError)


@contextmanager
def model_errors(what: str) -> Iterator[None]:
    """Turn every exception within the context, except out-of-memory errors, into a ModelError that begins with `what`.

    The files of a model may make the libraries raise any exception: KeyError, TypeError, OverflowError.

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
    """Return the message of an exception, with the name of its class if the message isn't clear by itself.

    >>> cause(KeyError("unet"))
    "KeyError: 'unet'"
    """
    said = " ".join(str(failure).split())[:CITED]
    if said and isinstance(failure, TOLD_BY_TEXT):
        return said
    return f"{type(failure).__name__}: {said}" if said else type(failure).__name__

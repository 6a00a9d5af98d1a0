"""Exit codes, and the line that explains why a command failed."""

import sys
from typing import Any

import typer

from agfsync.errors import AgfsyncError

USAGE, UNEXPECTED, STOPPED = 2, 1, 130
"""Exit codes: an error that the user can fix, a bug, Ctrl-C."""


def describe_failure(failure: Exception) -> tuple[str, int]:
    """Return the line that reports `failure`, and the exit code."""
    if isinstance(failure, AgfsyncError):
        return f"error: {_one_line(str(failure))}", USAGE
    if isinstance(failure, typer.TyperException):
        context = getattr(failure, "ctx", None)
        command = "agfsync" if context is None else context.command_path
        message = _one_line(failure.format_message())
        return f"error: {message}{'' if message.endswith('?') else ':'} see `{command} --help`", USAGE
    described = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    return f"error: unexpected {_one_line(described)}; run with --debug for the traceback", UNEXPECTED


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def print_error(line: str, code: int) -> int:
    """Print `line` to standard error and return `code`."""
    print(line, file=sys.stderr)
    return code


def find_exit_code(result: Any) -> int:
    """Return the exit code of a command's `result`: the one it exited with, else 0. Typer turns Ctrl-C into 130."""
    if result == STOPPED:
        return print_error("stopped; type the same command to go on", STOPPED)
    return result if isinstance(result, int) else 0

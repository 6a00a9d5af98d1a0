"""Exit codes, and the one line that says why a command failed."""

import sys
from typing import Any

import typer

from agfsync.errors import AgfsyncError

USAGE, UNEXPECTED, STOPPED = 2, 1, 130
"""Exit codes: something the user can mend, a fault of the program, Ctrl-C."""


def describe_failure(failure: Exception) -> tuple[str, int]:
    """Return one line on `failure`, and the exit code."""
    if isinstance(failure, AgfsyncError):
        return f"error: {_one_line(str(failure))}", USAGE
    if isinstance(failure, typer.TyperException):
        context = getattr(failure, "ctx", None)
        command = "agfsync" if context is None else context.command_path
        says = _one_line(failure.format_message())
        return f"error: {says}{'' if says.endswith('?') else ':'} see `{command} --help`", USAGE
    kind = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    return f"error: unexpected {_one_line(kind)}; run with --debug for the traceback", UNEXPECTED


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def print_error(line: str, code: int) -> int:
    """Print `line` where errors go, and return `code`."""
    print(line, file=sys.stderr)
    return code


def find_exit_code(result: Any) -> int:
    """Return the exit code of a command's `result`: the one it exited with, else 0. Typer makes 130 of Ctrl-C."""
    if result == STOPPED:
        return print_error("stopped; type the same command to go on", STOPPED)
    return result if isinstance(result, int) else 0

"""The command line: commands that parse arguments, call the library and print; a failure is one line."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from agfsync.cli.failures import STOPPED, USAGE, describe_failure, find_exit_code, print_error
from agfsync.cli.processes import stop_on
from agfsync.cli.verbs import app
from agfsync.engine.packages import mute_libraries
from agfsync.files.atomic import explain_disk_error

__all__ = ["STOPPED", "USAGE", "app", "main"]

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error"}
"""Variables that the libraries read at import: idle threads sleep, since spinning makes a busy machine up to ten
times slower, and warnings stay out of the progress bars."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on `arguments` (default: the process's) and return the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with stop_on(signal.SIGTERM), mute_libraries():
            return find_exit_code(app(args=argv, prog_name="agfsync", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):
        return find_exit_code(STOPPED)
    except Exception as failure:
        if "--debug" in argv:
            traceback.print_exception(failure)
        return print_error(*describe_failure(explain_disk_error(failure, Path.cwd()) or failure))

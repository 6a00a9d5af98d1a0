"""Signals that stop a command, and trainings that were launched in several processes."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from agfsync.cli.failures import UNEXPECTED, describe_failure, print_error
from agfsync.engine import launcher
from agfsync.errors import AgfsyncError, DivergedError, PeerError
from agfsync.files.atomic import explain_disk_error


@contextmanager
def stop_on(*wanted: signal.Signals) -> Iterator[None]:
    """Handle these signals like Ctrl-C within the block, so that complete work is kept.

    A launcher forwards the signals that the terminal has sent to all: those after the first are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        for each in stopping:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    stopping = [each for each in wanted if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop) for each in stopping}
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is stop:
                signal.signal(each, handler)


@contextmanager
def lead_training(trains: bool) -> Iterator[None]:
    """Lead the helper processes within the block if the command trains and was launched in several processes."""
    if not trains or launcher.count_processes() == 1:
        yield
        return
    with stop_on(signal.SIGTERM, signal.SIGINT), launcher.lead_helpers():
        yield


def help_training(path: Path, until: str | None, *, may_be_done: bool = True) -> None:
    """Do a helper process's share of trainings. Return if all is done already.

    Raises:
        typer.Exit: the first process has ended, or this one can't help it.
    """
    from agfsync.study.rounds import are_rounds_done

    if may_be_done:
        with suppress(AgfsyncError):  # The first process meets the same error, and reports it.
            if are_rounds_done(path, until):
                return
    raise typer.Exit(serve_orders())


def serve_orders() -> int:
    """Help the first process until it ends, and return the exit code."""
    # It holds nothing that a stop could lose, and the first says that all was stopped.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)
    who = f"process {launcher.process_rank()}"
    try:
        launcher.join_first(lambda line: print(f"{who}: {line}", file=sys.stderr, flush=True))
    except PeerError as failure:
        return print_error(*describe_failure(failure))
    try:
        for order in launcher.receive_orders():
            from agfsync.pipeline import help_train

            help_train(order)
    except (DivergedError, PeerError):
        return UNEXPECTED  # The first process reports it.
    except Exception as failure:
        line, code = describe_failure(explain_disk_error(failure, Path.cwd()) or failure)
        return print_error(f"{who}: {line}", code)
    return 0

"""Signals that stop a command, and training that was launched in several processes."""

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
def stop_on(*signals: signal.Signals) -> Iterator[None]:
    """Handle `signals` like Ctrl-C within the block, so that complete work is kept.

    A launcher forwards signals that the terminal has already sent to every process: only the first has an effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    handled = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    handlers_before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    finally:
        for number, handler in handlers_before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


@contextmanager
def lead_training(trains: bool) -> Iterator[None]:
    """Lead the helper processes within the block if the command trains and was launched in several processes."""
    if not trains or launcher.count_processes() == 1:
        yield
        return
    with stop_on(signal.SIGTERM, signal.SIGINT), launcher.lead_helpers():
        yield


def help_training(path: Path, until: str | None, *, may_be_done: bool = True) -> None:
    """Do a helper process's share of the training steps; return at once if the run is done already.

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
    # A helper has nothing to lose by a stop, and the first process reports it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    name = f"process {launcher.process_rank()}"
    try:
        launcher.join_first(lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True))
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
        return print_error(f"{name}: {line}", code)
    return 0

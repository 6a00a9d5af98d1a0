"""One command in several processes, as `accelerate launch` and `torchrun` start it: the first leads, the others train.

Only training uses this: every other command ignores the launcher's variables, which a cluster job may have left in the
environment.

The other processes do not run the command. They poll the store of torch.distributed for orders of the first process; if
the store is lost, the first process has ended, so that no process waits for one that has ended. A call that may take
long runs in its own thread while the main thread polls, since torch's own waits ignore signals.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread
from typing import Any, TypeVar

from agfsync.errors import PeerError

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables in which a launcher gives each process its rank. A process that lacks one of them trains alone."""
JOIN_TIMEOUT = "AGFSYNC_JOIN_TIMEOUT"
"""The variable with the seconds that the processes wait for each other, like torchrun's `join_timeout`."""
JOIN_SECONDS = 600.0
_POLL_SECONDS = 0.2
"""seconds between two polls of the store, and between two checks for signals"""
_QUIET_SECONDS = 2.0
"""seconds after which a process that hasn't found the first one reports that it waits"""
ATTEMPT_SECONDS = 5.0
"""seconds for one connection, and for the last message"""
_END_SECONDS = 5.0
"""seconds for a thread that is no longer waited for to end"""
_REPLY_TIMEOUT = timedelta(minutes=30)
"""Timeout of the store's own calls: torch's default."""
_END = "end"
_CONNECTED: list[Any] = []
"""the store, once it is connected"""

_T = TypeVar("_T")
Order = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Launch:
    """Process `rank` of `count`, whose common store is at `address`:`port`."""

    rank: int
    count: int
    address: str
    port: int
    launcher_hosts: bool = False
    """True if the launcher hosts the store; otherwise the first process does"""

    @property
    def place(self) -> str:
        """The store's address as host:port."""
        return f"{self.address}:{self.port}"


SINGLE_PROCESS = Launch(0, 1, "", 0)


def read_launch(environ: Mapping[str, str]) -> Launch:
    """Return this process's place among the launched ones; `SINGLE_PROCESS` if a variable is missing or empty.

    Raises:
        PeerError: a variable has a value that no launcher sets.
    """
    rank, count, address, port = (environ.get(name, "").strip() for name in LAUNCH_VARIABLES)
    if not (rank and count and address and port):
        return SINGLE_PROCESS
    size = _parse_number("WORLD_SIZE", count, 1, 1 << 20)
    launch = Launch(
        _parse_number("RANK", rank, 0, size - 1),
        size,
        address,
        _parse_number("MASTER_PORT", port, 1, 65535),
        environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )
    if environ.get("LOCAL_RANK"):
        # accelerate takes the accelerator of this number.
        _parse_number("LOCAL_RANK", environ["LOCAL_RANK"], 0, size - 1)
    read_join_timeout(environ)
    return launch


def _parse_number(name: str, value: str, least: int, most: int) -> int:
    number = int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    if number is None or not least <= number <= most:
        raise PeerError(
            f"the environment has {name}={value[:40]}, which should be a whole number from {least} to {most}: "
            f"launchers such as accelerate set it; unset {', '.join(LAUNCH_VARIABLES)} to train in one process"
        )
    return number


def count_processes() -> int:
    """Return the number of processes. Raises PeerError as `read_launch` does."""
    return read_launch(os.environ).count


def process_rank() -> int:
    """Return this process's number; the first is 0. Raises PeerError as `read_launch` does."""
    return read_launch(os.environ).rank


def read_join_timeout(environ: Mapping[str, str] = os.environ) -> float:
    """Return the number of seconds for which the processes wait for each other.

    Raises:
        PeerError: the variable is not a positive number.
    """
    given = environ.get(JOIN_TIMEOUT, "")
    try:
        seconds = float(given or JOIN_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e9:
        raise PeerError(f"the environment has {JOIN_TIMEOUT}={given[:40]}, which should be a number of seconds above 0")
    return seconds


def shared_store(seconds: float | None = None) -> Any:
    """Return the store that all processes share; the first call connects, within `seconds` or the join timeout.

    Raises:
        PeerError: the first process or its launcher isn't there, or its port is taken.
    """
    if not _CONNECTED:
        _CONNECTED.append(_connect_store(read_join_timeout() if seconds is None else seconds))
    return _CONNECTED[0]


def await_helpers(say: Callable[[str], None]) -> None:
    """Wait until all other processes have joined the first, which calls this; `say` reports once that it waits.

    Raises:
        PeerError: some haven't joined in time; the message names them.
    """
    launch = read_launch(os.environ)
    if launch.count == 1:
        return
    keys = {f"here/{other}": other for other in range(1, launch.count)}
    try:
        missing = _find_missing(keys, 0.0, shared_store(0.0))
    except PeerError:
        if not launch.launcher_hosts:
            raise
        missing = list(keys.values())
    if missing:
        say(
            f"waiting for {len(missing)} of {launch.count} processes to join at {launch.place}, for up to "
            f"{read_join_timeout():g} s ({JOIN_TIMEOUT}); to train in one process, unset {', '.join(LAUNCH_VARIABLES)}"
        )
    _await_all(keys)


def join_first(say: Callable[[str], None]) -> None:
    """Join the first process; the others call this. `say` reports once that it waits.

    Raises:
        PeerError: the first process wasn't reached in time.
    """
    launch, seconds = read_launch(os.environ), read_join_timeout()
    try:
        shared_store(min(_QUIET_SECONDS, seconds))
    except PeerError:
        say(f"waiting for the first process (RANK=0) at {launch.place}, for up to {seconds:g} s ({JOIN_TIMEOUT})")
    shared = shared_store()
    with _peer_errors():
        shared.set(f"here/{launch.rank}", "")


def send_order(order: Order) -> None:
    """Send `order` to the others, and wait until all of them have received it.

    Raises:
        PeerError: some haven't received it in time; the message names them.
    """
    shared = shared_store()
    with _peer_errors():
        number = int(shared.add("orders", 1))
        shared.set(f"order/{number}", json.dumps(order))
    _await_all({f"heard/{number}/{other}": other for other in range(1, count_processes())})


def meet_others(number: int) -> None:
    """Wait until every process has made its `number`-th call, before an operation that ignores signals.

    Raises:
        PeerError: some haven't made it in time; the message names them.
    """
    shared = shared_store()
    with _peer_errors():
        shared.set(f"ready/{number}/{process_rank()}", "")
    _await_all({f"ready/{number}/{rank}": rank for rank in range(count_processes())})


def receive_orders() -> Iterator[Order]:
    """Yield the orders of the first process until it ends, by success or failure."""
    number = 0
    # The store fails once the process that hosts it has ended.
    with suppress(RuntimeError):
        while True:
            number += 1
            while not shared_store().check([f"order/{number}"]):
                if shared_store().check([_END]):
                    return
                time.sleep(_POLL_SECONDS)
            order: Order = json.loads(shared_store().get(f"order/{number}"))
            shared_store().set(f"heard/{number}/{process_rank()}", "")
            yield order


@contextmanager
def lead_helpers() -> Iterator[None]:
    """Lead the other processes within the context as the first process; they end when it does, even on an error."""
    launch = read_launch(os.environ)
    if launch.count == 1:
        yield
        return
    if not launch.launcher_hosts:
        # Created now, since the others poll for it. A failure is reported when they are needed.
        with suppress(PeerError):
            shared_store(0.0)
    try:
        yield
    finally:
        # Without a store they have ended already; a launcher that hosts one answers at once.
        with suppress(PeerError, RuntimeError, TimeoutError):
            shared = shared_store(0.0)
            _run_interruptibly(lambda _: shared.set(_END, ""), ATTEMPT_SECONDS)


def _await_all(keys: Mapping[str, int]) -> None:
    seconds = read_join_timeout()
    missing = _find_missing(keys, seconds, shared_store())
    if missing:
        launch = read_launch(os.environ)
        ranks = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
        raise PeerError(
            f"of {launch.count} processes, RANK {ranks} didn't join at {launch.place} within {seconds:g} s "
            f"({JOIN_TIMEOUT}): start them as well, or unset {', '.join(LAUNCH_VARIABLES)} to train in one process"
        )


def _find_missing(keys: Mapping[str, int], seconds: float, shared: Any) -> list[int]:
    """Return the processes whose keys aren't in the store after `seconds`; return at once if no key is missing.

    Raises:
        PeerError: the store is lost.
    """
    deadline = time.monotonic() + seconds

    def poll(given_up: Event) -> list[int]:
        while missing := [rank for key, rank in keys.items() if not shared.check([key])]:
            if time.monotonic() >= deadline or given_up.wait(_POLL_SECONDS):
                break
        return missing

    with _peer_errors():
        try:
            return _run_interruptibly(poll, seconds + ATTEMPT_SECONDS)
        except TimeoutError:
            return list(keys.values())


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Raise a PeerError if the store is lost within the context."""
    try:
        yield
    except RuntimeError as failure:
        raise PeerError(
            f"the launched processes can't reach each other any more: {_shorten_message(failure)}"
        ) from failure


def _connect_store(seconds: float) -> Any:
    """Return a connection to the store, tried at least once and for up to `seconds`.

    Raises:
        PeerError: nothing answers at its address, or the port is taken.
    """
    import torch.distributed  # noqa: F401 (now, since it takes longer than an attempt on a busy machine)

    launch = read_launch(os.environ)
    hosts = launch.rank == 0 and not launch.launcher_hosts
    reasons: list[str] = []
    try:
        return _run_interruptibly(
            lambda given_up: _host_store(launch) if hosts else _reach_store(launch, seconds, reasons, given_up),
            seconds + ATTEMPT_SECONDS,
        )
    except (TimeoutError, ConnectionError) as failure:
        host = "the launcher" if launch.launcher_hosts else "the first process (RANK=0)"
        reason = f" ({reasons[-1]})" if reasons else ""
        raise PeerError(
            f"process {launch.rank} of {launch.count} didn't reach {host} at {launch.place} within {seconds:g} s"
            f"{reason}: start it as well, or unset {', '.join(LAUNCH_VARIABLES)} to work in one process"
        ) from failure
    except RuntimeError as failure:
        raise PeerError(
            f"the launched processes can't meet at {launch.place}: {_shorten_message(failure)}"
        ) from failure


def _host_store(launch: Launch) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # The store listens on all interfaces; this process reaches it without a name server.
    return TCPStore(
        "127.0.0.1", launch.port, launch.count, True, _REPLY_TIMEOUT, wait_for_workers=False, multi_tenant=True
    )


def _reach_store(launch: Launch, seconds: float, reasons: list[str], given_up: Event) -> Any:
    """Connect once the address accepts connections: until then torch would fill the terminal with warnings."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((launch.address, launch.port), ATTEMPT_SECONDS).close()
            break
        except (OSError, UnicodeError) as failure:
            reasons.append(getattr(failure, "strerror", None) or str(failure))
            if time.monotonic() >= deadline or given_up.wait(_POLL_SECONDS):
                raise ConnectionError(reasons[-1]) from failure
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(launch.address, launch.port, launch.count, False, _REPLY_TIMEOUT)


def _run_interruptibly(work: Callable[[Event], _T], seconds: float) -> _T:
    """Return the result of `work`, which runs in its own thread, so that a signal ends the wait at once.

    `work` receives an event that is set once nobody waits for its result, and then has `_END_SECONDS` to end: Python
    aborts if a thread returns from torch's C++ during its exit.

    Raises:
        TimeoutError: it takes longer than `seconds`.
    """
    given_up, results, failures = Event(), list[_T](), list[Exception]()

    def do() -> None:
        try:
            results.append(work(given_up))
        except Exception as failure:  # raised again by the thread that waits
            failures.append(failure)

    thread, deadline = Thread(target=do, daemon=True), time.monotonic() + seconds
    thread.start()
    try:
        while thread.is_alive():
            if time.monotonic() >= deadline:
                raise TimeoutError
            thread.join(_POLL_SECONDS)
    finally:
        given_up.set()
        thread.join(_END_SECONDS)
    if failures:
        raise failures[0]
    return results[0]


def _shorten_message(failure: Exception) -> str:
    """Return the first sentence of torch's message, without its C++ frames."""
    lines: Sequence[str] = str(failure).splitlines() or [type(failure).__name__]
    return lines[0][:200]

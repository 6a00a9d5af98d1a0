"""Workers as actors on a Ray cluster."""

import os
import socket
from concurrent.futures import Future
from typing import Any

import ray
from ray import exceptions

from agfsync.engine.worker import JobWorker, TaskResult, WorkerPlan
from agfsync.errors import WorkerError
from agfsync.recipe import Engine

STORE_BYTES = 100 << 20
"""Memory of the object store of a Ray that is started here: only captions and part entries are exchanged."""

ANSWER_SECONDS = 10.0
"""seconds within which a cluster's address must answer"""


class RayPool:
    """A pool of actors, each with a `JobWorker` and the accelerators that the recipe gives it.

    Raises:
        WorkerError: there is no cluster at the given address.
    """

    def __init__(self, engine: Engine) -> None:
        _connect_cluster(engine.address or os.environ.get("RAY_ADDRESS") or "local")
        available = ray.cluster_resources().get("GPU", 0.0)
        self._gpus_per_worker = engine.accelerators if engine.accelerators is not None else min(available, 1.0)
        wanted = engine.workers if isinstance(engine.workers, int) else None
        self.size = wanted or (max(1, int(available / self._gpus_per_worker)) if self._gpus_per_worker else 1)

    def start_worker(self, plan: WorkerPlan) -> "RayHandle":
        # The dispatcher restarts workers and retries their tasks, so Ray mustn't.
        kind = ray.remote(num_cpus=1, num_gpus=self._gpus_per_worker, max_restarts=0, max_task_retries=0)(JobWorker)
        return RayHandle(kind.remote(plan))

    def describe_death(self, failure: BaseException) -> str | None:
        died = isinstance(failure, exceptions.RayError) and not isinstance(failure, exceptions.RayTaskError)
        return str(failure).splitlines()[0].rstrip(".") if died else None

    def describe_shortage(self) -> str:
        counts = {name: ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU")}
        resources = ", ".join(f"{count:g} {name}" for name, count in counts.items())
        return f"Ray has {resources}, and each worker needs 1 CPU, {self._gpus_per_worker:g} GPU"


class RayHandle:
    """An actor that holds a `JobWorker`."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def submit(self, method: str, *arguments: Any) -> Future[TaskResult]:
        future: Future[TaskResult] = getattr(self._actor, method).remote(*arguments).future()
        return future

    def stop(self) -> None:
        ray.kill(self._actor)


def _check_address(address: str) -> None:
    """Check that HOST:PORT answers: Ray itself would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()


def _connect_cluster(address: str) -> None:
    """Connect this process to the cluster, once, until it ends."""
    if ray.is_initialized():
        return
    # Other machines' output, and notices of dead workers, would break the progress bar.
    ray._private.worker._worker_logs_enabled = False
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    own = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == "local" else {}
    try:
        _check_address(address)
        ray.init(address=address, **own, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as failure:
        reason = (str(failure).splitlines() or [type(failure).__name__])[0]
        raise WorkerError(
            f"no Ray cluster at {address} ({reason}): give the address of one as engine.address or RAY_ADDRESS, or"
            f" neither to start one here"
        ) from failure

"""A training in one process or in several forked ones, and what each of them has in memory at its end."""

import os
import socket
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from launching import IMPORTED, SERVER
from torch import Tensor
from torch.distributed.tensor import DTensor

from agfsync import catalog
from agfsync.training.batches import EncodedPairs, RatedImages
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.objective import Actor, Method, TrainingPlan
from agfsync.training.processes import join_processes
from agfsync.training.reference import FrozenCopy
from agfsync.training.state import TrainingState

CPU = torch.device("cpu")
PROMPTS = ["a red circle", "two green squares", "a large yellow ring", ""]
SECONDS = 120


class StateKept(Checkpoints):
    """Checkpoints that remember the state, so that it can be looked at when the training has ended."""

    states: list[TrainingState] = []  # noqa: RUF012 (one training a process)

    def restore(self, state: TrainingState) -> int:
        StateKept.states[:] = [state]
        return super().restore(state)


@dataclass(frozen=True)
class Job:
    """A training of the model of type `kind` at `path`, with the files of its result in `folder`."""

    kind: str
    path: Path
    folder: Path
    method: Method
    plan: TrainingPlan
    kill_at: int = 0
    """the step after which the first process dies; 0: none"""

    def work(self) -> dict[str, int]:
        """Train, save the model, and return the numbers of weights that this process has."""
        torch.set_num_threads(1)
        given = {} if self.kind == "stable-diffusion" else {"height": 16, "width": 16}
        model = catalog.build("models", {"type": self.kind, "path": str(self.path), "device": "cpu", **given})
        reference = FrozenCopy(model.network, self.plan.precision) if self.method.uses_reference else None
        model.network.requires_grad_(True)
        actor, total = Actor(model, reference, self.plan.precision), sum(p.numel() for p in model.network.parameters())
        objective, step = self.method.objective(make_data(model, self.method), self.plan), [0]

        def count(line: Any) -> None:
            step[0] = int(line["step"])
            if step[0] == self.kill_at:
                os._exit(9)

        with join_processes(CPU) as processes:
            checkpoints, log = StateKept(self.folder / "checkpoints", "a"), self.folder / "metrics.jsonl"
            train(actor, objective, self.plan, checkpoints, log, count, processes=processes)
        if processes.is_first:
            model.save(self.folder / "model")
        (state,) = StateKept.states
        moments = [each for of in state.optimizer.state.values() for each in of.values()]
        average = [] if state.average is None else list(state.average.weights.values())
        frozen = [] if reference is None else list(reference._network.parameters())
        kept = {"weights": list(state.parameters.values()), "moments": moments, "average": average, "frozen": frozen}
        return {"total": total, **{name: sum(map(count_here, tensors)) for name, tensors in kept.items()}}


def count_here(tensor: Tensor) -> int:
    """Return the number of values of a tensor that this process holds."""
    return tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel()


def make_data(model: Any, method: Method) -> EncodedPairs | RatedImages:
    """Return six random images on four prompts, the last of them empty: as pairs, or each by itself."""
    latents = torch.randn(12, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    rows, text = torch.arange(6), model.encode_prompts(PROMPTS)
    if method.needs == "pairs":
        return EncodedPairs(latents, text, rows, rows + 6, rows % 3)
    return RatedImages(latents, text, torch.arange(12) % 3, torch.where(torch.arange(12) % 2 > 0, 1.0, -1.0))


def train_in_processes(job: Job, count: int = 2) -> list[dict[str, int]]:
    """Return what `job.work` returns in each of `count` processes; empty if one of them ended otherwise."""
    SERVER.set_forkserver_preload([*IMPORTED, "sharded", "agfsync.training.sharding"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    results = SERVER.SimpleQueue()
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} | common for rank in range(count)]
    processes = [SERVER.Process(target=_work, args=(job, place, results), daemon=True) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
    if any(process.exitcode for process in processes):
        return []
    return [found for _, found in sorted((results.get() for _ in processes), key=lambda each: each[0])]


def _work(job: Job, place: dict[str, str], results: Any) -> None:
    os.environ |= place
    try:
        results.put((int(place["RANK"]), job.work()))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def in_folder(job: Job, folder: Path, **changes: Any) -> Job:
    """Return the job in another folder, with changes of its plan."""
    return replace(job, folder=folder, plan=replace(job.plan, **changes))

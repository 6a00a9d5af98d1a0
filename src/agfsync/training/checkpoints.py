"""Checkpoints of the training state; a resumed training is bitwise equal to an uninterrupted one."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agfsync.files.tensors import TensorFile, read_metadata, read_tensors, write_tensors
from agfsync.training.sharding import gather_tensor, shard_like
from agfsync.training.state import TrainingState

KEPT = 2
WEIGHT, AVERAGE, COUNT, _MEMORY = "weight", "average", "step", "memory"
"""Kinds of tensors: a parameter, its average, the optimizer's number of steps, the objective's memory.

Other kinds belong to the optimizer.
"""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in `folder`. Checkpoints with another `digest` (other settings or pairs) are ignored."""

    folder: Path
    digest: str

    def save(self, step: int, state: TrainingState) -> None:
        """Write the state after `step` steps; keep this checkpoint and the one before it, and delete all others.

        If the state is sharded, the other processes must call `iterate_tensors` at the same time.
        """
        head = {
            "digest": self.digest,
            "step": str(step),
            "updates": str(state.updates),
            "moves": str(_count_steps(state)),
        }
        head |= {"scaler": json.dumps(state.scaler.state_dict()), "parts": str(state.parts)}
        write_tensors(self._make_path(step), dict(iterate_tensors(state)), head)
        kept = [path for _, path in self._list_files()[:KEPT]]
        # Also delete the partial file of a run that was killed while it wrote.
        for path in self.folder.glob("*.safetensors*"):
            if path not in kept:
                path.unlink()

    def find_last_step(self) -> int:
        """Return the step of the last checkpoint; 0 if there is none."""
        return max(self.list_steps(), default=0)

    def list_steps(self) -> list[int]:
        """Return the steps of the kept checkpoints, the last first."""
        return [step for step, _ in self._list_files()]

    def restore(self, state: TrainingState) -> int:
        """Load the last checkpoint into `state`; return its step, 0 if there is none.

        A damaged file is skipped: training from the checkpoint before it repeats the same steps.
        """
        for step, path in self._list_files():
            found = read_tensors(path)
            if found is not None:
                _load_state(found, state)
                return step
        return 0

    def _list_files(self) -> list[tuple[int, Path]]:
        """Return the checkpoints with this digest, the last first."""
        headed = [(read_metadata(path), path) for path in self.folder.glob("*.safetensors")]
        ours = [(head.get("step", ""), path) for head, path in headed if head and head.get("digest") == self.digest]
        return sorted(((int(step), path) for step, path in ours if step.isdecimal()), reverse=True)

    def _make_path(self, step: int) -> Path:
        return self.folder / f"step-{step:07}.safetensors"


def iterate_tensors(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of `state` by KIND.NAME, where NAME is the parameter's; sharded tensors whole, on the CPU."""
    tensors = [(f"{WEIGHT}.{name}", parameter.detach()) for name, parameter in state.parameters.items()]
    if state.average is not None:
        tensors += [(f"{AVERAGE}.{name}", weight) for name, weight in state.average.weights.items()]
    tensors += [(f"{_MEMORY}.{name}", value) for name, value in state.memory.items()]
    for name, tensor in tensors:
        yield name, gather_tensor(tensor).cpu() if state.is_sharded else tensor
    for name, parameter in state.parameters.items():
        for kind, moment in state.optimizer.state.get(parameter, {}).items():
            # Copies: some optimizers share a tensor between parameters, which a file of tensors can't hold.
            if kind != COUNT:
                yield f"{kind}.{name}", gather_tensor(moment).cpu() if state.is_sharded else moment.clone()


def _count_steps(state: TrainingState) -> int:
    """Return the number of steps of the optimizer, which is below the number of updates if fp16 has overflowed."""
    counts = [float(moments[COUNT]) for moments in state.optimizer.state.values() if COUNT in moments]
    return int(max(counts, default=0))


@torch.no_grad()
def _load_state(found: TensorFile, state: TrainingState) -> None:
    """Copy the checkpoint into `state`, in place.

    This keeps each tensor's memory layout, and thereby the order of the sums over it, which affects their rounding.
    """
    state.updates, moves = int(found.metadata["updates"]), int(found.metadata["moves"])
    state.scaler.load_state_dict(json.loads(found.metadata["scaler"]))
    state.parts = int(found.metadata["parts"])
    kinds: dict[str, dict[str, Tensor]] = {name: {} for name in state.parameters}
    for key, tensor in found.tensors.items():
        kind, _, name = key.partition(".")
        if kind == _MEMORY:
            state.memory[name].copy_(tensor)
        else:
            kinds[name][kind] = tensor
    for name, parameter in state.parameters.items():
        parameter.copy_(shard_like(kinds[name].pop(WEIGHT), parameter))
        average = kinds[name].pop(AVERAGE, None)
        if state.average is not None and average is not None:
            state.average.weights[name].copy_(shard_like(average, parameter))
        moments = {kind: _copy_like(parameter, tensor) for kind, tensor in kinds[name].items()}
        if moments:
            state.optimizer.state[parameter] = {COUNT: _make_count(moves, parameter, state.optimizer), **moments}


def _copy_like(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    return torch.zeros_like(parameter, dtype=tensor.dtype).copy_(shard_like(tensor, parameter))


def _make_count(moves: int, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor | int:
    """Return the number of steps as the optimizer stores it: a tensor for torch's AdamW, on the device if fused."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return moves
    fused = optimizer.defaults.get("fused")
    return torch.tensor(float(moves), device=parameter.device if fused else "cpu")

"""Checkpoints: all that a step changes, after a step, from which training goes on to the last bit."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agfsync.files.tensors import TensorFile, read_metadata, read_tensors, write_tensors
from agfsync.training.state import TrainingState

KEPT = 2
WEIGHT, AVERAGE, COUNT = "weight", "average", "step"
"""A parameter's own tensors, its average's, and what optimizers call their number of steps. Other names are theirs."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in `folder`. Those made under another `digest`, by other settings or pairs, don't count."""

    folder: Path
    digest: str

    def save(self, step: int, state: TrainingState) -> None:
        """Keeps the state after `step` steps, and the last one before it."""
        head = {
            "digest": self.digest,
            "step": str(step),
            "updates": str(state.updates),
            "moves": str(_count_moves(state)),
        }
        head |= {"scaler": json.dumps(state.scaler.state_dict()), "parts": str(state.parts)}
        write_tensors(self._path(step), _tensors(state), head)
        kept = [path for _, path in self._found()[:KEPT]]
        # Also what was being written when a run was killed.
        for path in self.folder.glob("*.safetensors*"):
            if path not in kept:
                path.unlink()

    def last(self) -> int:
        """How many steps the last one has seen, 0 if there is none."""
        found = self._found()
        return found[0][0] if found else 0

    def restore(self, state: TrainingState) -> int:
        """Puts the last state in place; returns how many steps it has seen, 0 if there is none.

        A file that isn't whole counts as none: from the one before it the very same steps follow.
        """
        for step, path in self._found():
            found = read_tensors(path)
            if found is not None:
                _put(found, state)
                return step
        return 0

    def _found(self) -> list[tuple[int, Path]]:
        """Ours, the last first."""
        headed = [(read_metadata(path), path) for path in self.folder.glob("*.safetensors")]
        ours = [(head.get("step", ""), path) for head, path in headed if head and head.get("digest") == self.digest]
        return sorted(((int(step), path) for step, path in ours if step.isdecimal()), reverse=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:07}.safetensors"


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    """Everything by KIND.NAME, where NAME is the parameter's."""
    tensors = {f"{WEIGHT}.{name}": parameter.detach() for name, parameter in state.parameters.items()}
    if state.average is not None:
        tensors |= {f"{AVERAGE}.{name}": weight for name, weight in state.average.weights.items()}
    for name, parameter in state.parameters.items():
        # Copies: some optimizers share a tensor between parameters, and a file of tensors can't.
        moments = state.optimizer.state.get(parameter, {}).items()
        tensors |= {f"{kind}.{name}": moment.clone() for kind, moment in moments if kind != COUNT}
    return tensors


def _count_moves(state: TrainingState) -> int:
    """Return how often the optimizer has moved the weights: fewer than the updates where fp16 overflowed."""
    counts = [float(moments[COUNT]) for moments in state.optimizer.state.values() if COUNT in moments]
    return int(max(counts, default=0))


@torch.no_grad()
def _put(found: TensorFile, state: TrainingState) -> None:
    """Copied into place, which keeps each tensor's memory layout and so the order in which sums over it are rounded."""
    state.updates, moves = int(found.metadata["updates"]), int(found.metadata["moves"])
    state.scaler.load_state_dict(json.loads(found.metadata["scaler"]))
    state.parts = int(found.metadata["parts"])
    kinds: dict[str, dict[str, Tensor]] = {name: {} for name in state.parameters}
    for key, tensor in found.tensors.items():
        kind, _, name = key.partition(".")
        kinds[name][kind] = tensor
    for name, parameter in state.parameters.items():
        parameter.copy_(kinds[name].pop(WEIGHT))
        average = kinds[name].pop(AVERAGE, None)
        if state.average is not None and average is not None:
            state.average.weights[name].copy_(average)
        moments = {kind: _like(parameter, tensor) for kind, tensor in kinds[name].items()}
        if moments:
            state.optimizer.state[parameter] = {COUNT: _count(moves, parameter, state.optimizer), **moments}


def _like(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    return torch.zeros_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _count(moves: int, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor | int:
    """As each optimizer keeps it: torch's as a tensor, on the device where it is fused."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return moves
    fused = optimizer.defaults.get("fused")
    return torch.tensor(float(moves), device=parameter.device if fused else "cpu")

"""Checkpoints: the trained weights and AdamW's moments after a step, from which training goes on to the last bit."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agfsync.alignment.safe import TensorFile, read_metadata, read_tensors, write_tensors

KEPT = 2
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in `folder`. Those made under another `digest`, by other settings or pairs, don't count."""

    folder: Path
    digest: str

    def save(self, step: int, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Keeps the state after `step` steps, and the last one before it."""
        tensors = {f"weight.{name}": parameter.detach() for name, parameter in parameters.items()}
        for moment in MOMENTS:
            tensors |= {f"{moment}.{name}": optimizer.state[p][moment] for name, p in parameters.items()}
        write_tensors(self._path(step), tensors, {"digest": self.digest, "step": str(step)})
        kept = [path for _, path in self._found()[:KEPT]]
        # Also what was being written when a run was killed.
        for path in self.folder.glob("*.safetensors*"):
            if path not in kept:
                path.unlink()

    def last(self) -> int:
        """How many steps the last one has seen, 0 if there is none."""
        found = self._found()
        return found[0][0] if found else 0

    def restore(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Puts the last state in place; returns how many steps it has seen, 0 if there is none.

        A file that isn't whole counts as none: from the one before it the very same steps follow.
        """
        for step, path in self._found():
            found = read_tensors(path)
            if found is not None:
                _put(found, step, parameters, optimizer)
                return step
        return 0

    def _found(self) -> list[tuple[int, Path]]:
        """Ours, the last first."""
        headed = [(read_metadata(path), path) for path in self.folder.glob("*.safetensors")]
        ours = [(int(head["step"]), path) for head, path in headed if head and head.get("digest") == self.digest]
        return sorted(ours, reverse=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:07}.safetensors"


@torch.no_grad()
def _put(
    found: TensorFile, step: int, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Copied into place, which keeps each tensor's memory layout and so the order in which sums over it are rounded."""
    for name, parameter in parameters.items():
        parameter.copy_(found.tensors[f"weight.{name}"])
        moments = {moment: torch.zeros_like(parameter).copy_(found.tensors[f"{moment}.{name}"]) for moment in MOMENTS}
        optimizer.state[parameter] = {"step": _step(step, parameter, optimizer), **moments}


def _step(step: int, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    fused = optimizer.defaults.get("fused")
    return torch.tensor(float(step), device=parameter.device if fused else "cpu")

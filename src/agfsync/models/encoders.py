"""The networks of a pipeline, kept in memory or on the accelerator only while they are needed."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from agfsync.engine.batch_fitting import release_memory
from agfsync.models import NETWORKS


class Encoders:
    """The text encoders and the VAE of `pipeline`, which can be released; `read` loads a network again.

    A released network stays the same object with its configuration, but its weights are on PyTorch's meta device, where
    they take no memory, and `pipeline` has None in its place. If `are_changed` is True, the weights differ from the
    model's files, and nothing is released.

    If `take_turns` is True, only the networks in use are on the pipeline's device; the others are in CPU memory.
    """

    def __init__(self, pipeline: Any, read: Callable[[str], nn.Module]) -> None:
        self._pipeline, self._read, self._device = pipeline, read, torch.device("cpu")
        self.are_changed = self.take_turns = False
        parts = pipeline.components.items()
        self._networks = {n: each for n, each in parts if isinstance(each, nn.Module) and n not in NETWORKS}

    def move_pipeline(self, device: torch.device) -> None:
        """Set the device, also for networks that are loaded later; move the pipeline there unless they take turns."""
        self._device = device
        self._place(() if self.take_turns else self._pipeline.components)

    def take_turn(self, *names: str) -> None:
        """If the networks take turns, move `names` to the pipeline's device, and all others to CPU memory."""
        if self.take_turns:
            self._place(names)
            release_memory()

    def _place(self, names: Collection[str]) -> None:
        """Move all other networks to CPU memory, then the networks `names` to the device."""
        parts = {n: each for n, each in self._pipeline.components.items() if isinstance(each, nn.Module)}
        # A method that steers the sampling may need a gradient through them.
        with torch.inference_mode(False):
            for name in sorted(parts, key=lambda name: name in names):
                if not _is_dropped(parts[name]):
                    parts[name].to(self._device if name in names else "cpu")

    def release(self) -> None:
        """Free the weights of all of them."""
        for name, network in self._networks.items() if not self.are_changed else ():
            network.to("meta")
            vars(self._pipeline)[name] = None  # not by its __setattr__, which would forget the network's class
        release_memory()

    def require(self, *names: str) -> None:
        """Load the networks `names` (by default all) if they are released.

        Raises:
            ModelError: a network can't be read any more.
        """
        for name in names or self._networks:
            network = self._networks[name]
            if _is_dropped(network):
                # A VAE that is loaded while an image is drawn may later have to pass a gradient.
                with torch.inference_mode(False):
                    read = self._read(name).to(self._device)
                vars(network).clear()
                vars(network).update(vars(read))  # in place, since others reference the network
            vars(self._pipeline)[name] = network

    def require_text(self) -> None:
        """Load the text encoders, and move them to the device if the networks take turns."""
        if names := [name for name in self._networks if name != "vae"]:
            self.require(*names)
            self.take_turn(*names)


def _is_dropped(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())

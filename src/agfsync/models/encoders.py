"""The networks of a pipeline: in memory, or on the accelerator, only while they are needed."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from agfsync.engine.batch_fitting import release_memory
from agfsync.models import NETWORKS


class Encoders:
    """The text encoders and the VAE of `pipeline`, which can be dropped and are read again by `read`.

    A dropped network stays the same object: its configuration is kept, and its weights are on PyTorch's meta device,
    where they take no memory. `pipeline` has None in its place meanwhile. Nothing is dropped if the weights
    `are_changed`, and aren't those of the model's files any more.

    If the networks of `pipeline` `take_turns`, those that aren't at work wait in the machine's memory.
    """

    def __init__(self, pipeline: Any, read: Callable[[str], nn.Module]) -> None:
        self._pipeline, self._read, self._device = pipeline, read, torch.device("cpu")
        self.are_changed = self.take_turns = False
        parts = pipeline.components.items()
        self._networks = {n: each for n, each in parts if isinstance(each, nn.Module) and n not in NETWORKS}

    def move_pipeline(self, device: torch.device) -> None:
        """Move the whole pipeline to `device`, where networks that are read later go too."""
        self._device = device
        self._place(() if self.take_turns else self._pipeline.components)

    def take_turn(self, *names: str) -> None:
        """Have the networks `names` of the pipeline alone on its device, if they take turns."""
        if self.take_turns:
            self._place(names)
            release_memory()

    def _place(self, names: Collection[str]) -> None:
        """Move the networks `names` to the device, after all others to the machine's memory."""
        parts = {n: each for n, each in self._pipeline.components.items() if isinstance(each, nn.Module)}
        # A method that steers the drawing may take a gradient through them.
        with torch.inference_mode(False):
            for name in sorted(parts, key=lambda name: name in names):
                if not _is_dropped(parts[name]):
                    parts[name].to(self._device if name in names else "cpu")

    def release(self) -> None:
        """Drop the weights of all of them."""
        for name, network in self._networks.items() if not self.are_changed else ():
            network.to("meta")
            vars(self._pipeline)[name] = None  # past its __setattr__, which would forget the network's class
        release_memory()

    def require(self, *names: str) -> None:
        """Have the networks `names`, all by default, in memory.

        Raises:
            ModelError: one can't be read any more.
        """
        for name in names or self._networks:
            network = self._networks[name]
            if _is_dropped(network):
                # A VAE that is read while an image is drawn may have to pass a gradient later.
                with torch.inference_mode(False):
                    read = self._read(name).to(self._device)
                vars(network).clear()
                vars(network).update(vars(read))  # in place: others hold the network
            vars(self._pipeline)[name] = network

    def require_text(self) -> None:
        """Have the text encoders in memory, and at work."""
        if names := [name for name in self._networks if name != "vae"]:
            self.require(*names)
            self.take_turn(*names)


def _is_dropped(network: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in network.parameters())

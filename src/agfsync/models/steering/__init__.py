"""Training-free methods: they steer the sampler of a model and don't change its weights.

A method is a class of the catalog kind "methods" that trains nothing and has `begin`. It only holds settings; all state
of a prompt is created for one batch.

Legend: B images in the batch, C H W latent channels, height, width.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from agfsync import catalog
from agfsync.language.parsing import Parser
from agfsync.models.architecture import Conditioning, Size


@dataclass(frozen=True, slots=True)
class SteerableModel:
    """A UNet with a steered sampler, and the parts of its pipeline that a method may use."""

    network: nn.Module
    tokenizer: Any
    encode: Callable[[Sequence[str]], Conditioning]
    """prompts -> conditioning, float32, one row for each prompt"""
    predict: Callable[[nn.Module, Tensor, Tensor, Conditioning], Tensor]
    """(network, noisy latents (B, C, H, W), timesteps (B,), conditioning) -> prediction, outside autocast"""
    size: Size
    """the size of the images, in pixels"""
    latent_size: Size


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """A batch to be drawn: its prompts, and their conditioning with the embedding noise (Eq. 1) added.

    `noise` is that noise, by the names of the conditioning's tensors. The timesteps of `scheduler` are set.
    """

    prompts: Sequence[str]
    conditioning: Conditioning
    noise: Mapping[str, Tensor]
    scheduler: Any


class SteeredDrawing(Protocol):
    """The steering of one batch."""

    def attached(self) -> AbstractContextManager[None]:
        """Return the context in which the sampler calls the network; leaving it restores the network.

        Under guidance, the rows with the prompts are the last B of 2 B.
        """
        ...

    def before_step(self, step: int, latents_BCHW: Tensor) -> Tensor:
        """Return the latents, float32, from which the step at `scheduler.timesteps[step]` starts.

        It is called in `torch.inference_mode`, before `scheduler.scale_model_input`. Rows that aren't steered are
        returned unchanged, bit for bit.
        """
        ...


class Steering(Protocol):
    """A training-free method; the parameters of its class are its settings."""

    identity: str
    """The digest of everything that affects its images: its settings and its parser's identity."""

    def begin(self, model: SteerableModel, batch: DrawnBatch) -> SteeredDrawing | None:
        """Return the steering of a batch; None if none of its prompts has words for the method to steer by."""
        ...


class SteeringMethod:
    """The base class of the training-free methods: methods of the catalog that need and train nothing."""

    needs: ClassVar[Literal["nothing"]] = "nothing"
    trains: ClassVar[Literal["nothing"]] = "nothing"
    uses_reference: ClassVar[bool] = False
    curves: ClassVar[Sequence[str]] = ()


def load_steering(settings: Mapping[str, Any]) -> Steering:
    """Return the method that `settings` describe; their `type` is its name in the catalog.

    Raises:
        RecipeError: there is no such method or parser, or a package that it needs isn't installed.
    """
    steering: Steering = catalog.build("methods", settings)
    return steering


def load_parser(parser: str | Mapping[str, Any]) -> Parser:
    """Return the parser with this name, or with these settings.

    Raises:
        RecipeError: there is no such parser, or a package that it needs isn't installed.
    """
    loaded: Parser = catalog.build("parsers", {"type": parser} if isinstance(parser, str) else parser)
    return loaded


def count_steps(part: float, steps: int) -> int:
    """Return `part` as a number of steps: if it is above 1 it is one, otherwise it is a share of all `steps`.

    >>> count_steps(0.5, 50), count_steps(25, 30), count_steps(1, 30), count_steps(0.2, 51)
    (25, 25, 30, 10)
    """
    return int(part) if part > 1 else int(part * steps + 1e-9)

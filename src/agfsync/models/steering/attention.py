"""The cross-attention of a UNet: find its grids, and record its maps.

Legend: R rows, T tokens of the text, N cells of a grid, D width of the layer's inputs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.models.architecture import Size
from agfsync.models.configuration import CROSS_ATTENTION

PIXELS_A_CELL = 32
"""The side, in pixels of the image, of a cell of the default grid: 16 x 16 cells at 512 pixels, as published."""


def list_grids(config: Mapping[str, Any], latent_size: Size) -> dict[int, Size]:
    """Return the grids of a UNet's cross-attention for latents of `latent_size`: level -> height and width.

    >>> cross, plain = "CrossAttn{}Block2D", "{}Block2D"
    >>> down = (*[cross.format("Down")] * 3, plain.format("Down"))
    >>> up = (plain.format("Up"), *[cross.format("Up")] * 3)
    >>> middle = CROSS_ATTENTION[1]
    >>> list_grids({"down_block_types": down, "mid_block_type": middle, "up_block_types": up}, (64, 64))
    {0: (64, 64), 1: (32, 32), 2: (16, 16), 3: (8, 8)}
    """
    down, up = config["down_block_types"], config["up_block_types"]
    (going_down, middle, going_up), last = CROSS_ATTENTION, len(down) - 1
    levels = {level for level, kind in enumerate(down) if kind == going_down}
    levels |= {last} if config.get("mid_block_type") == middle else set()
    levels |= {last - place for place, kind in enumerate(up) if kind == going_up}
    return {level: _shrink(latent_size, level) for level in sorted(levels)}


def choose_level(grids: Mapping[int, Size], size: Size, grid: int | None) -> int:
    """Return the level of the grid with a shorter side of `grid` cells.

    By default it is the grid nearest to cells of 32 pixels in an image of `size`; of two, the finer one.

    Raises:
        ModelError: there is no such grid.
    """
    if not grids:
        raise ModelError("the UNet has no cross-attention whose maps could be read")
    if grid is None:
        wanted = ceil(min(size) / PIXELS_A_CELL)
        return min(grids, key=lambda level: (abs(min(grids[level]) - wanted), level))
    for level, there in grids.items():
        if min(there) == grid:
            return level
    listed = ", ".join(f"{min(there)} ({there[0]} x {there[1]})" for there in grids.values())
    raise ModelError(f"the UNet has no cross-attention on a grid of {grid}: set it to auto, or one of {listed}")


def list_cross_attention(network: nn.Module, level: int | None = None) -> list[Any]:
    """Return the cross-attention layers of a UNet, of one level or of all, in their order of execution."""
    last = len(list(network.get_submodule("down_blocks").children())) - 1
    named = {name: layer for name, layer in network.named_modules() if name.endswith(".attn2")}
    at = {name: _find_level(name, last) for name in named}
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    chosen = [name for name in named if level is None or at[name] == level]
    return [named[name] for name in sorted(chosen, key=lambda name: order.get(name.split(".")[0], 3))]


def record_maps(layers: Sequence[Any], run: Callable[[], object]) -> Tensor:
    """Return the attention maps during `run`, averaged over `layers` and their heads: float32 (R, T, N).

    The forward pass stops when the maps of the last layer are recorded. Softmax and mean are computed in float32.
    """
    maps: list[Tensor] = []

    def record(layer: Any, pixels_RND: Tensor, text_RTD: Tensor) -> None:
        maps.append(_sum_heads(layer, pixels_RND, text_RTD))
        if len(maps) == len(layers):
            raise _AllRecordedError

    with recording(layers, record), suppress(_AllRecordedError):
        run()
    mean_RNT: Tensor = torch.stack(maps).sum(0) / sum(layer.heads for layer in layers)
    return mean_RNT.transpose(1, 2)


@contextmanager
def recording(layers: Sequence[Any], record: Callable[[Any, Tensor, Tensor], None]) -> Iterator[None]:
    """Within the context, call `record` with each layer, its pixels and its text before the layer computes."""
    with replaced_processors(layers, lambda original: _RecordingProcessor(original, record)):
        yield


@contextmanager
def replaced_processors(layers: Sequence[Any], make: Callable[[Any], Any]) -> Iterator[None]:
    """Within the context, replace the processor of each layer by `make(processor)`."""
    originals = [layer.processor for layer in layers]
    try:
        for layer, original in zip(layers, originals, strict=True):
            layer.set_processor(make(original))
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.set_processor(original)


class _AllRecordedError(Exception):
    """Stops a forward pass when all maps are recorded."""


class _RecordingProcessor:
    """Calls `record` with the layer's inputs, then the `original` processor."""

    def __init__(self, original: Any, record: Callable[[Any, Tensor, Tensor], None]) -> None:
        self._original, self._record = original, record

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **more: Any
    ) -> Tensor:
        """Record the inputs, and return the layer's output. The parameters have the names that diffusers passes."""
        self._record(attn, hidden_states, encoder_hidden_states)
        given: Tensor = self._original(attn, hidden_states, encoder_hidden_states, *rest, **more)
        return given


def _sum_heads(layer: Any, pixels_RND: Tensor, text_RTD: Tensor) -> Tensor:
    """Return the sum over the heads of softmax(Q K^T / sqrt(d)): float32 (R, N, T)."""
    text_RTD = layer.norm_encoder_hidden_states(text_RTD) if layer.norm_cross else text_RTD
    query, key = (
        states.unflatten(-1, (layer.heads, -1)).transpose(1, 2).float()
        for states in (layer.to_q(pixels_RND), layer.to_k(text_RTD))
    )
    shares_RHNT: Tensor = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1)
    return shares_RHNT.sum(1)


def _shrink(size: Size, level: int) -> Size:
    """Return the size after `level` halvings, each rounded up."""
    height, width = size
    for _ in range(level):
        height, width = ceil(height / 2), ceil(width / 2)
    return height, width


def _find_level(name: str, last: int) -> int:
    """Return the level of a layer by its name in the UNet, such as "up_blocks.1.attentions.0..."."""
    block, _, rest = name.partition(".")
    if block == "mid_block":
        return last
    place = int(rest.split(".")[0])
    return place if block == "down_blocks" else last - place

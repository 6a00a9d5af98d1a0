"""Attend-and-Excite: move the latents until some part of the image attends to each noun.

arXiv:2301.13826. Legend: B images, C H W latent channels, height, width, T tokens, N cells of the attention's grid.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from agfsync.language.parsing import Parser
from agfsync.models.architecture import Size
from agfsync.models.steering import DrawnBatch, SteerableModel, SteeringMethod, count_steps, load_parser
from agfsync.models.steering.descent import MapsDescent, move_rows
from agfsync.models.steering.pieces import split_prompt
from agfsync.records import digest

SHARPNESS = 100.0
"""The factor on the maps before the softmax over tokens."""
SMOOTHING = 0.5
"""The standard deviation, in cells, of the 3 x 3 Gaussian that smooths a noun's map."""
LEAST_FACTOR = 0.5
"""The square of the factor on the strength at the last step; at the first step it is 1."""
Refinement = tuple[float, float]
"""A step (a share of all steps if at most 1), and the attention that each noun must reach at this step."""
_PUBLISHED: tuple[Refinement, ...] = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))
"""steps 0, 10 and 20 of 50"""


@dataclass(frozen=True, slots=True)
class ExcitedNouns:
    """The nouns of a prompt, each as its pieces, and the pieces over which attention is normalised."""

    nouns: tuple[tuple[int, ...], ...]
    compared: tuple[int, ...]


class AttendAndExcite(SteeringMethod):
    """The method `attend-and-excite`: a gradient step on the latents before each of the first sampling steps.

    The loss is that of the most neglected noun: 1 - the maximum over pixels of its smoothed attention, which is
    relative to all tokens. The update `latents <- latents - strength * s * gradient` applies in the first `until` steps
    (a number, or a share if at most 1); s falls from 1 to sqrt(0.5) over all steps. At the steps of `refine`, the
    update is first repeated until each noun reaches the given attention, at most `refinements` times (0: never). For a
    noun of several pieces, the piece with the most attention counts. With `tokens` "all", the attention is relative to
    all tokens but the first and the last (published for 1.x), with "prompt" only to the prompt's own (published for
    2.1); "auto" is "prompt" if the padding token isn't the end token, as in 2.x.
    """

    def __init__(
        self,
        *,
        strength: float = 20.0,
        until: float = 0.5,
        refine: Sequence[Sequence[float]] = _PUBLISHED,
        refinements: int = 20,
        grid: int | Literal["auto"] = "auto",
        tokens: Literal["auto", "all", "prompt"] = "auto",
        parser: str | Mapping[str, Any] = "spacy",
    ) -> None:
        self._parser = load_parser(parser)
        self._strength, self._until, self._tokens, self._refinements = strength, until, tokens, refinements
        self._refine = [(float(step), float(least)) for step, least in refine]
        self._grid = None if grid == "auto" else grid
        settings = (strength, until, self._refine, refinements, grid, tokens)
        self.identity = digest("attend-and-excite", *settings, self._parser.identity)

    def begin(self, model: SteerableModel, batch: DrawnBatch) -> "ExcitedDrawing | None":
        """Return the steering of a batch; None if none of its prompts has a noun."""
        found = {p: find_nouns(self._parser, model.tokenizer, p, self._tokens) for p in dict.fromkeys(batch.prompts)}
        rows = {row: found[prompt] for row, prompt in enumerate(batch.prompts) if found[prompt].nouns}
        if not rows:
            return None
        descent = MapsDescent(model, batch, self._grid)
        least = {count_steps(step, descent.steps): attention for step, attention in self._refine}
        until = count_steps(self._until, descent.steps)
        return ExcitedDrawing(rows, descent, self._strength, until, least, self._refinements)


@dataclass(frozen=True, slots=True)
class ExcitedDrawing:
    """The steering of one batch; `rows` are the rows of prompts with nouns."""

    rows: Mapping[int, ExcitedNouns]
    descent: MapsDescent
    strength: float
    until: int
    refine: Mapping[int, float]
    refinements: int

    def attached(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: the network itself isn't changed."""
        return nullcontext()

    def before_step(self, step: int, latents_BCHW: Tensor) -> Tensor:
        """Return the latents after this step's refinement and, in the first `until` steps, one more update."""
        rows, strength = list(self.rows), self.strength * fall_off(step, self.descent.steps)
        for _ in range(self.refinements if step in self.refine else 0):
            losses_R, rising_RCHW = self.descent.measure(step, latents_BCHW, rows, self._loss)
            left = [place for place, loss in enumerate(losses_R.tolist()) if loss > 1 - self.refine[step]]
            if not left:
                break
            rows = [rows[place] for place in left]
            latents_BCHW = move_rows(latents_BCHW, rows, strength * rising_RCHW[left])
        if step >= self.until:
            return latents_BCHW
        rows = list(self.rows)
        _, rising_RCHW = self.descent.measure(step, latents_BCHW, rows, self._loss)
        return move_rows(latents_BCHW, rows, strength * rising_RCHW)

    def _loss(self, row: int, maps_TN: Tensor) -> Tensor:
        return compute_neglect(maps_TN, self.rows[row], self.descent.grid)


def fall_off(step: int, steps: int) -> float:
    """Return the factor on the strength: the square root of a line from 1 at the first step to 0.5 at the last.

    >>> fall_off(0, 50), round(fall_off(49, 50), 4)
    (1.0, 0.7071)
    """
    return sqrt(1 - (1 - LEAST_FACTOR) * step / max(1, steps - 1))


def find_nouns(parser: Parser, tokenizer: Any, prompt: str, tokens: str = "auto") -> ExcitedNouns:
    """Return the nouns of a prompt, without truncated nouns, and the pieces over which attention is normalised."""
    syntax, pieces = parser.parse(prompt), split_prompt(tokenizer, prompt)
    of_word = pieces.match_words(syntax.words)
    nouns = tuple(of_word[noun] for noun in syntax.nouns if of_word[noun])
    if tokens == "auto":
        tokens = "all" if tokenizer.pad_token_id == tokenizer.eos_token_id else "prompt"
    compared = pieces.kept if tokens == "prompt" else tuple(range(1, tokenizer.model_max_length - 1))
    return ExcitedNouns(nouns, compared)


def compute_neglect(maps_TN: Tensor, excited: ExcitedNouns, grid: Size) -> Tensor:
    """Return the loss of a prompt's most neglected noun, in 0..1, from the prompt's attention maps (T, N), float32."""
    shares_TN = (SHARPNESS * maps_TN[list(excited.compared)]).softmax(0)
    place = {piece: number for number, piece in enumerate(excited.compared)}
    smooth = [smooth_maps(shares_TN[[place[piece] for piece in noun]], grid) for noun in excited.nouns]
    return torch.stack([1 - maps.amax() for maps in smooth]).amax().clamp(min=0)


def smooth_maps(maps_GN: Tensor, grid: Size) -> Tensor:
    """Return maps (G, N) on `grid`, smoothed by a 3 x 3 Gaussian of `SMOOTHING` with mirrored borders: (G, N)."""
    if min(grid) < 2:  # nothing to mirror
        return maps_GN
    distances = torch.arange(-1.0, 2.0, device=maps_GN.device)
    line = torch.exp(-(distances**2) / (2 * SMOOTHING**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    images = functional.pad(maps_GN.unflatten(-1, grid)[:, None], (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(images, kernel[None, None].to(maps_GN.dtype)).flatten(1)

"""SynGen: move each modifier's attention map towards its noun's, and away from those of other words.

Linguistic Binding in Diffusion Models, arXiv:2306.08877. Legend: B images, C H W latent channels, height, width, T
tokens, N cells of the attention's grid, G pieces of a group, U other pieces.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from agfsync.language.parsing import Parser, Syntax
from agfsync.models.steering import DrawnBatch, SteerableModel, SteeringMethod, count_steps, load_parser
from agfsync.models.steering.descent import MapsDescent, move_rows
from agfsync.models.steering.pieces import PromptPieces, split_prompt
from agfsync.records import digest

Pieces = tuple[int, ...]
"""The pieces of a word."""


@dataclass(frozen=True, slots=True)
class BoundWords:
    """A group of words that belong together: (modifier, noun) pairs; the modifier is empty for a noun without one.

    `others` are all other pieces of the prompt between its first and last token.
    """

    pairs: tuple[tuple[Pieces, Pieces], ...]
    others: Pieces


class SynGen(SteeringMethod):
    """The method `syngen`: before each of the first steps, latents <- latents - strength * gradient of the loss.

    The loss is a sum over pairs, from the cross-attention maps of the conditional half: the distance between modifier
    and noun, minus the mean distance of both to all other words. The distance is the mean of both KL divergences
    between the maps as distributions over pixels (Eq. 1 to 4). `until` is the number of steps, or a share of them if at
    most 1; `grid` is the shorter side of the maps. With `entities`, nouns without modifiers also move away from other
    words.
    """

    def __init__(
        self,
        *,
        strength: float = 20.0,
        until: float = 0.5,
        grid: int | Literal["auto"] = "auto",
        entities: bool = False,
        parser: str | Mapping[str, Any] = "spacy",
    ) -> None:
        self._parser = load_parser(parser)
        self._strength, self._until, self._entities = strength, until, entities
        self._grid = None if grid == "auto" else grid
        self.identity = digest("syngen", strength, until, grid, entities, self._parser.identity)

    def begin(self, model: SteerableModel, batch: DrawnBatch) -> "SynGenDrawing | None":
        """Return the steering of a batch; None if none of its prompts has bound words."""
        bound = {p: bind_prompt(self._parser, model.tokenizer, p, self._entities) for p in dict.fromkeys(batch.prompts)}
        rows = {row: bound[prompt] for row, prompt in enumerate(batch.prompts) if bound[prompt]}
        if not rows:
            return None
        descent = MapsDescent(model, batch, self._grid)
        return SynGenDrawing(rows, descent, self._strength, count_steps(self._until, descent.steps))


@dataclass(frozen=True, slots=True)
class SynGenDrawing:
    """The steering of one batch; `rows` are the rows of prompts with bound words."""

    rows: Mapping[int, Sequence[BoundWords]]
    descent: MapsDescent
    strength: float
    until: int

    def attached(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: the network itself isn't changed."""
        return nullcontext()

    def before_step(self, step: int, latents_BCHW: Tensor) -> Tensor:
        """Return the latents after one step of gradient descent, in the first `until` steps; unchanged later."""
        if step >= self.until:
            return latents_BCHW
        rows = list(self.rows)
        _, rising_RCHW = self.descent.measure(step, latents_BCHW, rows, self._loss)
        return move_rows(latents_BCHW, rows, self.strength * rising_RCHW)

    def _loss(self, row: int, maps_TN: Tensor) -> Tensor:
        return compute_binding_loss(maps_TN, self.rows[row])


def bind_prompt(parser: Parser, tokenizer: Any, prompt: str, entities: bool = False) -> list[BoundWords]:
    """Return the groups of a prompt's bound words, by its syntax, without truncated words."""
    return bind_pieces(parser.parse(prompt), split_prompt(tokenizer, prompt), entities)


def bind_pieces(syntax: Syntax, pieces: PromptPieces, entities: bool = False) -> list[BoundWords]:
    """Return the groups of bound words as pieces. No two groups share a word, so no pair is pulled apart."""
    of_word = pieces.match_words(syntax.words)
    groups = [tuple(pair for pair in group if all(of_word[word] for word in pair)) for group in syntax.groups]
    bound = [[(of_word[modifier], of_word[noun]) for modifier, noun in group] for group in groups if group]
    modified = {word for group in groups for pair in group for word in pair}
    if entities:
        alone = (noun for noun in syntax.nouns if noun not in modified and of_word[noun])
        bound += [[((), of_word[noun])] for noun in alone]
    return [BoundWords(tuple(pairs), _list_others(pairs, pieces.kept)) for pairs in bound]


def compute_binding_loss(maps_TN: Tensor, bound: Sequence[BoundWords]) -> Tensor:
    """Return the loss of one prompt, a scalar, from its attention maps (T, N), positive float32.

    It is the sum of d(m, n) - (mean_u d(n, u) + mean_u d(m, u)) / 2 over all pairs of a modifier m and a noun n, with u
    over all pieces outside of the pair's group, and of -mean_u d(n, u) for nouns without modifiers. The distance of
    words with several pieces is the largest distance of their pieces.
    """
    terms = [term for words in bound for term in _list_terms(maps_TN, words)]
    return torch.stack(terms).sum()


def measure_distances(one_GN: Tensor, other_UN: Tensor) -> Tensor:
    """Return the mean of both KL divergences between rows, as distributions over the N cells: (G, U).

    In logarithms, probabilities are clamped to eps..1 - eps of float32, as in `torch.distributions`.
    """
    (p_GN, log_p_GN), (q_UN, log_q_UN) = _to_distributions(one_GN), _to_distributions(other_UN)
    # A single formula for both avoids the difference of two large terms.
    return ((p_GN[:, None] - q_UN) * (log_p_GN[:, None] - log_q_UN)).sum(-1) / 2


def _list_terms(maps_TN: Tensor, words: BoundWords) -> list[Tensor]:
    others_UN = maps_TN[list(words.others)]
    distinct = dict.fromkeys(word for pair in words.pairs for word in pair if word)
    away = {word: _measure_away(maps_TN[list(word)], others_UN) for word in distinct}
    terms: list[Tensor] = []
    for modifier, noun in words.pairs:
        if modifier:
            near = measure_distances(maps_TN[list(modifier)], maps_TN[list(noun)]).amax()
            terms.append(near - (away[noun] + away[modifier]) / 2)
        else:
            terms.append(-away[noun])
    return terms


def _measure_away(word_GN: Tensor, others_UN: Tensor) -> Tensor:
    """Return the mean distance of a word to the other pieces; 0 if there are none."""
    if not len(others_UN):
        return word_GN.new_zeros(())
    return measure_distances(word_GN, others_UN).amax(0).mean()


def _to_distributions(maps_TN: Tensor) -> tuple[Tensor, Tensor]:
    shares_TN = maps_TN / maps_TN.sum(-1, keepdim=True)
    least = torch.finfo(shares_TN.dtype).eps
    return shares_TN, shares_TN.clamp(least, 1 - least).log()


def _list_others(pairs: Sequence[tuple[Pieces, Pieces]], kept: Pieces) -> Pieces:
    members = {piece for pair in pairs for word in pair for piece in word}
    return tuple(piece for piece in kept if piece not in members)

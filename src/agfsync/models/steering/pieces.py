"""The pieces into which a tokenizer splits a prompt's words, by character offsets.

A piece is identified by its position among the text encoder's tokens; 0 is the first special token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agfsync.errors import ModelError
from agfsync.language.parsing import Span


@dataclass(frozen=True, slots=True)
class PromptPieces:
    """The pieces of a prompt. Truncated pieces have `ids` and `spans`, but aren't `kept`."""

    ids: Sequence[int]
    """the ids of all tokens, including special ones"""
    spans: dict[int, Span]
    """piece -> its characters, in the prompt's order"""
    kept: tuple[int, ...]
    """the pieces that the text encoder reads"""

    def match_words(self, words: Sequence[Span]) -> list[tuple[int, ...]]:
        """Return each word's pieces; none for a truncated word, or if all of its pieces belong to other words.

        A piece across several words belongs to the word that it shares the most characters with.
        """
        found: list[list[int]] = [[] for _ in words]
        for piece, span in self.spans.items():
            shares = [_count_shared(span, word) for word in words]
            if shares and max(shares) > 0:
                found[shares.index(max(shares))].append(piece)
        return [tuple(pieces) if set(pieces) <= set(self.kept) else () for pieces in found]

    def match_phrase(self, phrase: Span) -> tuple[int, ...]:
        """Return the consecutive pieces of a phrase; none if it is truncated, or begins or ends within a piece."""
        pieces = [piece for piece, span in self.spans.items() if _count_shared(span, phrase)]
        if not pieces or not set(pieces) <= set(self.kept) or any(b - a != 1 for a, b in pairwise(pieces)):
            return ()
        fits = phrase[0] <= self.spans[pieces[0]][0] and self.spans[pieces[-1]][1] <= phrase[1]
        return tuple(pieces) if fits else ()


def split_prompt(tokenizer: Any, prompt: str) -> PromptPieces:
    """Return the pieces of `prompt`.

    Raises:
        ModelError: the tokenizer gives no character offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"a {type(tokenizer).__name__} gives no character offsets, by which a prompt's words are found: the model"
            f" needs a tokenizer that the tokenizers library runs"
        )
    tokens = tokenizer(prompt, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    rows = zip(tokens.special_tokens_mask, tokens.offset_mapping, strict=True)
    spans = {
        position: _strip(prompt, start, end)
        for position, (special, (start, end)) in enumerate(rows)
        if not special and end > start
    }
    # The last token that the encoder reads is special.
    kept = tuple(position for position in spans if position < tokenizer.model_max_length - 1)
    return PromptPieces(list(tokens.input_ids), spans, kept)


def _strip(prompt: str, start: int, end: int) -> Span:
    """Return the span without surrounding white space, which some tokenizers include in a piece."""
    text = prompt[start:end]
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def _count_shared(one: Span, other: Span) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))

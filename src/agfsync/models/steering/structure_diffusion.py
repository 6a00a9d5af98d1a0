"""StructureDiffusion: the values of the cross-attention come from the noun phrases, each encoded alone.

Training-Free Structured Diffusion Guidance, arXiv:2212.05032. Legend: B images, R steered rows, T tokens, D width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agfsync.language.parsing import Parser
from agfsync.models.architecture import TEXT_STATES
from agfsync.models.steering import DrawnBatch, SteerableModel, SteeringMethod, load_parser
from agfsync.models.steering.attention import list_cross_attention, replaced_processors
from agfsync.models.steering.pieces import split_prompt
from agfsync.records import digest

_AT_ONCE = 32
"""the most phrases that are encoded at once"""


@dataclass(frozen=True, slots=True)
class PhrasePieces:
    """A noun phrase of a prompt, and its pieces."""

    text: str
    pieces: tuple[int, ...]


class StructureDiffusion(SteeringMethod):
    """The method `structure-diffusion`: in each step, the conditional half also reads each noun phrase alone.

    V_0 is the encoded prompt; V_i is V_0 with the pieces of the i-th noun phrase replaced by the phrase encoded alone.
    The attention takes its keys from V_0, and its values from the mean of V_0, V_1, ... With `conjunction`, for prompts
    such as "A and B", there is one attention with the keys of each V_0, V_1, ..., all with the values of the text in
    which all phrases are replaced (inner phrases last); their outputs are averaged.
    """

    def __init__(self, *, conjunction: bool = False, parser: str | Mapping[str, Any] = "spacy") -> None:
        self._parser, self._conjunction = load_parser(parser), conjunction
        self.identity = digest("structure-diffusion", conjunction, self._parser.identity)

    def begin(self, model: SteerableModel, batch: DrawnBatch) -> "StructuredDrawing | None":
        """Return the steering of a batch; None if none of its prompts has a noun phrase."""
        found = {p: find_phrases(self._parser, model.tokenizer, p) for p in dict.fromkeys(batch.prompts)}
        rows = [row for row, prompt in enumerate(batch.prompts) if found[prompt]]
        if not rows:
            return None
        read = _encode_phrases(model, [phrase.text for phrases in found.values() for phrase in phrases])
        sequences = []
        for row in rows:
            phrases = [(phrase.pieces, read[phrase.text]) for phrase in found[batch.prompts[row]]]
            text_TD, noise_TD = batch.conditioning[TEXT_STATES][row], batch.noise[TEXT_STATES][row]
            sequences.append(substitute_phrases(text_TD, noise_TD, phrases))
        layers = list_cross_attention(model.network)
        attach = _average_keys if self._conjunction else _average_values
        return StructuredDrawing(lambda: attach(layers, len(batch.prompts), rows, sequences))


@dataclass(frozen=True, slots=True)
class StructuredDrawing:
    """The steering of one batch."""

    attach: Callable[[], AbstractContextManager[None]]

    def attached(self) -> AbstractContextManager[None]:
        """Return the context in which the cross-attention of the steered rows is changed."""
        return self.attach()

    def before_step(self, step: int, latents_BCHW: Tensor) -> Tensor:
        """Return the latents unchanged."""
        return latents_BCHW


@dataclass(frozen=True, slots=True)
class PhraseSequences:
    """Texts of one prompt, each (T, D), float32: `each` is V_0, V_1, ...; `joint` has all phrases replaced."""

    each: Sequence[Tensor]
    joint: Tensor


def find_phrases(parser: Parser, tokenizer: Any, prompt: str) -> list[PhrasePieces]:
    """Return the noun phrases of a prompt that the tokenizer splits in the same way alone and within the prompt.

    Phrases that are truncated, or begin or end within a piece, are left out.
    """
    pieces = split_prompt(tokenizer, prompt)
    phrases = []
    for start, end in parser.parse(prompt).phrases:
        text, within = prompt[start:end], pieces.match_phrase((start, end))
        alone = split_prompt(tokenizer, text)
        if within and [alone.ids[n] for n in alone.kept] == [pieces.ids[n] for n in within]:
            phrases.append(PhrasePieces(text, within))
    return phrases


def substitute_phrases(
    text_TD: Tensor, noise_TD: Tensor, phrases: Sequence[tuple[tuple[int, ...], Tensor]]
) -> PhraseSequences:
    """Return the texts with `phrases` replaced; each is given by its pieces and its own encoding, (T, D).

    `text_TD` includes the embedding noise `noise_TD`, which is also added to the replacements.
    """
    each, joint_TD = [text_TD], text_TD.clone()
    for pieces, alone_TD in phrases:
        at, replaced_TD = list(pieces), text_TD.clone()
        # Encoded alone, a phrase begins after the first special token.
        replaced_TD[at] = alone_TD[1 : 1 + len(at)] + noise_TD[at]
        joint_TD[at] = replaced_TD[at]
        each.append(replaced_TD)
    return PhraseSequences(each, joint_TD)


def _encode_phrases(model: SteerableModel, texts: Sequence[str]) -> dict[str, Tensor]:
    distinct = list(dict.fromkeys(texts))
    read: dict[str, Tensor] = {}
    for start in range(0, len(distinct), _AT_ONCE):
        some = distinct[start : start + _AT_ONCE]
        read |= zip(some, model.encode(some)[TEXT_STATES], strict=True)
    return read


@contextmanager
def _average_values(
    layers: Sequence[Any], batch: int, rows: Sequence[int], sequences: Sequence[PhraseSequences]
) -> Iterator[None]:
    """Within the context, take the values from the mean text: values are linear in the text, so this is their mean."""
    mean_RTD = torch.stack([torch.stack(list(each.each)).mean(0) for each in sequences])

    def replace_text(layer: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        text_BTD, *rest = given
        replaced_BTD = text_BTD.clone()
        replaced_BTD[_locate_rows(text_BTD, batch, rows)] = mean_RTD.to(text_BTD.dtype)
        return (replaced_BTD, *rest)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.to_v.register_forward_pre_hook(replace_text).remove)
        yield


@contextmanager
def _average_keys(
    layers: Sequence[Any], batch: int, rows: Sequence[int], sequences: Sequence[PhraseSequences]
) -> Iterator[None]:
    """Within the context, average the outputs over several keys, with the values of the joint text."""
    with replaced_processors(layers, lambda original: _ConjunctionProcessor(original, batch, rows, sequences)):
        yield


class _ConjunctionProcessor:
    """Calls the `original` processor, and for the steered rows again with each of their keys."""

    def __init__(self, original: Any, batch: int, rows: Sequence[int], sequences: Sequence[PhraseSequences]) -> None:
        self._original, self._batch, self._rows, self._sequences = original, batch, rows, sequences

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *rest: Any, **more: Any
    ) -> Tensor:
        """Return the layer's output. The parameters have the names that diffusers passes."""
        output: Tensor = self._original(attn, hidden_states, encoder_hidden_states, *rest, **more)
        output, dtype = output.clone(), encoder_hidden_states.dtype
        at = _locate_rows(encoder_hidden_states, self._batch, self._rows)
        sums = torch.zeros_like(output[at])
        for number in range(max(len(each.each) for each in self._sequences)):
            having = [place for place, each in enumerate(self._sequences) if number < len(each.each)]
            keys = torch.stack([self._sequences[place].each[number] for place in having]).to(dtype)
            values = torch.stack([self._sequences[place].joint for place in having]).to(dtype)
            hook = attn.to_v.register_forward_pre_hook(lambda layer, given, values=values: (values, *given[1:]))
            try:
                sums[having] += self._original(attn, hidden_states[[at[p] for p in having]], keys, *rest, **more)
            finally:
                hook.remove()
        counts = torch.tensor([len(each.each) for each in self._sequences], device=sums.device, dtype=sums.dtype)
        output[at] = sums / counts[:, None, None]
        return output


def _locate_rows(text_BTD: Tensor, batch: int, rows: Sequence[int]) -> list[int]:
    """Return the indices of `rows` in the conditional half, which is the last `batch` rows."""
    return [len(text_BTD) - batch + row for row in rows]

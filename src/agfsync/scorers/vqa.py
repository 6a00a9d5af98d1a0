"""The VQA scorer: a vision-language model answers every question about an image (Eq. 2).

The image towers of BLIP and BLIP-2 don't see the question, so an image is encoded once for all of its questions. Yes or
no is the first token of an answer, so one step of the decoder is enough. Questions are batched across
images.

Shapes: B images, C, H, W their pixels, L the features of each, D their width; Q questions, T tokens; V the vocabulary.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Blip2ForConditionalGeneration, BlipForQuestionAnswering

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.scorers import Item, Measurement, Unscored, measure_answers

YES = ("yes", "Yes", " yes", " Yes")
NO = ("no", "No", " no", " No")
"""Accepted spellings: byte-pair vocabularies have another token for a word after a space."""
Padding = Literal["left", "right", "none"]
QUESTIONS_AT_ONCE = 128
_LONGEST_QUESTION = 256
"""The most tokens of a question; the rest of a longer one is cut."""


class Vqa:
    """The share of the questions to which the model gives the caption's answer: 100 x correct / asked (Eq. 2).

    The hard answer is the likelier of yes and no as the first token of the model's reply, which is also the greedy one
    if that is yes or no at all. P(yes), recorded with it, is the softmax over these two, each by its likeliest
    spelling; so the answer is yes exactly if P(yes) is above one half.

    `path` is a folder or a hub id of any BLIP-2, or of BLIP for question answering. `template` is the request's text
    with {} in the place of the question; by default `question_template` of the model's configuration, if it has one.
    """

    asks_questions = True

    def __init__(
        self,
        *,
        path: str,
        template: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._reader = _load_reader(path, revision, dtype, device)
        self._template = template or self._reader.template
        self._processor = pretrained.load_image_processor(path, revision)
        self._tokenizer = pretrained.load_tokenizer(path, revision)
        self._yes, self._no = (find_spellings(self._tokenizer, words) for words in (YES, NO))

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item: a value with every answer, or `Unscored` if it has no questions."""
        texts = [[question.text for question in item.questions] for item in items]
        p_yes = self.p_yes([item.image for item in items], texts)
        return [measure_answers(item.questions, p) for item, p in zip(items, p_yes, strict=True)]

    @torch.inference_mode()
    def p_yes(self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return P(yes) in 0..1 of each image's questions, in order."""
        asked = [image for image, texts in zip(images, questions, strict=True) if texts]
        if not asked:
            return [[] for _ in images]
        features_BLD = self._encode_images(asked)
        owners = [row for row, texts in enumerate(filter(None, questions)) for _ in texts]
        answers = iter(self._ask_questions(features_BLD, owners, [text for texts in questions for text in texts]))
        return [list(islice(answers, len(texts))) for texts in questions]

    def _encode_images(self, images: list[Image.Image]) -> Tensor:
        pixels_BCHW = self._processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        return self._reader.encode(pixels_BCHW)

    def _ask_questions(self, features_BLD: Tensor, owners: list[int], questions: list[str]) -> list[float]:
        """Return P(yes) of question q on image `owners[q]`, asked in batches of like length, in order."""
        prompts = [fill_template(self._template, question) for question in questions]
        ids = self._tokenizer(prompts, truncation=True, max_length=_LONGEST_QUESTION)["input_ids"]
        p_yes = torch.empty(len(ids))
        for chunk in _batch_by_length([len(tokens) for tokens in ids], self._reader.padding):
            features_QLD = features_BLD[[owners[q] for q in chunk]]
            ids_QT, mask_QT = _pad_tokens([ids[q] for q in chunk], self._reader.padding)
            logits_QV = self._reader.first_logits(
                features_QLD, ids_QT.to(features_QLD.device), mask_QT.to(features_QLD.device)
            )
            p_yes[chunk] = compute_p_yes(logits_QV, self._yes, self._no)
        return [float(p) for p in p_yes]


def compute_p_yes(logits_QV: Tensor, yes: Sequence[int], no: Sequence[int]) -> Tensor:
    """Return P(yes) against no, each by the likeliest of its tokens, fp32 on the CPU, Q."""
    logits_QV = logits_QV.float()
    return (logits_QV[:, yes].amax(1) - logits_QV[:, no].amax(1)).sigmoid().cpu()


def find_spellings(tokenizer: Any, spellings: Sequence[str]) -> list[int]:
    """Return the tokens that are one of `spellings` in full.

    Raises:
        ModelError: the vocabulary has none.
    """
    encoded = (tokenizer.encode(text, add_special_tokens=False) for text in spellings)
    tokens = sorted({ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id})
    if not tokens:
        raise ModelError(f"{tokenizer.name_or_path}: its vocabulary has no token for '{spellings[0]}'")
    return tokens


def fill_template(template: str, question: str) -> str:
    """Return `template` with `question` in the place of {} or {question}; other braces are its own."""
    return template.replace("{question}" if "{question}" in template else "{}", question)


def _batch_by_length(lengths: Sequence[int], padding: Padding) -> Iterator[list[int]]:
    """Yield indices in batches of like length, of equal length where there may be no padding."""
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups = groupby(by_length, lengths.__getitem__) if padding == "none" else [(0, by_length)]
    for _, group in groups:
        rest = iter(group)
        while chunk := list(islice(rest, QUESTIONS_AT_ONCE)):
            yield chunk


def _pad_tokens(ids: Sequence[Sequence[int]], padding: Padding) -> tuple[Tensor, Tensor]:
    """Return tokens QT and their mask QT, 1 where there is a token; the padding's value is never used."""
    rows = [torch.tensor(tokens) for tokens in ids]
    side = "left" if padding == "left" else "right"
    ids_QT = pad_sequence(rows, batch_first=True, padding_side=side)
    return ids_QT, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)


class _Reader(Protocol):
    """A vision-language model, taken apart where the question comes in."""

    template: str
    padding: Padding
    """The side on which shorter questions are filled up."""

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Return features of the images, BLD: the language model's only input from them."""
        ...

    def first_logits(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> Tensor:
        """Return logits of the reply's first token, QV, for each question with its image's features."""
        ...


def _load_reader(model: str, revision: str | None, dtype: str, device: str) -> _Reader:
    kind = pretrained.load_config(model, revision).model_type
    if kind == "blip-2":
        return _Blip2(pretrained.load_model(Blip2ForConditionalGeneration, model, revision, dtype, device))
    if kind == "blip":
        return _Blip(pretrained.load_model(BlipForQuestionAnswering, model, revision, dtype, device))
    raise ModelError(f"{model} is a {kind} model: a vqa scorer takes blip-2, or blip for question answering")


class _Blip2:
    """Vision tower and Q-Former make the features; the language model, T5 or OPT, reads them before the question."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._language_model = model.language_model
        self._decodes_only = bool(model.config.use_decoder_only_language_model)
        self.template = getattr(model.config, "question_template", "Question: {question} Short answer:")
        # A decoder's reply begins after the last token, so that has to be the question's.
        self.padding: Padding = "left" if self._decodes_only else "right"

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        features: Tensor = self._model.get_image_features(
            pixels_BCHW.to(self._model.device, self._model.dtype)
        ).pooler_output
        return features

    def first_logits(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> Tensor:
        words_QTD = self._language_model.get_input_embeddings()(ids_QT)
        inputs: dict[str, Any] = {
            "inputs_embeds": torch.cat([features_QLD.to(words_QTD.dtype), words_QTD], dim=1),
            "attention_mask": torch.cat([mask_QT.new_ones(features_QLD.shape[:2]), mask_QT], dim=1),
        }
        if self._decodes_only:
            inputs["logits_to_keep"] = 1
        else:
            start = self._language_model.generation_config.decoder_start_token_id
            inputs["decoder_input_ids"] = ids_QT.new_full((len(ids_QT), 1), start)
        logits_QV: Tensor = self._language_model(**inputs, use_cache=False).logits[:, -1]
        return logits_QV


class _Blip:
    """The vision tower makes the features; the question's encoder looks at them, and the decoder replies to it."""

    # transformers 5.23 drops the mask on the way to BLIP's cross-attention: the reply would look at the padding.
    padding: Padding = "none"

    def __init__(self, model: Any) -> None:
        self._model = model
        self.template = getattr(model.config, "question_template", "{question}")

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        features: Tensor = self._model.vision_model(
            pixels_BCHW.to(self._model.device, self._model.dtype)
        ).last_hidden_state
        return features

    def first_logits(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> Tensor:
        questions_QTD = self._model.text_encoder(
            input_ids=ids_QT, attention_mask=mask_QT, encoder_hidden_states=features_QLD
        ).last_hidden_state
        logits_QV: Tensor = self._model.text_decoder(
            input_ids=ids_QT.new_full((len(ids_QT), 1), self._model.decoder_start_token_id),
            encoder_hidden_states=questions_QTD,
            encoder_attention_mask=mask_QT,
            use_cache=False,
        ).logits[:, -1]
        return logits_QV

"""The VQA scorer: a vision-language model answers every question about an image (Eq. 2).

The image towers of BLIP and BLIP-2 don't see the question, so an image is encoded once for all its questions. The first
token of an answer is yes or no, so one step of the decoder is enough; other answers are read as in `answering`.
Questions are batched across images.

Shapes: B images, C, H, W their pixels, L the features of each, D their width; Q questions, T tokens, A first tokens of
a reply, K = A + 1; V the vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Blip2ForConditionalGeneration, BlipForQuestionAnswering

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.records import Answer, Question
from agfsync.scorers import Item, Measurement, Unscored, measure_answers
from agfsync.scorers.answering import AnswerTokens, Speller, answer_questions, fill_template, put_question
from agfsync.scorers.sentences import SentenceModel

YES = ("yes", "Yes", " yes", " Yes")
NO = ("no", "No", " no", " No")
"""Accepted spellings: in byte-pair vocabularies a word with a leading space is another token."""
Padding = Literal["left", "right", "none"]
QUESTIONS_AT_ONCE = 128
_LONGEST_QUESTION = 256
"""The most tokens of a question; a longer one is truncated."""
TIFA_CHOICES = "Answer the multiple-choice question. Question: {} Choices: {choices} Answer:"
"""TIFA's template for BLIP-2 and a question with choices (github.com/Yushi-Hu/tifa)."""
BEAMS = 5
"""Beams of BLIP-2's free replies: the default of LAVIS, which TIFA uses."""
_LONGEST_REPLY = 30
"""The most tokens of a free reply."""


class Vqa:
    """The share of the questions to which the model gives the caption's answer: 100 x correct / asked (Eq. 2).

    P(yes) is the softmax over yes and no as the first token of the model's reply, each by its likeliest spelling. The
    answer is yes if P(yes) is above one half, else no. It is the greedy reply, if that is yes or no. P(yes) is recorded
    with the answer.

    `path` is a folder or a hub id of any BLIP-2, or of BLIP for question answering. `template` is the request's text
    with the placeholder {} for the question; by default `question_template` of the model's configuration, if it has
    one. `choices_template` is the text for a question with choices, with the placeholder {choices}; by default TIFA's
    for BLIP-2, and `template` for BLIP, which wasn't trained on choices.

    With `nearest`, a folder or hub id of a sentence model, a question with choices is answered as in TIFA
    (arXiv:2303.11897): the model replies freely, greedily or with 5 beams (BLIP-2), and a reply that isn't one of the
    choices is replaced by the nearest choice in meaning.
    """

    asks_questions = True
    takes_any_answer = True

    def __init__(
        self,
        *,
        path: str,
        template: str | None = None,
        choices_template: str | None = None,
        nearest: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._reader = _load_reader(path, revision, dtype, device)
        self._template = template or self._reader.template
        self._choices_template = choices_template or self._reader.choices_template or self._template
        self._nearest = SentenceModel(nearest, device=device) if nearest else None
        self._processor = pretrained.load_image_processor(path, revision)
        self._tokenizer = pretrained.load_tokenizer(path, revision)
        self._yes, self._no = (find_spellings(self._tokenizer, words) for words in (YES, NO))
        self._speller = Speller(self._tokenizer)

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item: a value with every answer, or `Unscored` if it has no questions."""
        questions = [question for item in items for question in item.questions]
        prompts = [[self._put(question) for question in item.questions] for item in items]
        found: dict[int, Answer | Unscored] = {}
        for asked in self._ask([item.image for item in items], prompts):
            found |= zip(asked.places, self._answer([questions[q] for q in asked.places], asked), strict=True)
        answers = (found[q] for q in range(len(questions)))
        return [measure_answers(item.questions, list(islice(answers, len(item.questions)))) for item in items]

    @torch.inference_mode()
    def p_yes(self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return P(yes) in 0..1 of each image's questions, in order."""
        prompts = [[fill_template(self._template, question) for question in texts] for texts in questions]
        p_yes = torch.empty(sum(map(len, questions)))
        for asked in self._ask(images, prompts):
            p_yes[asked.places] = compute_p_yes(asked.first_QV, self._yes, self._no)
        answers = iter(p_yes.tolist())
        return [list(islice(answers, len(texts))) for texts in questions]

    def _put(self, question: Question) -> str:
        shows_choices = not question.is_yes_no or self._nearest is not None
        return put_question(question, self._choices_template if shows_choices else self._template, self._template)

    def _answer(self, questions: Sequence[Question], asked: "_Asked") -> list[Answer | Unscored]:
        p_yes = compute_p_yes(asked.first_QV, self._yes, self._no).tolist()
        read = partial(self._read_replies, asked)
        found = answer_questions(questions, p_yes, asked.first_QV, self._speller, read)
        if self._nearest is None:
            return found
        replies_QT = self._reader.reply(asked.features_QLD, asked.ids_QT, asked.mask_QT)
        said = self._tokenizer.batch_decode(replies_QT, skip_special_tokens=True)
        return [self._nearest.replace(*each) for each in zip(found, questions, said, strict=True)]

    def _read_replies(self, asked: "_Asked", begun: Sequence[tuple[int, AnswerTokens]]) -> Iterator[Tensor]:
        """Yield the logits (K, V) for each question and the first tokens of its reply."""
        rest = iter(begun)
        while some := list(islice(rest, QUESTIONS_AT_ONCE)):
            rows = [q for q, _ in some]
            begun_QA = pad_sequence([torch.tensor(tokens) for _, tokens in some], batch_first=True)
            yield from self._reader.logits(
                asked.features_QLD[rows], asked.ids_QT[rows], asked.mask_QT[rows], begun_QA.to(asked.ids_QT.device)
            )

    def _encode_images(self, images: list[Image.Image]) -> Tensor:
        pixels_BCHW = self._processor([image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        return self._reader.encode(pixels_BCHW)

    def _ask(self, images: Sequence[Image.Image], prompts: Sequence[Sequence[str]]) -> "Iterator[_Asked]":
        """Ask all prompts, in batches of similar length."""
        shown = [image for image, texts in zip(images, prompts, strict=True) if texts]
        if not shown:
            return
        features_BLD = self._encode_images(shown)
        owners = [row for row, texts in enumerate(filter(None, prompts)) for _ in texts]
        flat = [text for texts in prompts for text in texts]
        ids = self._tokenizer(flat, truncation=True, max_length=_LONGEST_QUESTION)["input_ids"]
        for chunk in _batch_by_length([len(tokens) for tokens in ids], self._reader.padding):
            features_QLD = features_BLD[[owners[q] for q in chunk]]
            ids_QT, mask_QT = _pad_tokens([ids[q] for q in chunk], self._reader.padding)
            inputs = features_QLD, ids_QT.to(features_QLD.device), mask_QT.to(features_QLD.device)
            nothing_QA = inputs[1][:, :0]
            yield _Asked(chunk, *inputs, self._reader.logits(*inputs, nothing_QA)[:, 0])


@dataclass(frozen=True, slots=True)
class _Asked:
    """A batch of prompts: their indices `places` among all prompts, their inputs, and the logits of the first token."""

    places: list[int]
    features_QLD: Tensor
    ids_QT: Tensor
    mask_QT: Tensor
    first_QV: Tensor


def compute_p_yes(logits_QV: Tensor, yes: Sequence[int], no: Sequence[int]) -> Tensor:
    """Return P(yes) against no, each by the likeliest of its tokens, fp32 (Q,) on the CPU."""
    logits_QV = logits_QV.float()
    return (logits_QV[:, yes].amax(1) - logits_QV[:, no].amax(1)).sigmoid().cpu()


def find_spellings(tokenizer: Any, spellings: Sequence[str]) -> list[int]:
    """Return the ids of all tokens that are one of `spellings` as a whole.

    Raises:
        ModelError: the vocabulary has none.
    """
    encoded = (tokenizer.encode(text, add_special_tokens=False) for text in spellings)
    tokens = sorted({ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id})
    if not tokens:
        raise ModelError(f"{tokenizer.name_or_path}: its vocabulary has no token for '{spellings[0]}'")
    return tokens


def _batch_by_length(lengths: Sequence[int], padding: Padding) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, of equal length if `padding` is "none"."""
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups = groupby(by_length, lengths.__getitem__) if padding == "none" else [(0, by_length)]
    for _, group in groups:
        rest = iter(group)
        while chunk := list(islice(rest, QUESTIONS_AT_ONCE)):
            yield chunk


def _pad_tokens(ids: Sequence[Sequence[int]], padding: Padding) -> tuple[Tensor, Tensor]:
    """Return tokens (Q, T) and their mask (Q, T), 1 for a token; the value of the padding is never used."""
    rows = [torch.tensor(tokens) for tokens in ids]
    side = "left" if padding == "left" else "right"
    ids_QT = pad_sequence(rows, batch_first=True, padding_side=side)
    return ids_QT, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)


class _Reader(Protocol):
    """A vision-language model in two parts: the encoder of images, and the model that reads the question."""

    template: str
    choices_template: str | None
    padding: Padding
    """The side on which shorter questions are padded."""

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the features of the images (B, L, D), the language model's only input from them."""
        ...

    def logits(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor, begun_QA: Tensor) -> Tensor:
        """Return the logits (Q, K, V) of the reply's first token and of the token after each of `begun_QA`.

        Shorter rows of `begun_QA` are padded on the right.
        """
        ...

    def reply(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> Tensor:
        """Return the tokens of each question's free reply, with special tokens."""
        ...


def _load_reader(model: str, revision: str | None, dtype: str, device: str) -> _Reader:
    kind = pretrained.load_config(model, revision).model_type
    if kind == "blip-2":
        return _Blip2(pretrained.load_model(Blip2ForConditionalGeneration, model, revision, dtype, device))
    if kind == "blip":
        return _Blip(pretrained.load_model(BlipForQuestionAnswering, model, revision, dtype, device))
    raise ModelError(f"{model} is a {kind} model: a vqa scorer takes blip-2, or blip for question answering")


class _Blip2:
    """Vision tower and Q-Former compute the features; the language model, T5 or OPT, reads them before the question."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._language_model = model.language_model
        self._decodes_only = bool(model.config.use_decoder_only_language_model)
        self.template = getattr(model.config, "question_template", "Question: {question} Short answer:")
        self.choices_template: str | None = TIFA_CHOICES
        # A decoder's reply follows the last token, which therefore has to be the question's.
        self.padding: Padding = "left" if self._decodes_only else "right"

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        features: Tensor = self._model.get_image_features(
            pixels_BCHW.to(self._model.device, self._model.dtype)
        ).pooler_output
        return features

    def logits(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor, begun_QA: Tensor) -> Tensor:
        kept = begun_QA.shape[1] + 1
        if self._decodes_only:
            ids_QT = torch.cat([ids_QT, begun_QA], dim=1)
            mask_QT = torch.cat([mask_QT, torch.ones_like(begun_QA)], dim=1)
        inputs = self._embed(features_QLD, ids_QT, mask_QT)
        if self._decodes_only:
            inputs["logits_to_keep"] = kept
        else:
            start = self._language_model.generation_config.decoder_start_token_id
            inputs["decoder_input_ids"] = torch.cat([ids_QT.new_full((len(ids_QT), 1), start), begun_QA], dim=1)
        logits_QKV: Tensor = self._language_model(**inputs, use_cache=False).logits[:, -kept:]
        return logits_QKV

    def reply(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> Tensor:
        inputs = self._embed(features_QLD, ids_QT, mask_QT)
        tokens_QT: Tensor = self._language_model.generate(
            **inputs, max_new_tokens=_LONGEST_REPLY, num_beams=BEAMS, do_sample=False
        )
        return tokens_QT

    def _embed(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> dict[str, Any]:
        words_QTD = self._language_model.get_input_embeddings()(ids_QT)
        return {
            "inputs_embeds": torch.cat([features_QLD.to(words_QTD.dtype), words_QTD], dim=1),
            "attention_mask": torch.cat([mask_QT.new_ones(features_QLD.shape[:2]), mask_QT], dim=1),
        }


class _Blip:
    """The vision tower computes the features; the question's encoder attends to them, the decoder to the encoder."""

    # transformers 5.23 drops the mask of BLIP's cross-attention: the reply would attend to the padding.
    padding: Padding = "none"

    def __init__(self, model: Any) -> None:
        self._model = model
        self.template = getattr(model.config, "question_template", "{question}")
        self.choices_template: str | None = None

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        features: Tensor = self._model.vision_model(
            pixels_BCHW.to(self._model.device, self._model.dtype)
        ).last_hidden_state
        return features

    def logits(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor, begun_QA: Tensor) -> Tensor:
        start_Q1 = ids_QT.new_full((len(ids_QT), 1), self._model.decoder_start_token_id)
        logits_QKV: Tensor = self._model.text_decoder(
            input_ids=torch.cat([start_Q1, begun_QA], dim=1),
            encoder_hidden_states=self._look(features_QLD, ids_QT, mask_QT),
            encoder_attention_mask=mask_QT,
            use_cache=False,
        ).logits
        return logits_QKV

    def reply(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> Tensor:
        text = self._model.config.text_config
        tokens_QT: Tensor = self._model.text_decoder.generate(
            input_ids=ids_QT.new_full((len(ids_QT), 1), self._model.decoder_start_token_id),
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            encoder_hidden_states=self._look(features_QLD, ids_QT, mask_QT),
            encoder_attention_mask=mask_QT,
            max_new_tokens=_LONGEST_REPLY,
            do_sample=False,
        )
        return tokens_QT[:, 1:]

    def _look(self, features_QLD: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> Tensor:
        questions_QTD: Tensor = self._model.text_encoder(
            input_ids=ids_QT, attention_mask=mask_QT, encoder_hidden_states=features_QLD
        ).last_hidden_state
        return questions_QTD

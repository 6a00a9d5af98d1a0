"""Scorers on any image-text-to-text model that transformers loads without remote code, in this process.

`vlm` asks the caption's questions (Eq. 2), `vqascore` asks whether the image shows the prompt. The decoder reads the
image before the question, so its cache of the image's keys and values serves all questions about the image. The first
token of an answer is yes or no; other answers are read as in `answering`.

Shapes: Q texts on an image, T tokens, K last positions of a text, W distinct positions of a batch, V the vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForImageTextToText, GenerationConfig, ProcessorMixin

from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.records import Answer, Question
from agfsync.scorers import Item, Measurement, Unscored, measure_answers
from agfsync.scorers.answering import AnswerTokens, Speller, answer_questions, fill_template, put_question
from agfsync.scorers.vqa import NO, YES, compute_p_yes, find_spellings

TEMPLATE = "{}\nAnswer with one word: yes or no."
WORD_TEMPLATE = "{}\nAnswer with one word."
CHOICES_TEMPLATE = "{}\nAnswer with one of these: {choices}."
SHOWS = 'Does this figure show "{}"? Please answer yes or no.'
"""The question of VQAScore (github.com/linzhiqiu/t2v_metrics)."""
TEXTS_AT_ONCE = 32
"""Batch size of the decoder: texts on one image."""
_OF_TOKENS = ("input_ids", "token_type_ids", "mm_token_type_ids", "attention_mask")
"""A processor's outputs that have a value for each token; the other outputs are the image."""
_TOLERANCES = {torch.float32: 1e-3}
_TOLERANCE = 0.1
"""The largest difference, relative to their spread, of logits with and without a cached image, in half precision."""


class Vlm:
    """The share of the questions to which the model gives the caption's answer: 100 x correct / asked (Eq. 2).

    P(yes) is computed as in `Vqa`: the softmax over yes and no as the first token of the reply, each by its likeliest
    spelling. `path` is a folder or a hub id. `template` is the text that follows the image in the model's own chat
    format, with the placeholder {} for the question. `choices_template` is the text for a question with choices, with
    the placeholder {choices}. Without a `template`, a question that has neither choices nor a yes/no answer uses
    `WORD_TEMPLATE`.
    """

    asks_questions = True
    takes_any_answer = True

    def __init__(
        self,
        *,
        path: str,
        template: str | None = None,
        choices_template: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._reader = ImageReader(path, revision, dtype, device)
        self._template, self._word_template = template or TEMPLATE, template or WORD_TEMPLATE
        self._choices_template = choices_template or CHOICES_TEMPLATE
        self._speller = Speller(self._reader.tokenizer)
        self._yes, self._no = (find_spellings(self._reader.tokenizer, words) for words in (YES, NO))

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item: a value with every answer, or `Unscored` if it has no questions."""
        return [measure_answers(item.questions, self._answer(item)) for item in items]

    def p_yes(self, images: Sequence[Image.Image], questions: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return P(yes) in 0..1 of each image's questions, in order."""
        prompts = [[fill_template(self._template, text) for text in texts] for texts in questions]
        first = [
            self._reader.read(image, texts)[:, -1] if texts else None
            for image, texts in zip(images, prompts, strict=True)
        ]
        return [[] if each is None else compute_p_yes(each, self._yes, self._no).tolist() for each in first]

    def _answer(self, item: Item) -> list[Answer | Unscored]:
        if not item.questions:
            return []
        prompts = [self._put(question) for question in item.questions]
        first_QV = self._reader.read(item.image, prompts)[:, -1]

        def read_replies(begun: Sequence[tuple[int, AnswerTokens]]) -> Iterator[Tensor]:
            texts = [prompts[q] for q, _ in begun]
            yield from self._reader.read(item.image, texts, [tokens for _, tokens in begun])

        p_yes = compute_p_yes(first_QV, self._yes, self._no).tolist()
        return answer_questions(item.questions, p_yes, first_QV, self._speller, read_replies)

    def _put(self, question: Question) -> str:
        if question.is_yes_no:
            return fill_template(self._template, question.text)
        return put_question(question, self._choices_template, self._word_template)


class VqaScore:
    """VQAScore of image and prompt: 100 x sqrt(P(Yes) P(end | Yes)) of the model's reply (arXiv:2404.01291).

    Both probabilities are over the whole vocabulary. "Yes" has the likelier of two spellings, with or without a leading
    space. The published models fit the image into a square; this scorer uses the model's own processor. `template` is
    the text of the request, with the placeholder {} for the prompt.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        path: str,
        template: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._reader = ImageReader(path, revision, dtype, device)
        self._template = template or SHOWS
        self._yes = find_spellings(self._reader.tokenizer, ("Yes", " Yes"))
        self._ends = self._reader.ends

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item, in order."""
        return [self._measure(item) for item in items]

    def _measure(self, item: Item) -> Measurement | Unscored:
        text = fill_template(self._template, item.prompt)
        logits_QKV = self._reader.read(item.image, [text] * len(self._yes), [(token,) for token in self._yes])
        yes, end = logits_QKV.double().log_softmax(-1).unbind(1)
        likeliest = int(yes[0, self._yes].argmax())
        value = ((yes[likeliest, self._yes[likeliest]] + end[likeliest, self._ends].logsumexp(0)) / 2).exp()
        if not value.isfinite():
            return Unscored("the model's answer is not a number")
        return Measurement(min(100 * float(value), 100.0))


class ImageReader:
    """A vision-language model that reads several texts on an image, which it encodes once.

    One text on the first image is also read without the image's cache. If the results differ, as they may for decoders
    that aren't causal, every text is read alone from then on.
    """

    def __init__(self, path: str, revision: str | None, dtype: str, device: str) -> None:
        self._model = pretrained.load_model(AutoModelForImageTextToText, path, revision, dtype, device)
        self._processor = pretrained.load_processor(path, revision)
        self._preprocess = self._processor.image_processor.preprocess
        self.tokenizer = self._processor.tokenizer
        self._path = path
        self._keeps_images: bool | None = None
        """True if texts may share the image's cache; None if that wasn't tried yet."""
        if not (self._processor.chat_template or self.tokenizer.chat_template):
            raise ModelError(f"{path} has no chat template, so that nothing can be asked: take a model with one")

    @property
    def ends(self) -> list[int]:
        """The tokens that end a reply."""
        config: GenerationConfig = self._model.generation_config
        found = config.eos_token_id if config.eos_token_id is not None else self.tokenizer.eos_token_id
        return [found] if isinstance(found, int) else list(found)

    @torch.inference_mode()
    def read(self, image: Image.Image, texts: Sequence[str], begun: Sequence[AnswerTokens] = ()) -> Tensor:
        """Return the logits of the reply's next token after `image` and each of `texts`, fp32 (Q, K, V) on the CPU.

        Args:
            begun: the first tokens of each text's reply. The logits are then those of the first token and of the token
                after each given one. If a reply begins with fewer tokens than others, ignore its last logits.
        """
        kept = 1 + max(map(len, begun), default=0)
        pixels, inputs = self._process(image, texts, [(*each, *each[:1] * (kept - 1 - len(each))) for each in begun])
        shared = self._count_shared(inputs, kept) if len(inputs) > 1 and self._keeps_images is not False else 0
        if not shared:
            return torch.cat([self._read_alone(pixels, each, kept) for each in inputs])
        logits_QKV = self._read_together(pixels, inputs, shared, kept)
        if self._keeps_images is None:
            longest = max(range(len(inputs)), key=lambda q: inputs[q]["input_ids"].shape[1])
            alone_KV = self._read_alone(pixels, inputs[longest], kept)[0]
            self._keeps_images = _are_alike(logits_QKV[longest], alone_KV, self._model.dtype)
            if not self._keeps_images:
                return self.read(image, texts, begun)
        return logits_QKV

    @torch.inference_mode()
    def reply(self, parts: Sequence[Image.Image | str], most: int) -> tuple[str, bool]:
        """Return the greedy reply to a message of images and texts, and True if it was cut after `most` tokens."""
        self._processor.image_processor.preprocess = self._preprocess
        shown = [part if isinstance(part, str) else part.convert("RGB") for part in parts]
        inputs = {name: self._place(value) for name, value in self._process_prompt(shown).items()}
        with pretrained.silence_transformers():
            said = self._model.generate(**inputs, max_new_tokens=most, do_sample=False)[0]
        said = said[inputs["input_ids"].shape[1] :]
        text: str = self.tokenizer.decode(said, skip_special_tokens=True)
        return text, len(said) >= most and int(said[-1]) not in self.ends

    def _process(
        self, image: Image.Image, texts: Sequence[str], begun: Sequence[AnswerTokens]
    ) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
        """Return the image's inputs, and the inputs of each text's tokens, each (1, T)."""
        done: list[Any] = []

        def preprocess_once(images: Any, *args: Any, **kwargs: Any) -> Any:
            if not done:
                done.append(self._preprocess(images, *args, **kwargs))
            return copy(done[0])

        self._processor.image_processor.preprocess = preprocess_once
        image = image.convert("RGB")
        whole = [self._process_prompt([image, text]) for text in texts]
        inputs = [{name: each[name] for name in _OF_TOKENS if name in each} for each in whole]
        for each, tokens in zip(inputs, begun, strict=bool(begun)):
            for name, tensor in each.items():
                last = {"input_ids": list(tokens), "attention_mask": [1] * len(tokens)}.get(name, [0] * len(tokens))
                each[name] = torch.cat([tensor, tensor.new_tensor([last])], dim=1)
        pixels = {name: self._place(value) for name, value in whole[0].items() if name not in _OF_TOKENS}
        return pixels, inputs

    def _process_prompt(self, parts: Sequence[Image.Image | str]) -> Mapping[str, Any]:
        """Return the model's inputs for a message of images and texts."""
        images = [part for part in parts if not isinstance(part, str)]
        prompt = write_prompt(self._processor, parts)
        begins = self.tokenizer.bos_token is not None and prompt.startswith(self.tokenizer.bos_token)
        processed: Mapping[str, Any] = self._processor(
            images=[images], text=[prompt], return_tensors="pt", add_special_tokens=not begins
        )
        return processed

    def _place(self, value: Any) -> Any:
        """Move an input to the model's device; a floating-point one also gets the model's dtype."""
        if not isinstance(value, Tensor):
            return value
        return value.to(self._model.device, self._model.dtype if value.is_floating_point() else None)

    def _count_shared(self, inputs: Sequence[Mapping[str, Tensor]], kept: int) -> int:
        """Count the tokens of the texts' common prefix; 0 if it doesn't contain the whole image."""
        ids = [each["input_ids"][0].tolist() for each in inputs]
        shortest = min(map(len, ids)) - kept
        shared = next((n for n, tokens in enumerate(zip(*ids, strict=False)) if len(set(tokens)) > 1), shortest)
        shared = min(shared, shortest)
        image = _find_image_token(self._model.config, self._processor)
        return shared if image in ids[0] and image not in ids[0][shared:] else 0

    def _read_alone(self, pixels: Mapping[str, Any], inputs: Mapping[str, Tensor], kept: int) -> Tensor:
        tokens = {name: self._place(tensor) for name, tensor in inputs.items()}
        logits_1KV: Tensor = self._model(**pixels, **tokens, use_cache=False, logits_to_keep=kept).logits
        return logits_1KV.float().cpu()

    def _read_together(
        self, pixels: Mapping[str, Any], inputs: Sequence[Mapping[str, Tensor]], shared: int, kept: int
    ) -> Tensor:
        """Read the first `shared` tokens once, then the rest of each text with their cache."""
        # Without a mask the positions of the rest continue those of the cached tokens, as in `generate`.
        beginning = {name: self._place(each[:, :shared]) for name, each in inputs[0].items() if name != _OF_TOKENS[-1]}
        cache = self._model(**pixels, **beginning, use_cache=True, logits_to_keep=1).past_key_values
        rests = [each["input_ids"][0, shared:] for each in inputs]
        parts = []
        for start in range(0, len(rests), TEXTS_AT_ONCE):
            some = rests[start : start + TEXTS_AT_ONCE]
            is_last = start + TEXTS_AT_ONCE >= len(rests)
            parts.append(self._continue(cache if is_last else deepcopy(cache), some, kept))
        return torch.cat(parts)

    def _continue(self, cache: Any, rests: Sequence[Tensor], kept: int) -> Tensor:
        """Return the logits at the last `kept` positions of each of `rests`, which are padded on the right."""
        cache.batch_repeat_interleave(len(rests))
        ids_QT = self._place(pad_sequence(list(rests), batch_first=True))
        ends = torch.tensor([len(rest) for rest in rests])
        places_QK = ends[:, None] - torch.arange(kept, 0, -1)
        wanted, columns_QK = places_QK.unique(return_inverse=True)
        logits_QWV: Tensor = self._model(
            input_ids=ids_QT, past_key_values=cache, use_cache=True, logits_to_keep=wanted.to(ids_QT.device)
        ).logits
        return logits_QWV.cpu().float()[torch.arange(len(rests))[:, None], columns_QK]


def write_prompt(processor: Any, parts: Sequence[Image.Image | str]) -> str:
    """Return a user message of images and texts in the chat format of `processor`, up to the start of the reply."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    message = {"role": "user", "content": content}
    # Some processors override this method and expect the part for videos, which `load_processor` omits. Thinking is
    # disabled (Qwen3.5), since the answer is the reply's first token; transformers warns if a template has no such
    # option.
    with pretrained.silence_transformers():
        prompt: str = ProcessorMixin.apply_chat_template(
            processor, [message], add_generation_prompt=True, enable_thinking=False
        )
    return prompt


def _find_image_token(config: Any, processor: Any) -> int | None:
    """Return the id of the placeholder token for the image."""
    named = ((config, "image_token_id"), (config, "image_token_index"), (processor, "image_token_id"))
    return next((found for of, name in named if (found := getattr(of, name, None)) is not None), None)


def _are_alike(logits: Tensor, others: Tensor, dtype: torch.dtype) -> bool:
    """Return True if logits (K, V) differ by no more than rounding errors in `dtype`."""
    spread = (others - others.mean(-1, keepdim=True)).norm()
    return bool((logits - others).norm() <= _TOLERANCES.get(dtype, _TOLERANCE) * spread)

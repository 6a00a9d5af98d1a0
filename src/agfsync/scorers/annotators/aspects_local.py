"""The annotator on a local vision-language model of transformers (Qwen-VL, LLaVA, Idefics, Gemma and so on)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from agfsync.chat.replies import UnreadableError, find_answer, parse_reply
from agfsync.errors import ModelError
from agfsync.models import pretrained
from agfsync.scorers.annotators import AnnotationRequest, AspectJudgement, Unjudged
from agfsync.scorers.annotators.aspects import is_refusal, make_reply_shape, read_judgement, write_instructions
from agfsync.scorers.annotators.scoring import REFUSED
from agfsync.scorers.narrow import explain_refusal

AGAIN_TEMPERATURE = 0.7
"""Temperature of the retries after a greedy reply that can't be read."""


class AspectsLocal:
    """The same scores, ranks and reasons as `AspectsOpenAI`, by a model in this process, one request at a time.

    `path` is a folder or hub id of a model that transformers loads as `AutoModelForImageTextToText` without remote code
    and that has a chat template. The first reply is greedy. If it can't be read, up to `retries` more are sampled at
    `AGAIN_TEMPERATURE` with the request's seed.
    """

    def __init__(
        self,
        *,
        path: str,
        aspects: Mapping[str, Mapping[str, Any]],
        retries: int = 2,
        reply_tokens: int = 2048,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._aspects, self._retries, self._reply_tokens = aspects, retries, reply_tokens
        self._model = pretrained.load_model(AutoModelForImageTextToText, path, revision, dtype, device)
        self._processor = pretrained.load_processor(path, revision)
        if not (self._processor.chat_template or self._processor.tokenizer.chat_template):
            raise ModelError(f"{path} has no chat template, so that nothing can be asked: take a model with one")

    def annotate(self, requests: Sequence[AnnotationRequest]) -> Iterator[AspectJudgement | Unjudged]:
        """Yield one reply for each request, in order."""
        return map(self._ask, requests)

    def _ask(self, request: AnnotationRequest) -> AspectJudgement | Unjudged:
        shape, replies, fault = make_reply_shape(len(request.images)), list[str](), ""
        for attempt in range(1 + self._retries):
            try:
                replies.append(self._generate(request, attempt))
            except ValueError as refusal:
                return Unjudged(explain_refusal(request.images, refusal), tuple(replies))
            if is_refusal(replies[-1][slice(*find_answer(replies[-1]))]):
                return Unjudged(REFUSED, tuple(replies), refused=True)
            try:
                return read_judgement(parse_reply(replies[-1], shape), replies)
            except UnreadableError as failure:
                fault = str(failure)
        return Unjudged(f"no reply of the model could be read: {fault}", tuple(replies))

    @torch.inference_mode()
    def _generate(self, request: AnnotationRequest, attempt: int) -> str:
        """Return the model's text: greedy in the first attempt, then sampled with the request's seed."""
        inputs = self._processor.apply_chat_template(
            self._write_messages(request),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        draws = {"do_sample": True, "temperature": AGAIN_TEMPERATURE} if attempt else {"do_sample": False}
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(request.seed + attempt)
            tokens_1T = self._model.generate(**inputs, max_new_tokens=self._reply_tokens, **draws)
        written_1T = tokens_1T[:, inputs["input_ids"].shape[1] :]
        text: str = self._processor.batch_decode(written_1T, skip_special_tokens=True)[0]
        return text

    def _write_messages(self, request: AnnotationRequest) -> list[dict[str, Any]]:
        instructions = write_instructions(request.aspect, self._aspects[request.aspect], len(request.images))
        parts: list[dict[str, Any]] = [{"type": "text", "text": f"{instructions}\n\nPrompt: {request.prompt}"}]
        for number, image in enumerate(request.images, start=1):
            parts += [{"type": "text", "text": f"Picture {number}:"}, {"type": "image", "image": image}]
        return [{"role": "user", "content": parts}]

"""The annotator behind an OpenAI-compatible server: a vision-language model judges all images of a prompt at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agfsync.chat.client import Client, is_flagged
from agfsync.chat.completions import Reply
from agfsync.chat.meter import Meter
from agfsync.chat.threads import map_in_threads
from agfsync.errors import NoReplyError
from agfsync.scorers.annotators import AnnotationRequest, AspectJudgement, Unjudged
from agfsync.scorers.annotators.aspects import is_refusal, make_reply_shape, read_judgement, write_instructions
from agfsync.scorers.annotators.scoring import REFUSED
from agfsync.scorers.vqa_openai import make_data_url


class _DeclinedError(Exception):
    """The model declines to judge."""


class AspectsOpenAI:
    """Scores, ranks and reasons by a model behind a server: one request for each aspect and order of the images.

    Each image is sent inline as lossless PNG after its number. If a reply can't be read or leaves an image out, the
    request is repeated as long as `server.retries` allows. It isn't repeated after a refusal: the field `refusal`,
    finish_reason content_filter, an error about the content, or an answer that begins like a refusal.

    `path` is the server's name of the model, `server` the section `server` of the recipe, `aspects` a mapping of names
    to a `question` and five `levels`. `revision`, `dtype` and `device` are not used. `meter` counts the cost.
    """

    def __init__(
        self,
        *,
        path: str,
        aspects: Mapping[str, Mapping[str, Any]],
        server: Mapping[str, Any] | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
        meter: Meter | None = None,
    ) -> None:
        self._aspects = aspects
        self._client = Client.of_judge("an aspects-openai scorer", path, server, meter)

    def annotate(self, requests: Sequence[AnnotationRequest]) -> Iterator[AspectJudgement | Unjudged]:
        """Yield one reply for each request, in order.

        Raises:
            ModelError: there is no server or no such model, or the server rejects the key.
            BudgetError: the next request might exceed the meter's cap.
        """
        return map_in_threads(self._ask, requests, self._client.at_once)

    def _ask(self, request: AnnotationRequest) -> AspectJudgement | Unjudged:
        replies: list[str] = []

        def inspect(reply: Reply) -> None:
            replies.append(reply.text or reply.aside.get("refusal", ""))
            if "refusal" in reply.aside or reply.finish == "content_filter" or is_refusal(reply.answer):
                raise _DeclinedError

        count = len(request.images)
        instructions = write_instructions(request.aspect, self._aspects[request.aspect], count)
        try:
            shape = make_reply_shape(count)
            found = self._client.ask(instructions, _write_message(request), shape, request.seed, inspect)
        except _DeclinedError:
            return Unjudged(REFUSED, tuple(replies), refused=True)
        except NoReplyError as fault:
            return Unjudged(str(fault), tuple(replies), refused=is_flagged(fault))
        return read_judgement(found, replies)


def _write_message(request: AnnotationRequest) -> list[dict[str, Any]]:
    """Return the parts of the message: the prompt, and each image after its number."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"Prompt: {request.prompt}"}]
    for number, image in enumerate(request.images, start=1):
        parts.append({"type": "text", "text": f"Picture {number}:"})
        parts.append({"type": "image_url", "image_url": {"url": make_data_url(image)}})
    return parts

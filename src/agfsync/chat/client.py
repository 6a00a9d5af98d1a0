"""Asks a model behind an OpenAI-compatible server: OpenAI, Gemini's endpoint, vLLM, Ollama, llama.cpp, transformers."""

import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agfsync.chat.completions import Reply, explain, read_completion
from agfsync.chat.connection import open_client, proxy_in_use
from agfsync.chat.endpoint import BASE_URL, KEY, Endpoint, without_key
from agfsync.chat.meter import Meter, Tokens
from agfsync.chat.refusals import Refusal, adapt, read_refusal, refused_argument
from agfsync.chat.replies import S, UnreadableError, keeps_shape, parse_reply
from agfsync.errors import AgfsyncError, ModelError, NoReplyError

if TYPE_CHECKING:
    import openai

UNLIKE = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)
"""What reading a reply raises that is unlike a chat completion."""
KEY_REFUSED = re.compile(
    r"(?:invalid|incorrect|not valid|missing|expired|no|wrong)\W+(?:\w+\W+){0,3}api[ _-]?key"
    r"|api[ _-]?key\W+(?:\w+\W+){0,4}(?:invalid|incorrect|not valid|missing|expired|required)",
    re.IGNORECASE,
)
NO_CREDIT = re.compile(r"insufficient[ _](?:credit|quota|balance|fund)|(?:out of|no|more) credits", re.IGNORECASE)
FLAGGED = re.compile(r"moderat|flagged|content (?:policy|filter)|safety", re.IGNORECASE)
"""Words of a 403 that is about what was asked, and not about who asked."""

FRAME = 200
"""tokens that a server may put around the messages"""
PICTURE = re.compile(r'data:image/[^"]*')
LARGE_PICTURE, USUAL_PICTURE = 50_000, 1000
"""tokens that a picture sent inline may take at most, and takes where the server doesn't tell; its bytes say nothing"""
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""seconds before a request is repeated whose failure came under status 200: as the openai package waits"""


class _RefusedError(Exception):
    """A server answered, and with no completion."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.words)
        self.refusal = refusal


class Client:
    """Asks one model, from any number of threads. What it notices about the server is remarked on to the meter."""

    def __init__(self, endpoint: Endpoint, meter: Meter) -> None:
        self._endpoint = endpoint
        self._meter = meter
        self._refused: dict[str, int | None] = {} if endpoint.structured else {"response_format": None}
        self._answered = False

    @property
    def limit(self) -> str:
        """What sets the most tokens of a reply, for messages."""
        return f"{self._meter.section}.reply_tokens = {self._endpoint.reply_tokens}"

    def ask(self, instructions: str, data: Mapping[str, Any], shape: type[S], seed: int) -> S:
        """What the model replies to `instructions` on `data`, which is sent as JSON: it is no part of them.

        One budget of repeats covers all that may go wrong: refused for now, failed or hung requests, which the client
        repeats by itself and when the server says (Retry-After), and replies that can't be read.

        Raises:
            NoReplyError: the budget is used up. BudgetError: the request might pass the meter's cap.
            ModelError: no server, no such model, or a key that it doesn't take.
        """
        left = self._endpoint.retries
        while True:
            reply, taken, sent = self._reply(self._arguments(instructions, data, shape, seed + left), left)
            ignored = "response_format" in sent and not keeps_shape(reply.text, reply.cut, shape)
            try:
                found = parse_reply(reply.text, shape)
                if not (reply.cut and _is_empty(found)):
                    self._notice(reply.cut, ignored, spoils=_is_empty(found))
                    return _cleared(found)
                fault = "no whole item in the reply"
            except UnreadableError as failure:
                fault = str(failure)
            self._notice(reply.cut, ignored, spoils=True)
            left -= taken + 1
            if left < 0:
                fault += f": {explain(reply, self.limit)}" + ("; response_format was ignored" if ignored else "")
                raise NoReplyError(f"no reply of {self._endpoint.model} could be read: {fault}")

    def reply(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> Reply:
        """What the model replies to `messages`; `more` are a chat completion's arguments beside the endpoint's.

        Raises:
            NoReplyError, BudgetError, ModelError: as `ask`; but any text is a reply.
        """
        arguments = self._settings() | {"messages": list(messages)} | more
        reply, _, sent = self._reply(arguments, self._endpoint.retries)
        if "logprobs" in sent and reply.unplaced:
            self._meter.remark(
                f"{self._endpoint.server} gives log-probabilities that can't be placed at the beginning of some answers"
                " (thoughts stand before them?): these count by their word, as 1 or 0"
            )
        elif "logprobs" in sent and reply.answer and not reply.first:
            self._meter.remark(
                f"{self._endpoint.server} takes logprobs and gives none: answers count by their word, as 1 or 0"
            )
        return reply

    def _notice(self, cut: bool, ignored: bool, spoils: bool) -> None:
        if cut:
            self._meter.remark(f"replies were cut at {self.limit} (finish_reason length): raise that", spoils=spoils)
        if ignored:
            self._meter.remark(
                f"{self._endpoint.server} takes response_format and doesn't hold '{self._endpoint.model}' to it: a"
                f" server with structured output would, {self._meter.section}.structured=false leaves it out",
                spoils=spoils,
            )

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self._endpoint.model,
            "temperature": self._endpoint.temperature,
            "max_tokens": self._endpoint.reply_tokens,
        }

    def _arguments(self, instructions: str, data: Mapping[str, Any], shape: type[S], seed: int) -> dict[str, Any]:
        messages = [
            {"role": "system", "content": instructions},
            {"role": "user", "content": json.dumps(data, ensure_ascii=False)},
        ]
        schema = {"name": shape.__name__.lower(), "schema": shape.model_json_schema(), "strict": True}
        return self._settings() | {
            "messages": messages,
            # Servers hold seeds in 32 bits.
            "seed": seed % 2**31,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def _reply(self, arguments: Mapping[str, Any], retries: int) -> tuple[Reply, int, Mapping[str, Any]]:
        """The model's reply, how often the request for it was repeated, and the arguments that the server took."""
        import openai

        refused: dict[str, int | None] = {}
        repeated = 0
        while True:
            sent = adapt(arguments, self._refused | refused)
            try:
                reply, taken = self._send(sent, retries - repeated)
            except _RefusedError as failure:
                refusal = failure.refusal
                if found := refused_argument(refusal, sent):
                    refused[found[0]] = found[1]
                elif refusal.inside and refusal.is_transient and repeated < retries:
                    time.sleep(_wait(repeated))
                    repeated += 1
                else:
                    raise self._refusal(refusal) from None
                continue
            except (UnicodeError, OSError) as failure:
                raise ModelError(f"{self._endpoint.server} can't be asked ({type(failure).__name__})") from None
            except openai.APIError as failure:
                # The chain would carry the request with its key, and what the server says of it, into a traceback.
                raise self._fault(failure) from None
            self._remember(refused)
            return reply, repeated + taken, sent

    def _remember(self, refused: Mapping[str, int | None]) -> None:
        """Keep what the server has refused; only now, that it took the rest, is it certain that it was this."""
        for name, value in refused.items():
            self._refused[name] = value
            mend = f"asked with {value}" if value is not None else "asked without it"
            self._meter.remark(f"{self._endpoint.server} refuses {name}: {mend}")

    def _send(self, arguments: dict[str, Any], retries: int) -> tuple[Reply, int]:
        import openai

        most, likely = _sent(arguments)
        with self._meter.request(Tokens(most, self._endpoint.reply_tokens)) as count:
            asked = self._openai.with_options(max_retries=retries).chat.completions.with_raw_response
            try:
                raw = asked.create(**arguments)
            except openai.APIStatusError as failure:
                self._answered = True
                raise _RefusedError(_refusal(failure)) from None
            self._answered = True
            reply = _read(raw.text, self._endpoint.reply_tokens)
            said = len("".join([reply.text, *reply.aside.values()]).encode(errors="replace")) // 4
            count(Tokens(*(reply.tokens or (likely, said))))
        return reply, raw.retries_taken

    @cached_property
    def _openai(self) -> "openai.OpenAI":
        return open_client(self._endpoint)

    def _refusal(self, refusal: Refusal) -> AgfsyncError:
        """What to tell of `refusal`: what concerns every request ends the run, the rest only this one."""
        model, server = self._endpoint.model, self._endpoint.server
        words = without_key(refusal.words)
        status = f" ({refusal.status})" if refusal.status else ""
        says = f" (it says: {words})"
        if refusal.status == 401 or (refusal.status in (400, None) and KEY_REFUSED.search(words)):
            return ModelError(f"{server} refuses the key in {KEY} for '{model}'{status}: mend it{says}")
        if refusal.status == 402 or refusal.code == "insufficient_quota" or NO_CREDIT.search(words):
            return ModelError(f"{server} says that your quota is used up: top it up, then type the same command{says}")
        if refusal.status == 403 and not FLAGGED.search(words):
            return ModelError(f"{server} refuses the key in {KEY} for '{model}'{status}: mend it, or get access{says}")
        if refusal.status == 404:
            ending = "" if self._endpoint.url.rstrip("/").endswith("/v1") else ", which mostly ends in /v1"
            return ModelError(
                f"{server} has no model '{model}'{status}: mend its name or base_url in the recipe{ending}{says}"
            )
        answered = f"answered {refusal.status}" if refusal.status else "answered with no completion"
        return NoReplyError(f"{server} {answered}: {words}")

    def _fault(self, failure: "openai.APIError") -> AgfsyncError:
        """What to tell of a request that got no answer."""
        import openai

        server, url = self._endpoint.server, self._endpoint.url
        if isinstance(failure, openai.APITimeoutError):
            return NoReplyError(f"{server} didn't reply within {self._endpoint.timeout:g} s")
        cause = without_key(str(failure.__cause__ or failure.__class__.__name__))
        if isinstance(failure, openai.APIConnectionError) and not self._answered:
            proxy = proxy_in_use(url)
            through = f", or {proxy}, through whose proxy it is asked," if proxy else ""
            return ModelError(
                f"no language model answers at {server}: start it, or mend {BASE_URL} or base_url{through} ({cause})"
            )
        return NoReplyError(f"the connection to {server} broke ({cause})")


def _wait(repeated: int) -> float:
    """Seconds to wait before a request is repeated, half of them by chance."""
    longest = min(FIRST_WAIT * 2.0**repeated, LONGEST_WAIT)
    return longest * (1 - random.random() / 2)


def _is_empty(found: S) -> bool:
    return not getattr(found, next(iter(type(found).model_fields)))


def _cleared(found: S) -> S:
    """`found` without the key, which a reply may have spelt with JSON's escapes."""
    said = json.dumps(found.model_dump())
    cleared = without_key(said)
    return found if cleared == said else type(found).model_validate_json(cleared)


def _refusal(failure: "openai.APIStatusError") -> Refusal:
    """What a server says under an error's status: the openai package reads one shape of it alone."""
    try:
        found = read_refusal(_parsed(failure.response.text), failure.status_code)
    except UNLIKE:
        found = None
    return found or Refusal(failure.status_code, "nothing")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except UNLIKE:
        return text


def _read(text: str, limit: int) -> Reply:
    """The completion in a body, without the key.

    Raises:
        _RefusedError: it is none.
    """
    body = _parsed(text)
    try:
        refusal, reply = read_refusal(body), read_completion(body, limit)
    except UNLIKE:
        return Reply("", came="it can't be read")
    if refusal is not None:
        raise _RefusedError(refusal)
    aside = {name: without_key(said) for name, said in reply.aside.items()}
    return replace(reply, text=without_key(reply.text), aside=aside)


def _sent(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """How many tokens a request has at most, and likely."""
    text, pictures = PICTURE.subn("", json.dumps(arguments))
    # A token is at least a byte.
    return len(text) + FRAME + pictures * LARGE_PICTURE, len(text) // 4 + pictures * USUAL_PICTURE

"""The client of a model behind an OpenAI-compatible server: OpenAI, Gemini, vLLM, Ollama, llama.cpp, transformers."""

import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel

from agfsync.chat.completions import Reply, explain_reply, read_completion
from agfsync.chat.endpoint import BASE_URL, KEY, Endpoint, find_proxy, hide_key, open_client
from agfsync.chat.meter import Meter, TokenCount
from agfsync.chat.refusals import Refusal, adapt_arguments, find_refused_argument, read_refusal
from agfsync.chat.replies import Shape, UnreadableError, keeps_shape, parse_reply
from agfsync.errors import AgfsyncError, ModelError, NoReplyError

if TYPE_CHECKING:
    import openai

_NO_COMPLETION = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)
"""Errors of parsing a body that isn't a chat completion."""
_KEY_REFUSED = re.compile(
    r"(?:invalid|incorrect|not valid|missing|expired|no|wrong)\W+(?:\w+\W+){0,3}api[ _-]?key"
    r"|api[ _-]?key\W+(?:\w+\W+){0,4}(?:invalid|incorrect|not valid|missing|expired|required)",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(r"insufficient[ _](?:credit|quota|balance|fund)|(?:out of|no|more) credits", re.IGNORECASE)
_FLAGGED = re.compile(r"moderat|flagged|content (?:policy|filter)|safety", re.IGNORECASE)
"""Words of an error that concerns the content of the request, not the key."""

_FRAME_TOKENS = 200
"""Number of tokens that a server may add to the messages."""
_INLINE_IMAGE = re.compile(r'data:image/[^"]*')
_MOST_IMAGE_TOKENS, _USUAL_IMAGE_TOKENS = 50_000, 1000
"""Number of tokens of an inline image, at most and usually: its bytes don't determine it."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""First and longest wait in seconds before a request that failed with status 200 is repeated, as the openai package
does after other failures."""


class _RefusedError(Exception):
    """The server's answer isn't a completion."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.words)
        self.refusal = refusal


class Client:
    """A thread-safe client of one model. It reports remarks about the server to the meter."""

    def __init__(self, endpoint: Endpoint, meter: Meter) -> None:
        self._endpoint = endpoint
        self._meter = meter
        self._refused: dict[str, int | None] = {} if endpoint.structured else {"response_format": None}
        self._answered = False

    @classmethod
    def of_judge(
        cls, who: str, model: str, server: Mapping[str, Any] | None, meter: Meter | None, **settings: Any
    ) -> Self:
        """Return the client of a judge: `model` is its `path` in the recipe, `server` its section `server`.

        Raises:
            ModelError: `who`, such as "a vqa-openai scorer", has no server.
        """
        if server is None:
            raise ModelError(f"{who} needs a server: give server.base_url, or server: {{}} for OpenAI's")
        return cls(Endpoint(model=model, temperature=0.0, **settings, **server), meter or Meter())

    @property
    def at_once(self) -> int:
        """The number of concurrent requests."""
        return self._endpoint.concurrency

    @property
    def limit(self) -> str:
        """The setting that limits the tokens of a reply, for messages."""
        return f"{self._meter.section}.reply_tokens = {self._endpoint.reply_tokens}"

    def ask(
        self,
        instructions: str,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        shape: type[Shape],
        seed: int,
        inspect: Callable[[Reply], object] = lambda reply: None,
    ) -> Shape:
        """Return the model's reply to `instructions` on `data`, in the form of `shape`.

        The retries of the endpoint cover both replies that can't be read and requests that fail, time out or are
        refused for now; the openai package repeats the latter when the server says (Retry-After).

        Args:
            data: a mapping, which is sent as JSON in a message of its own, or the parts of a message, such as images,
                which are sent unchanged.
            inspect: called with each reply before it is parsed; an exception of it ends the retries.

        Raises:
            NoReplyError: no retry is left.
            BudgetError: the request might pass a cap of the meter.
            ModelError: there is no server, no such model, or the key is refused.
        """
        content = json.dumps(data, ensure_ascii=False) if isinstance(data, Mapping) else data
        arguments = self._settings() | {
            "messages": [{"role": "system", "content": instructions}, {"role": "user", "content": content}],
            "response_format": make_response_format(shape),
        }
        left = self._endpoint.retries
        while True:
            # Servers store seeds in 32 bits.
            reply, taken, sent = self._request(arguments | {"seed": (seed + left) % 2**31}, left)
            inspect(reply)
            ignored = "response_format" in sent and not keeps_shape(reply.text, reply.cut, shape)
            try:
                found = parse_reply(reply.text, shape)
                empty = not getattr(found, next(iter(shape.model_fields)))
                if not (reply.cut and empty):
                    self._remark_faults(reply.cut, ignored, spoils=empty)
                    return _hide_key_in(found)
                fault = "no whole item in the reply"
            except UnreadableError as failure:
                fault = str(failure)
            self._remark_faults(reply.cut, ignored, spoils=True)
            left -= taken + 1
            if left < 0:
                fault += f": {explain_reply(reply, self.limit)}" + ("; response_format was ignored" if ignored else "")
                raise NoReplyError(f"no reply of {self._endpoint.model} could be read: {fault}")

    def reply(self, messages: Sequence[Mapping[str, Any]], **more: Any) -> Reply:
        """Return the model's reply to `messages`; `more` are further arguments of a chat completion.

        Raises:
            NoReplyError, BudgetError, ModelError: as in `ask`, except that any text is a valid reply.
        """
        arguments = self._settings() | {"messages": list(messages)} | more
        reply, _, sent = self._request(arguments, self._endpoint.retries)
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

    def _settings(self) -> dict[str, Any]:
        endpoint = self._endpoint
        return {"model": endpoint.model, "temperature": endpoint.temperature, "max_tokens": endpoint.reply_tokens}

    def _remark_faults(self, cut: bool, ignored: bool, spoils: bool) -> None:
        if cut:
            self._meter.remark(f"replies were cut at {self.limit} (finish_reason length): raise that", spoils=spoils)
        if ignored:
            self._meter.remark(
                f"{self._endpoint.server} takes response_format and doesn't hold '{self._endpoint.model}' to it: a"
                f" server with structured output would, {self._meter.section}.structured=false leaves it out",
                spoils=spoils,
            )

    def _request(self, arguments: Mapping[str, Any], retries: int) -> tuple[Reply, int, Mapping[str, Any]]:
        """Return the reply, the number of retries used, and the arguments that the server accepted."""
        import openai

        refused: dict[str, int | None] = {}
        repeated = 0
        while True:
            sent = adapt_arguments(arguments, self._refused | refused)
            try:
                reply, taken = self._send(sent, retries - repeated)
            except _RefusedError as failure:
                refusal = failure.refusal
                if found := find_refused_argument(refusal, sent):
                    refused[found[0]] = found[1]
                elif refusal.inside and refusal.is_transient and repeated < retries:
                    longest = min(_FIRST_WAIT * 2.0**repeated, _LONGEST_WAIT)
                    time.sleep(longest * (1 - random.random() / 2))
                    repeated += 1
                else:
                    raise self._explain_refusal(refusal) from None
                continue
            except (UnicodeError, OSError) as failure:
                raise ModelError(f"{self._endpoint.server} can't be asked ({type(failure).__name__})") from None
            except openai.APIError as failure:
                # A chained exception would show the request with its key in the traceback.
                raise self._explain_failure(failure) from None
            # Recorded only now: the server has accepted the other arguments, so it did refuse these.
            for name, value in refused.items():
                self._refused[name] = value
                mend = f"asked with {value}" if value is not None else "asked without it"
                self._meter.remark(f"{self._endpoint.server} refuses {name}: {mend}")
            return reply, repeated + taken, sent

    def _send(self, arguments: dict[str, Any], retries: int) -> tuple[Reply, int]:
        import openai

        most, likely = _estimate_tokens(arguments)
        with self._meter.request(TokenCount(most, self._endpoint.reply_tokens)) as count:
            completions = self._openai.with_options(max_retries=retries).chat.completions.with_raw_response
            try:
                raw = completions.create(**arguments)
            except openai.APIStatusError as failure:
                self._answered = True
                raise _RefusedError(_read_error(failure)) from None
            self._answered = True
            reply = _read_body(raw.text, self._endpoint.reply_tokens)
            received = len("".join([reply.text, *reply.aside.values()]).encode(errors="replace")) // 4
            count(TokenCount(*(reply.tokens or (likely, received))))
        return reply, raw.retries_taken

    @cached_property
    def _openai(self) -> "openai.OpenAI":
        return open_client(self._endpoint)

    def _explain_refusal(self, refusal: Refusal) -> AgfsyncError:
        """Return the exception for `refusal`: a ModelError, which ends the run, if it concerns every request."""
        model, server = self._endpoint.model, self._endpoint.server
        words = hide_key(refusal.words)
        status = f" ({refusal.status})" if refusal.status else ""
        says = f" (it says: {words})"
        if refusal.status == 401 or (refusal.status in (400, None) and _KEY_REFUSED.search(words)):
            return ModelError(f"{server} refuses the key in {KEY} for '{model}'{status}: mend it{says}")
        if refusal.status == 402 or refusal.code == "insufficient_quota" or _NO_CREDIT.search(words):
            return ModelError(f"{server} says that your quota is used up: top it up, then type the same command{says}")
        if refusal.status == 403 and not _FLAGGED.search(words):
            return ModelError(f"{server} refuses the key in {KEY} for '{model}'{status}: mend it, or get access{says}")
        if refusal.status == 404:
            ending = "" if self._endpoint.url.rstrip("/").endswith("/v1") else ", which mostly ends in /v1"
            return ModelError(
                f"{server} has no model '{model}'{status}: mend its name or base_url in the recipe{ending}{says}"
            )
        answered = f"answered {refusal.status}" if refusal.status else "answered with no completion"
        return NoReplyError(f"{server} {answered}: {words}")

    def _explain_failure(self, failure: "openai.APIError") -> AgfsyncError:
        """Return the exception for a request without an answer."""
        import openai

        server = self._endpoint.server
        if isinstance(failure, openai.APITimeoutError):
            return NoReplyError(f"{server} didn't reply within {self._endpoint.timeout:g} s")
        cause = hide_key(str(failure.__cause__ or failure.__class__.__name__))
        if isinstance(failure, openai.APIConnectionError) and not self._answered:
            proxy = find_proxy(self._endpoint.url)
            through = f", or {proxy}, through whose proxy it is asked," if proxy else ""
            return ModelError(
                f"no language model answers at {server}: start it, or mend {BASE_URL} or base_url{through} ({cause})"
            )
        return NoReplyError(f"the connection to {server} broke ({cause})")


def is_flagged(failure: NoReplyError) -> bool:
    """Return True if the server rejected the request because of its content."""
    return " answered " in str(failure) and _FLAGGED.search(str(failure)) is not None


@cache
def make_response_format(shape: type[BaseModel]) -> dict[str, Any]:
    """Return the argument `response_format` that requests JSON of `shape`."""
    schema = {"name": shape.__name__.lower(), "schema": shape.model_json_schema(), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _hide_key_in(found: Shape) -> Shape:
    """Return `found` without the API key, which a reply may have spelt with JSON escapes."""
    text = json.dumps(found.model_dump())
    hidden = hide_key(text)
    return found if hidden == text else type(found).model_validate_json(hidden)


def _read_error(failure: "openai.APIStatusError") -> Refusal:
    """Return the refusal in an error's body; the openai package parses only one form of it."""
    try:
        found = read_refusal(_parse_body(failure.response.text), failure.status_code)
    except _NO_COMPLETION:
        found = None
    return found or Refusal(failure.status_code, "nothing")


def _parse_body(text: str) -> Any:
    try:
        return json.loads(text)
    except _NO_COMPLETION:
        return text


def _read_body(text: str, limit: int) -> Reply:
    """Parse the completion in a body, and remove the API key.

    Raises:
        _RefusedError: the body isn't a completion.
    """
    body = _parse_body(text)
    try:
        refusal, reply = read_refusal(body), read_completion(body, limit)
    except _NO_COMPLETION:
        return Reply("", came="it can't be read")
    if refusal is not None:
        raise _RefusedError(refusal)
    aside = {name: hide_key(said) for name, said in reply.aside.items()}
    return replace(reply, text=hide_key(reply.text), aside=aside)


def _estimate_tokens(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Return the maximum and the probable number of tokens of a request."""
    text, images = _INLINE_IMAGE.subn("", json.dumps(arguments))
    # A token is at least a byte.
    most = len(text) + _FRAME_TOKENS + images * _MOST_IMAGE_TOKENS
    return most, len(text) // 4 + images * _USUAL_IMAGE_TOKENS

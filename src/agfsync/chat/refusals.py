"""Parses refusals of servers, in any form, and finds the argument of the request that they refuse."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_SUBSTITUTES: Mapping[str, str | None] = {
    "response_format": None,
    "top_logprobs": None,
    "logprobs": None,
    "seed": None,
    "temperature": None,
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": None,
}
"""Arguments that a server may refuse -> the argument to send instead: some servers don't support schemas or
probabilities, some models have a fixed temperature, and OpenAI's newer models have another name for the token limit."""
_LIKELY_REFUSED = ("response_format", "top_logprobs", "logprobs")
"""Arguments that a server probably refuses if it names none, the likeliest first."""
_ALIASES: Mapping[str, str] = {
    "response_format": (
        r"response[_ ]?format|response[_ ]?(?:json[_ ]?)?schema|json[_ ]?schema|structured[_ ]outputs?|guided[_ ]\w+"
        r"|response[_ ]?mime[_ ]?type|grammars?"
    ),
    "top_logprobs": r"top[_ ]?logprobs",
    "logprobs": r"(?:response[_ ]?)?logprobs?|log[ -]probabilit(?:y|ies)",
    "seed": r"(?:random[_ ]?)?seed",
    "temperature": r"temperature",
    "max_tokens": r"max[_ ]?tokens",
    "max_completion_tokens": r"max[_ ]?(?:completion|output|new)[_ ]?tokens",
}
"""Regular expressions for the spellings of an argument in servers' messages."""

_MALFORMED = (400, 422, 501)
"""HTTP statuses of an invalid request."""
_UNSUPPORTED = re.compile(
    r"unsupported|n[o']t (?:\w+ ){0,3}(?:support|allow|permit|accept|implement|enabl|available)|unknown|unrecogni[sz]ed"
    r"|unexpected|extra (?:inputs|fields?|forbidden)|invalid|cannot find field|no such|does(?: not|n't) (?:take|know)",
    re.IGNORECASE,
)
"""Words of an invalid request, with any other status."""
_OTHER_ARGUMENTS = re.compile(r"(?:messages?|model|prompt|inputs?|images?|contents?)\b", re.IGNORECASE)
"""Other arguments that a server may refuse."""
_LIMIT_PASSED = re.compile(
    r"context (?:length|window|size)|(?:maximum|max|model's) context|too (?:large|long|many)|exceed|at most|less than"
    r"|reduce the|greater than|maximum (?:allowed|value|number)",
    re.IGNORECASE,
)
"""Words for an exceeded limit, which omitting an argument doesn't fix."""
_LIMIT = re.compile(
    r"(?:at most|max(?:imum)?(?: (?:allowed|value|is|of))*|less than or equal to|between 0 and|<=|not exceed|up to)"
    r"\D{0,12}(\d{1,3})\b",
    re.IGNORECASE,
)
_STATUS_WORDS: Mapping[str, int] = {
    word: status
    for status, words in {
        400: "invalid_request_error invalid_argument bad_request badrequesterror unsupported_parameter"
        " unsupported_value",
        401: "authentication_error invalid_api_key unauthenticated",
        402: "insufficient_quota insufficient_credits",
        403: "permission_denied permission_error",
        404: "not_found model_not_found notfounderror",
        429: "rate_limit_exceeded rate_limit_error resource_exhausted",
        500: "server_error internal_error internal",
        503: "overloaded_error unavailable",
    }.items()
    for word in words.split()
}
"""Words in bodies -> the statuses that they mean."""

_MESSAGE_FIELDS = (
    *("message", "msg", "detail", "details", "error", "errors", "error_description", "error_message", "description"),
    *("title", "reason", "metadata", "raw", "fieldViolations"),
)
"""Fields of an object that may contain the message."""
_ARGUMENT_FIELDS = ("param", "parameter", "field", "loc", "argument")
"""Fields of an object that may contain the refused argument."""
_TITLE, _TAG = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL), re.compile(r"<[^<>]*>")
_LONGEST, _DEEPEST = 300, 8


@dataclass(frozen=True, slots=True)
class Refusal:
    """A server's answer that isn't a completion."""

    status: int | None
    """HTTP status or, if that is 200, the status in the body; None if there is none"""
    words: str
    code: str = ""
    params: tuple[str, ...] = ()
    """refused arguments, as the server names them"""
    inside: bool = False
    """True if the HTTP status is 200"""

    @property
    def is_transient(self) -> bool:
        """True if the same request may succeed later."""
        return self.status is None or self.status in (408, 409, 425, 429) or self.status >= 500


def read_refusal(body: Any, status: int = 200) -> Refusal | None:
    """Return the refusal in `body`, any JSON value or a text; None if it is a completion.

    Return None also for an object with status 200 that has no message: `read_completion` describes it.
    """
    inside = status < 400
    if inside and isinstance(body, dict):
        body = _find_error(body)
        if body is None:
            return None
    words = list(dict.fromkeys(" ".join(each.split()) for each in _messages(body, _DEEPEST)))
    said = ": ".join(each for each in words if each)
    if inside and not said and isinstance(body, dict):
        return None
    codes = [str(each) for each in _find_values(body, ("code", "status", "type"), _DEEPEST)]
    given = next((code for code in codes if not code.isdecimal()), "")
    return Refusal(
        _read_status(codes) if inside else status,
        (said or _outline(body))[:_LONGEST],
        given[:_LONGEST],
        tuple(str(each)[:_LONGEST] for each in _find_values(body, _ARGUMENT_FIELDS, _DEEPEST)),
        inside,
    )


def find_refused_argument(refusal: Refusal, sent: Mapping[str, Any]) -> tuple[str, int | None] | None:
    """Return the argument that the server refuses, and a value that it would accept, if any; None if no argument.

    Many servers name the argument. If a server doesn't, it probably refuses the first of `_LIKELY_REFUSED`.
    """
    mine = [name for name in _SUBSTITUTES if name in sent]
    if refusal.status in (401, 402, 408, 429):
        return None
    named = _find_named(refusal, mine)
    if named in ("logprobs", "top_logprobs") and (fewer := _read_lower_limit(refusal.words, sent.get("top_logprobs"))):
        return "top_logprobs", fewer
    passed = _LIMIT_PASSED.search(refusal.words)
    if named is not None and not (passed and named in ("max_tokens", "max_completion_tokens")):
        certain = refusal.status in _MALFORMED or _UNSUPPORTED.search(f"{refusal.words} {refusal.code}")
        return (named, None) if certain else None
    if named or passed or refusal.status not in (400, 422) or any(map(_OTHER_ARGUMENTS.match, refusal.params)):
        return None
    guess = next((name for name in _LIKELY_REFUSED if name in mine), None)
    return None if guess is None else (guess, None)


def adapt_arguments(arguments: Mapping[str, Any], refused: Mapping[str, int | None]) -> dict[str, Any]:
    """Replace refused arguments by another name or value if possible, else remove them.

    >>> adapt_arguments({"max_tokens": 9, "seed": 1}, {"max_tokens": None, "seed": None})
    {'max_completion_tokens': 9}
    """
    adapted = dict(arguments)
    for name, other in _SUBSTITUTES.items():
        if name not in refused or name not in adapted:
            continue
        value = adapted.pop(name)
        if refused[name] is not None:
            adapted[name] = refused[name]
        elif other is not None:
            adapted[other] = value
    if "logprobs" not in adapted:
        adapted.pop("top_logprobs", None)
    return adapted


def _find_error(body: Mapping[str, Any]) -> Any:
    """Return the part of an object with status 200 that describes an error; None if it is a completion."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return {name: value for name, value in body.items() if name != "choices"} if choices != [] else _get_error(body)
    message = choice.get("message")
    said = message.get("content") if isinstance(message, dict) else None
    if error := _get_error(choice) or _get_error(body):
        return error if not said or choice.get("finish_reason") == "error" else None
    return None


def _get_error(part: Mapping[str, Any]) -> Any:
    return {"error": part["error"]} if part.get("error") else None


def _messages(value: Any, deep: int) -> Iterator[str]:
    """Yield the messages in an error's body, in order, also those in JSON or HTML within a text."""
    if deep == 0:
        return
    if isinstance(value, str):
        yield from _text_messages(value.strip(), deep)
    elif isinstance(value, list):
        for each in value[:20]:
            yield from _messages(each, deep - 1)
    elif isinstance(value, dict):
        place = value.get("loc")
        if isinstance(place, list) and isinstance(value.get("msg"), str):
            yield f"{'.'.join(map(str, place))}: {value['msg']}"
            return
        for name in _MESSAGE_FIELDS:
            if value.get(name):
                yield from _messages(value[name], deep - 1)


def _text_messages(text: str, deep: int) -> Iterator[str]:
    if text.startswith(("{", "[")):
        try:
            yield from _messages(json.loads(text), deep - 1)
            return
        except (ValueError, RecursionError):
            pass  # It only looks like JSON.
    if text.startswith("<") and (_TITLE.search(text) or _TAG.match(text)):
        title = _TITLE.search(text)
        yield f'a page, "{" ".join((title[1] if title else _TAG.sub(" ", text[:5000])).split())}"'
    elif text:
        yield text


def _find_values(value: Any, names: tuple[str, ...], deep: int) -> Iterator[str | int]:
    """Yield the values under any of `names`, at any depth."""
    if deep == 0:
        return
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return  # It only looks like JSON, so it has no fields.
    if isinstance(value, list):
        for each in value[:20]:
            yield from _find_values(each, names, deep - 1)
    elif isinstance(value, dict):
        for name in names:
            given = value.get(name)
            for each in given if isinstance(given, list) else [given]:
                if isinstance(each, str | int) and not isinstance(each, bool):
                    yield each
        for name in _MESSAGE_FIELDS:
            yield from _find_values(value.get(name), names, deep - 1)


def _read_status(codes: list[str]) -> int | None:
    numbers = [int(code) for code in codes if code.isascii() and code.isdecimal() and len(code) == 3]
    known = [_STATUS_WORDS[code.casefold()] for code in codes if code.casefold() in _STATUS_WORDS]
    return next((number for number in [*numbers, *known] if number >= 400), None)


def _find_named(refusal: Refusal, mine: list[str]) -> str | None:
    spelt = {
        name: re.compile(rf"(?<![A-Za-z0-9_])(?:{_ALIASES[name]})(?![A-Za-z0-9_])", re.IGNORECASE) for name in mine
    }
    said = [*refusal.params, refusal.words]
    return next((name for text in said for name in mine if spelt[name].search(text)), None)


def _read_lower_limit(words: str, asked: Any) -> int | None:
    """Return the largest `top_logprobs` that a server accepts, if its message says so and it is below `asked`."""
    if not isinstance(asked, int):
        return None
    return next((int(found[1]) for found in _LIMIT.finditer(words) if 1 <= int(found[1]) < asked), None)


def _outline(body: Any) -> str:
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)[:_LONGEST]
    return text.strip() or "nothing"

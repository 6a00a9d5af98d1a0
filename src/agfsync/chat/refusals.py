"""Read what servers say where they give no completion, whatever its shape, and tell what of a request they refuse."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SUBSTITUTES: Mapping[str, str | None] = {
    "response_format": None,
    "top_logprobs": None,
    "logprobs": None,
    "seed": None,
    "temperature": None,
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": None,
}
"""What a server may refuse, each with what is sent instead: schemas and probabilities aren't everywhere, some models
have one temperature, and OpenAI's newer ones have another name for the limit."""
UNNAMED = ("response_format", "top_logprobs", "logprobs")
"""What a server is taken to refuse that doesn't say what, the likeliest first."""
ALIASES: Mapping[str, str] = {
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
"""How servers spell an argument in what they say."""

MALFORMED = (400, 422, 501)
"""Statuses that say that a request isn't taken as it is."""
UNTAKEN = re.compile(
    r"unsupported|n[o']t (?:\w+ ){0,3}(?:support|allow|permit|accept|implement|enabl|available)|unknown|unrecogni[sz]ed"
    r"|unexpected|extra (?:inputs|fields?|forbidden)|invalid|cannot find field|no such|does(?: not|n't) (?:take|know)",
    re.IGNORECASE,
)
"""Words that say so under any other status."""
ELSEWHERE = re.compile(r"(?:messages?|model|prompt|inputs?|images?|contents?)\b", re.IGNORECASE)
"""What else a server may find fault with."""
TOO_LONG = re.compile(
    r"context (?:length|window|size)|(?:maximum|max|model's) context|too (?:large|long|many)|exceed|at most|less than"
    r"|reduce the|greater than|maximum (?:allowed|value|number)",
    re.IGNORECASE,
)
"""Words for a limit that was passed, which no other name mends."""
LIMIT = re.compile(
    r"(?:at most|max(?:imum)?(?: (?:allowed|value|is|of))*|less than or equal to|between 0 and|<=|not exceed|up to)"
    r"\D{0,12}(\d{1,3})\b",
    re.IGNORECASE,
)
OWN_STATUS: Mapping[str, int] = {
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "unsupported_parameter": 400,
    "unsupported_value": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "insufficient_quota": 402,
    "insufficient_credits": 402,
    "permission_denied": 403,
    "permission_error": 403,
    "not_found": 404,
    "model_not_found": 404,
    "notfounderror": 404,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "resource_exhausted": 429,
    "server_error": 500,
    "internal_error": 500,
    "internal": 500,
    "overloaded_error": 503,
    "unavailable": 503,
}
"""Statuses by the words that stand for them inside of bodies."""

SAYING = (
    *("message", "msg", "detail", "details", "error", "errors", "error_description", "error_message", "description"),
    *("title", "reason", "metadata", "raw", "fieldViolations"),
)
"""Where an object says what went wrong."""
NAMING = ("param", "parameter", "field", "loc", "argument")
"""Where it says by what."""
TITLE, TAG = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL), re.compile(r"<[^<>]*>")
LONGEST, DEEPEST = 300, 8


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server says in the place of a completion."""

    status: int | None
    """the status of HTTP, or where that is 200 the one that the body gives; None where it gives none"""
    words: str
    code: str = ""
    params: tuple[str, ...] = ()
    """what the server says that it is about"""
    inside: bool = False
    """True if it came under status 200"""

    @property
    def is_transient(self) -> bool:
        """True if the same request may fare better later."""
        return self.status is None or self.status in (408, 409, 425, 429) or self.status >= 500


def read_refusal(body: Any, status: int = 200) -> Refusal | None:
    """Return what `body`, any JSON value or a text, says in the place of a completion; None if it is one.

    An object without a message, which is no completion either, is left to whoever reads completions.
    """
    inside = status < 400
    if inside and isinstance(body, dict):
        body = _fault_in(body)
        if body is None:
            return None
    words = list(dict.fromkeys(" ".join(each.split()) for each in _said(body, DEEPEST)))
    said = ": ".join(each for each in words if each)
    if inside and not said and isinstance(body, dict):
        return None
    codes = [str(each) for each in _found(body, ("code", "status", "type"), DEEPEST)]
    given = next((code for code in codes if not code.isdecimal()), "")
    return Refusal(
        _status(codes) if inside else status,
        (said or _outline(body))[:LONGEST],
        given[:LONGEST],
        tuple(str(each)[:LONGEST] for each in _found(body, NAMING, DEEPEST)),
        inside,
    )


def refused_argument(refusal: Refusal, sent: Mapping[str, Any]) -> tuple[str, int | None] | None:
    """Return which argument of a request a server refuses, and the value that it would take; None if it is none.

    Many servers name it. One that doesn't is taken to refuse the likeliest.
    """
    mine = [name for name in SUBSTITUTES if name in sent]
    if refusal.status in (401, 402, 408, 429):
        return None
    named = _named(refusal, mine)
    if named in ("logprobs", "top_logprobs") and (fewer := _fewer(refusal.words, sent.get("top_logprobs"))):
        return "top_logprobs", fewer
    passed = TOO_LONG.search(refusal.words)
    if named is not None and not (passed and named in ("max_tokens", "max_completion_tokens")):
        certain = refusal.status in MALFORMED or UNTAKEN.search(f"{refusal.words} {refusal.code}")
        return (named, None) if certain else None
    if named or passed or refusal.status not in (400, 422) or any(map(ELSEWHERE.match, refusal.params)):
        return None
    guess = next((name for name in UNNAMED if name in mine), None)
    return None if guess is None else (guess, None)


def adapt(arguments: Mapping[str, Any], refused: Mapping[str, int | None]) -> dict[str, Any]:
    """Return `arguments` without what a server has refused: under another name or with another value if there is one.

    >>> adapt({"max_tokens": 9, "seed": 1}, {"max_tokens": None, "seed": None})
    {'max_completion_tokens': 9}
    """
    adapted = dict(arguments)
    for name, other in SUBSTITUTES.items():
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


def _fault_in(body: Mapping[str, Any]) -> Any:
    """Return the part of an object of status 200 that says what went wrong; None if it is a completion."""
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return {name: value for name, value in body.items() if name != "choices"} if choices != [] else _error_of(body)
    message = choice.get("message")
    said = message.get("content") if isinstance(message, dict) else None
    if error := _error_of(choice) or _error_of(body):
        return error if not said or choice.get("finish_reason") == "error" else None
    return None


def _error_of(part: Mapping[str, Any]) -> Any:
    return {"error": part["error"]} if part.get("error") else None


def _said(value: Any, deep: int) -> Iterator[str]:
    """Yield the messages in an error's body, in order, also where one is JSON or HTML inside of a text."""
    if deep == 0:
        return
    if isinstance(value, str):
        yield from _said_by(value.strip(), deep)
    elif isinstance(value, list):
        for each in value[:20]:
            yield from _said(each, deep - 1)
    elif isinstance(value, dict):
        place = value.get("loc")
        if isinstance(place, list) and isinstance(value.get("msg"), str):
            yield f"{'.'.join(map(str, place))}: {value['msg']}"
            return
        for name in SAYING:
            if value.get(name):
                yield from _said(value[name], deep - 1)


def _said_by(text: str, deep: int) -> Iterator[str]:
    if text.startswith(("{", "[")):
        try:
            yield from _said(json.loads(text), deep - 1)
            return
        except (ValueError, RecursionError):
            pass
    if text.startswith("<") and (TITLE.search(text) or TAG.match(text)):
        title = TITLE.search(text)
        yield f'a page, "{" ".join((title[1] if title else TAG.sub(" ", text[:5000])).split())}"'
    elif text:
        yield text


def _found(value: Any, names: tuple[str, ...], deep: int) -> Iterator[str | int]:
    """Yield what stands under any of `names`, at any depth."""
    if deep == 0:
        return
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if isinstance(value, list):
        for each in value[:20]:
            yield from _found(each, names, deep - 1)
    elif isinstance(value, dict):
        for name in names:
            given = value.get(name)
            for each in given if isinstance(given, list) else [given]:
                if isinstance(each, str | int) and not isinstance(each, bool):
                    yield each
        for name in SAYING:
            yield from _found(value.get(name), names, deep - 1)


def _status(codes: list[str]) -> int | None:
    numbers = [int(code) for code in codes if code.isascii() and code.isdecimal() and len(code) == 3]
    known = [OWN_STATUS[code.casefold()] for code in codes if code.casefold() in OWN_STATUS]
    return next((number for number in [*numbers, *known] if number >= 400), None)


def _named(refusal: Refusal, mine: list[str]) -> str | None:
    said = [*refusal.params, refusal.words]
    return next((name for text in said for name in mine if _speaks_of(text, name)), None)


def _speaks_of(text: str, name: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_])(?:{ALIASES[name]})(?![A-Za-z0-9_])", text, re.IGNORECASE) is not None


def _fewer(words: str, asked: Any) -> int | None:
    """Return how many log-probabilities a place the server gives, where it says so and they are fewer than `asked`."""
    if not isinstance(asked, int):
        return None
    return next((int(found[1]) for found in LIMIT.finditer(words) if 1 <= int(found[1]) < asked), None)


def _outline(body: Any) -> str:
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)[:LONGEST]
    return text.strip() or "nothing"

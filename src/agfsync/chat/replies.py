"""Finds the answer in a language model's reply, and parses JSON in it, even within prose or cut off."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

Shape = TypeVar("Shape", bound=BaseModel)

_NAMES = "think|thinking|thought|thoughts|reason|reasoning|reflection|analysis"
OPENING_TAG = re.compile(
    rf"<(?:seed:)?(?:{_NAMES})>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|START_THINKING)\|>|<unused94>"
    r"|<\|channel\|?>\s*(?:analysis|commentary|thought)",
    re.IGNORECASE,
)
"""The start of reasoning: DeepSeek, Qwen, Seed, Magistral, Kimi, Sky-T1, Command A, MedGemma, gpt-oss, Gemma."""
CLOSING_TAG = re.compile(
    rf"</(?:seed:)?(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING)\|>|<unused95>|<channel\|>"
    r"|<\|channel\|>\s*final\s*(?:<\|message\|>)?|assistantfinal",
    re.IGNORECASE,
)
"""The end of reasoning. If the chat template writes the opening tag, the reply has only the closing one."""

_BRACKET = re.compile(r"[{\[]")
_COMMA_BRACKET = re.compile(r",\s*[}\]]")
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')
"""A comma before a closing bracket. Strings are matched first, so that their commas stay."""
_BRACKETS_TRIED = 64
"""Number of brackets at which to try JSON: prose may have some, but a reply full of them would take minutes."""
# Not strict, since some models write line breaks in strings.
_DECODER = json.JSONDecoder(strict=False)


class UnreadableError(ValueError):
    """A reply has no JSON of the requested shape."""


def find_answer(text: str) -> tuple[int, int]:
    """Return the start and end of the answer in `text`; they are equal if there is none.

    The answer follows the last closing tag; if nothing follows, it precedes the first opening tag. There is no answer
    if it would begin with reasoning that isn't closed.

    >>> text = "Is it red? No ...</think> Yes."
    >>> text[slice(*find_answer(text))]
    ' Yes.'
    """
    start = max((match.end() for match in CLOSING_TAG.finditer(text)), default=0)
    opening = OPENING_TAG.search(text, start)
    if opening is not None and not text[start : opening.start()].strip():
        return start, start
    if text[start:].strip() or not start:
        return start, len(text)
    first = OPENING_TAG.search(text)
    return (0, first.start()) if first is not None else (start, len(text))


def parse_reply(reply: str, shape: type[Shape]) -> Shape:
    """Parse the longest JSON value in the answer of `reply` that has the `shape`.

    A bare list counts as the first field of `shape`, since models without a schema leave out the object around it. The
    unfinished last item of a value that was cut is dropped. Nothing else is repaired: the package json-repair turns
    broken quotes, and even prose, into values that the model never gave.

    Raises:
        UnreadableError: there is no such value.
    """
    text = reply[slice(*find_answer(reply))]
    if _COMMA_BRACKET.search(text):
        text = _TRAILING_COMMA.sub(r"\1", text)
    fault = "no JSON in the reply"
    for value in _find_values(text):
        try:
            return shape.model_validate({_first_field(shape): value} if isinstance(value, list) else value)
        except ValidationError as failure:
            fault = f"JSON of another shape ({failure.errors()[0]['msg'].lower()})"
    raise UnreadableError(fault)


def keeps_shape(reply: str, cut: bool, shape: type[BaseModel]) -> bool:
    """Return True if `reply`, or its beginning if it was `cut`, has the form that the schema of `shape` enforces.

    Return True also for an empty reply, which proves nothing.
    """
    text = reply[slice(*find_answer(reply))].strip()
    if cut or not text:
        return not text or text.startswith("{")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _first_field(shape) in value


def _first_field(shape: type[BaseModel]) -> str:
    return next(iter(shape.model_fields))


def _find_values(text: str) -> Iterator[Any]:
    """Yield the JSON values in `text`, the longest first; a value cut at the end of `text` is also yielded."""
    found: list[tuple[int, Any]] = []
    end = 0
    for bracket in islice(_BRACKET.finditer(text), _BRACKETS_TRIED):
        start = bracket.start()
        if start < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start)
            found.append((end - start, value))
        except json.JSONDecodeError as fault:
            # Only JSON that is cut at the end of the text is repaired; other repairs could change the meaning.
            if fault.msg.startswith("Unterminated string") or fault.pos >= len(text.rstrip()):
                try:
                    found.append((len(text) - start, from_json(text[start:], allow_partial=True)))
                except ValueError:
                    continue
        except (RecursionError, ValueError):
            # Nested too deep, or a number of thousands of digits, which Python doesn't parse.
            continue
    yield from (value for _, value in sorted(found, key=lambda each: -each[0]))

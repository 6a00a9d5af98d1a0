"""Find the answer in a language model's reply, and the JSON in it: among prose, cut off, validated."""

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
"""The beginning of thoughts: DeepSeek, Qwen, Seed, Magistral, Kimi, Sky-T1, Command A, MedGemma, gpt-oss, Gemma."""
CLOSING_TAG = re.compile(
    rf"</(?:seed:)?(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING)\|>|<unused95>|<channel\|>"
    r"|<\|channel\|>\s*final\s*(?:<\|message\|>)?|assistantfinal",
    re.IGNORECASE,
)
"""Their end. A chat template may have written the beginning, which is then no part of the reply."""

_BRACKET = re.compile(r"[{\[]")
_COMMA_BRACKET = re.compile(r",\s*[}\]]")
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')
"""A comma before a closing bracket. Strings are matched first, so that their commas stay."""
_BRACKETS_TRIED = 64
"""Brackets at which JSON is looked for: prose may have some, but a reply made of them isn't worth minutes."""
# Not strict: some models write line breaks in strings.
_DECODER = json.JSONDecoder(strict=False)


class UnreadableError(ValueError):
    """The reason why a reply has no JSON of the requested shape."""


def find_answer(text: str) -> tuple[int, int]:
    """Return where in `text` the answer begins and ends; both are equal if there is none.

    The answer follows the last end of a thought; if nothing does, it comes before the first thought. A thought that
    begins the answer and never ends leaves none.

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
    """Return the longest JSON value in the answer of `reply` that has the `shape`.

    A list by itself counts as the first field of `shape`, since models without a schema leave out the object around
    it. The unfinished last item of a value that was cut is left out. Nothing else is repaired: the package json-repair
    turns broken quotes, and even prose, into values that the model never gave.

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

    A reply without any text proves nothing, and counts as one that has.
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
    """Yield the JSON values in `text`, the longest first; one that reaches the end of `text` may have been cut."""
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
            # JSON that is broken before the end of the text would lose its meaning by repair.
            if fault.msg.startswith("Unterminated string") or fault.pos >= len(text.rstrip()):
                try:
                    found.append((len(text) - start, from_json(text[start:], allow_partial=True)))
                except ValueError:
                    continue
        except (RecursionError, ValueError):
            # Nested too deep, or a number of thousands of digits, which Python doesn't read.
            continue
    yield from (value for _, value in sorted(found, key=lambda each: -each[0]))

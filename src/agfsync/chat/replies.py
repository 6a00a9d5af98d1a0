"""JSON in a language model's reply: found among prose and code fences, repaired where that is safe, and validated."""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from agfsync.chat.thoughts import find_answer

S = TypeVar("S", bound=BaseModel)

OPENING = re.compile(r"[{\[]")
TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')
"""A comma before a closing bracket; strings are matched first, so that what stands in one is left alone."""
STARTS = 64
"""brackets at which JSON is looked for: prose may have some, but a reply made of them isn't worth minutes"""

DECODER = json.JSONDecoder(strict=False)
"""Takes line breaks inside of strings, which some models write."""


class UnreadableError(ValueError):
    """A reply in which there is no JSON of the shape that was asked for; says why."""


def parse_reply(reply: str, shape: type[S]) -> S:
    """Return what `reply` holds of `shape`: the longest JSON value that fits, else what a reply that was cut holds.

    Thoughts are passed over. A list that stands alone counts as the first field of `shape`, which is how models without
    a schema leave out the object around it. Of a value that was cut, the unfinished last item is left out.

    Raises:
        UnreadableError: nothing in it fits.
    """
    text = TRAILING_COMMA.sub(r"\1", reply[slice(*find_answer(reply))])
    fault = "no JSON in the reply"
    for value in _values(text):
        try:
            return shape.model_validate(_wrapped(value, shape))
        except ValidationError as failure:
            first = failure.errors()[0]
            fault = f"JSON of another shape ({first['msg'].lower()})"
    raise UnreadableError(fault)


def keeps_shape(reply: str, cut: bool, shape: type[BaseModel]) -> bool:
    """True if `reply` is what a server gives that holds its model to the schema of `shape`; `cut`, the beginning of it.

    A reply without any text tells nothing, and is taken for one that does.
    """
    text = reply[slice(*find_answer(reply))].strip()
    if cut or not text:
        return not text or text.startswith("{")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and next(iter(shape.model_fields)) in value


def _values(text: str) -> Iterator[Any]:
    """The JSON values in `text`, the longest first; one that goes on to the end of `text` may have been cut there."""
    found: list[tuple[int, Any]] = []
    end = 0
    for opening in list(OPENING.finditer(text))[:STARTS]:
        start = opening.start()
        if start < end:
            continue
        try:
            value, end = DECODER.raw_decode(text, start)
            found.append((end - start, value))
        except json.JSONDecodeError as fault:
            if _cut(text, fault):
                found += [(len(text) - start, value) for value in _begun(text[start:])]
        except (RecursionError, ValueError):
            # Nested beyond all sense, or a number of thousands of digits, which Python doesn't read.
            continue
    yield from (value for _, value in sorted(found, key=lambda each: -each[0]))


def _cut(text: str, fault: json.JSONDecodeError) -> bool:
    """Whether `fault` is that `text` ends too soon. JSON that is broken further up would lose its meaning by repair."""
    return fault.msg.startswith("Unterminated string") or fault.pos >= len(text.rstrip())


def _begun(text: str) -> list[Any]:
    """What there is of the value that `text` begins; none where it can't be told."""
    try:
        return [from_json(text, allow_partial=True)]
    except ValueError:
        return []


def _wrapped(value: Any, shape: type[BaseModel]) -> Any:
    return {next(iter(shape.model_fields)): value} if isinstance(value, list) else value

"""Parses a chat completion: text, finish reason, token counts, and log-probabilities at the start of the answer."""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agfsync.chat.replies import CLOSING_TAG, OPENING_TAG, find_answer

_CUT_REASONS = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length")
"""Finish reasons of replies that reached the token limit."""
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details")
"""Fields with the model's reasoning, next to the content."""
_SHOWN = 60
"""Characters of a reply that a message shows."""

_FIRST_WORD = re.compile(r"(?:<[^<>]{1,40}>|[\W_ĠĊ])*+([^\W\d_]+)")
"""The first word after punctuation and tags; some servers don't remove their vocabulary's marks for spaces."""
_MARK = re.compile(rb"<[^<>]{1,40}>|\[[^\[\]]{1,40}\]")
"""A special token, such as the end of a turn."""
_SPACES = tuple(each.encode() for each in "Ġ▁Ċ")
"""The characters by which vocabularies mark spaces and line breaks."""
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply; its text is empty if it has none."""

    text: str
    first: Mapping[str, float] = field(default_factory=dict)
    """log-probabilities of the spellings of the answer's first word; empty if there are none, or none that can be
    located"""
    finish: str = ""
    """finish reason, in lower case"""
    cut: bool = False
    """True if it was cut at the token limit"""
    aside: Mapping[str, str] = field(default_factory=dict)
    """texts in fields other than the content, by the field's name"""
    unplaced: bool = False
    """True if there are log-probabilities, but those of the answer's start can't be located"""
    came: str = ""
    """description of a body that isn't a completion"""
    tokens: tuple[int, int] | None = None
    """tokens sent and received, as the server counts them; None if it doesn't"""

    @property
    def answer(self) -> str:
        """The text without the reasoning in it."""
        return self.text[slice(*find_answer(self.text))].strip()


def read_completion(body: Any, limit: int) -> Reply:
    """Parse a completion's `body`, any JSON value; the reply is empty if it isn't a completion.

    Args:
        limit: the token limit: a reply of that length without a finish reason counts as cut.
    """
    tokens = _read_usage(body)
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        names = ", ".join(str(key)[:20] for key in list(body)[:6]) if isinstance(body, dict) else ""
        return Reply("", came=f"it is no completion: an object with {names}" if names else "it is empty", tokens=tokens)
    message = choice.get("message")
    text, aside = _read_message(message if isinstance(message, dict) else {"content": choice.get("text")})
    given = _read_logprobs(choice.get("logprobs"))
    place = _locate_answer(given, text, next((aside[name] for name in _REASONING_FIELDS if name in aside), ""))
    first = given[place].alternatives if place is not None else {}
    finish = str(choice.get("finish_reason") or choice.get("finishReason") or "")[:40].casefold()
    cut = finish in _CUT_REASONS or (not finish and tokens is not None and tokens[1] >= limit)
    return Reply(text, first, finish, cut, aside, bool(given and text.strip()) and not first, tokens=tokens)


def read_first_word(text: str) -> str:
    """Return the first word of `text`, casefolded and normalised by NFKC; empty if there is none.

    >>> read_first_word("**Yes**, there is."), read_first_word("▁ＮＯ")
    ('yes', 'no')
    """
    found = _FIRST_WORD.match(text)
    return unicodedata.normalize("NFKC", found[1]).casefold() if found else ""


def explain_reply(reply: Reply, limit: str) -> str:
    """Describe a reply that can't be read as an answer, and the setting that helps.

    Args:
        limit: the setting of the token limit, such as "captions.writer.reply_tokens = 64".
    """
    ended = f"finish_reason {reply.finish}" if reply.finish else "no finish_reason"
    cut = f"it was cut at {limit} ({ended})"
    quiet = "turn the model's thinking off"
    if reply.answer:
        begins = f'it begins "{_shorten(reply.answer)}"'
        return f"{cut}: raise that; {begins}" if reply.cut else f"{begins} ({ended})"
    where = next((name for name in _REASONING_FIELDS if name in reply.aside), "")
    thinks = where or ("content, as thoughts" if reply.text.strip() else "")
    if reply.cut:
        return f"{cut}{f' with all its text in {thinks}' if thinks else ''}: raise that, or {quiet}"
    if "refusal" in reply.aside:
        return f'the model refused: "{_shorten(reply.aside["refusal"])}"'
    if "tool_calls" in reply.aside:
        return f"the model called a tool ({_shorten(reply.aside['tool_calls'])}) and gave no answer ({ended})"
    if where:
        shown = _shorten(reply.aside[where])
        return (
            f'its text lies in {where} ("{shown}"), its content is empty ({ended}): {quiet}, start the server without'
            f" its reasoning parser, or raise {limit}"
        )
    if thinks:
        return f'it holds thoughts alone ("{_shorten(reply.text)}", {ended}): {quiet}, or raise {limit}'
    return f"{reply.came or 'it is empty'} ({ended})"


def _shorten(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]} ..."


def _read_usage(body: Any) -> tuple[int, int] | None:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    sent, received, total = (
        next((usage[name] for name in names if _is_count(usage.get(name))), None)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"), ("total_tokens",))
    )
    if sent is None or received is None:
        return None
    # Some servers count reasoning, which is also charged, only in the total.
    return sent, max(received, (total or 0) - sent)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_message(message: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the content of a message, and its texts in other fields by the field's name."""
    content: list[str] = []
    aside: dict[str, str] = {}
    for place, text in _read_parts(message.get("content")):
        if place == "content":
            content.append(text)
        else:
            aside[place] = aside.get(place, "") + text
    for name in (*_REASONING_FIELDS, "refusal"):
        if found := "".join(text for _, text in _read_parts(message.get(name))):
            aside[name] = found
    if calls := message.get("tool_calls") or message.get("function_call"):
        called = [call for call in (calls if isinstance(calls, list) else [calls]) if isinstance(call, dict)]
        functions = [each for each in (call.get("function", call) for call in called) if isinstance(each, dict)]
        names = [each["name"] for each in functions if isinstance(each.get("name"), str)]
        aside["tool_calls"] = ", ".join(names) or "unnamed"
    return "".join(content), aside


def _read_parts(content: Any) -> Iterator[tuple[str, str]]:
    """Yield each text of a content (a text or a list of typed parts) with the field that it belongs to."""
    if isinstance(content, str):
        yield "content", content
    elif isinstance(content, list):
        for part in content:
            yield from _read_parts(part)
    elif isinstance(content, dict):
        kind = str(content.get("type") or "").casefold()
        values = (content.get(name) for name in ("text", "value", "content", "parts", "refusal", "thinking", "summary"))
        place = "content"
        if "refusal" in kind or (not kind and "refusal" in content):
            place = "refusal"
        elif any(word in kind for word in ("reason", "think", "thought", "analysis", "summary")):
            place = "reasoning"
        elif "tool" in kind or "function" in kind:
            return
        for where, text in _read_parts(next((value for value in values if value), None)):
            yield where if place == "content" else place, text


@dataclass(frozen=True, slots=True)
class _Token:
    """A token of the reply, and the log-probabilities of all tokens listed for its position."""

    data: bytes
    alternatives: Mapping[str, float]


def _read_logprobs(given: Any) -> list[_Token]:
    """Return the tokens with log-probabilities; empty if there are none that can be read."""
    if isinstance(given, dict) and isinstance(given.get("tokens"), list):
        # The older form: separate lists of tokens, log-probabilities and alternatives.
        tokens = given["tokens"]
        columns = (given.get("token_logprobs"), given.get("top_logprobs"))
        own, top = (column if isinstance(column, list) else [] for column in columns)
        padding = [None] * len(tokens)
        rows = zip(tokens, [*own, *padding], [*top, *padding], strict=False)
        given = [{"token": token, "logprob": value, "top_logprobs": likeliest} for token, value, likeliest in rows]
    elif isinstance(given, dict):
        given = given.get("content")
    return [_read_token(each) for each in given] if isinstance(given, list) else []


def _read_token(entry: Any) -> _Token:
    if not isinstance(entry, dict):
        return _Token(b"", {})
    data = _token_bytes(entry)
    top = entry.get("top_logprobs")
    if isinstance(top, dict):
        top = [{"token": token, "logprob": value} for token, value in top.items()]
    likeliest = [each for each in top if isinstance(each, dict)] if isinstance(top, list) else []
    found: dict[str, float] = {}
    for each in [*likeliest, entry]:
        value = each.get("logprob")
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            continue
        if value > 1e-3:
            return _Token(data, {})  # A positive number isn't a log-probability.
        spelling = _token_bytes(each).decode(errors="replace")
        found[spelling] = max(found.get(spelling, -math.inf), float(value))
    if likeliest and all(_spelling(each) != _spelling(entry) for each in likeliest):
        return _Token(data, {})  # A greedy reply's token is the likeliest: these belong to another position.
    return _Token(data, found)


def _spelling(entry: Mapping[str, Any]) -> str:
    return _token_bytes(entry).decode(errors="replace").strip()


def _token_bytes(entry: Mapping[str, Any]) -> bytes:
    """Return a token's bytes: its field `bytes` if that is valid, else the encoded text."""
    given, token = entry.get("bytes"), entry.get("token")
    if isinstance(given, list) and given and all(_is_count(byte) and byte < 256 for byte in given):
        return bytes(given)
    token = token if isinstance(token, str) else ""
    if byte := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return _encode(token)


def _locate_answer(tokens: Sequence[_Token], text: str, thoughts: str) -> int | None:
    """Return the index in `tokens` of the answer's first word; None if it isn't certain.

    The tokens are those of `text`; reasoning of another field, and special tokens that are part of no text, may precede
    them. All are compared without spaces, whose place in tokens differs between vocabularies.
    """
    start, end = find_answer(text)
    word = _FIRST_WORD.match(text[start:end])
    if not tokens or word is None:
        return None
    begin = start + word.start(1)
    squeezed = [_squeeze(token.data) for token in tokens]
    stream, apart = b"".join(squeezed), _squeeze(_encode(thoughts))
    head, rest = _squeeze(_encode(text[:begin])), _squeeze(_encode(text[begin:]))
    if apart and apart.startswith(_MARK.sub(b"", stream)):
        return None  # These are the tokens of the reasoning, even if they look like the answer.
    place = stream.rfind(rest)
    if place >= 0 and _is_marks(stream[place + len(rest) :]) and _leads_up(stream[:place], head, apart):
        return _token_at(squeezed, place)
    if len(stream) > len(head) and (head + rest).startswith(stream):
        return _token_at(squeezed, len(head))  # The list of tokens is shorter than the reply.
    return None


def _token_at(squeezed: Sequence[bytes], place: int) -> int | None:
    """Return the index of the token with the byte at `place` of all; None if it has a part of a word before that."""
    ahead = 0
    for number, token in enumerate(squeezed):
        if place < ahead + len(token):
            return None if any(map(str.isalnum, token[: place - ahead].decode(errors="replace"))) else number
        ahead += len(token)
    return None


def _leads_up(prefix: bytes, head: bytes, thoughts: bytes) -> bool:
    """Return True if `prefix`, the bytes before the answer, is `head`, or finished reasoning followed by `head`."""
    if not prefix.endswith(head):
        return False
    extra = prefix[: len(prefix) - len(head)]
    said = extra.decode(errors="replace")
    ends = [match.end() for match in CLOSING_TAG.finditer(said)]
    if ends:
        return _is_marks(_encode(said[ends[-1] :]))
    return _is_marks(extra) or (bool(thoughts) and _MARK.sub(b"", extra) == _MARK.sub(b"", thoughts))


def _is_marks(data: bytes) -> bool:
    """Return True if `data` has only special tokens such as the end of a turn, and none of reasoning."""
    said = data.decode(errors="replace")
    return not _MARK.sub(b"", data) and not CLOSING_TAG.search(said) and not OPENING_TAG.search(said)


def _encode(text: str) -> bytes:
    return text.encode(errors="replace")


def _squeeze(data: bytes) -> bytes:
    """Remove all spaces from `data`, also those that a vocabulary marks by another character."""
    for space in _SPACES:
        data = data.replace(space, b"")
    return b"".join(data.split())

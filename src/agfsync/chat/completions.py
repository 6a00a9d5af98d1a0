"""Read a chat completion's body: its text, why it ended, its tokens, and log-probabilities where the answer begins."""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agfsync.chat.thoughts import CLOSING_TAG, OPENING_TAG, find_answer

CUT = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length")
"""Why a reply ended, as servers say it, where it reached the most tokens that it may have."""
REASONING = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details")
"""Where servers put thoughts beside the content."""
SHOWN = 60
"""characters of a reply in a message"""

WORD = re.compile(r"(?:<[^<>]{1,40}>|[\W_ĠĊ])*+([^\W\d_]+)")
"""The first word behind punctuation and tags; some servers leave in what their vocabulary writes for spaces."""
SPECIAL = re.compile(rb"<[^<>]{1,40}>|\[[^\[\]]{1,40}\]")
"""A token that marks a place rather than says something, such as an end of a turn."""
SPACES = tuple(each.encode() for each in "Ġ▁Ċ")
"""What vocabularies write for spaces and line breaks."""
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said: its text, empty where it has none."""

    text: str
    first: Mapping[str, float] = field(default_factory=dict)
    """log-probabilities of the spellings of the answer's first word; empty where none are given or can be placed"""
    finish: str = ""
    """why it ended, as the server says it"""
    cut: bool = False
    """True if it has as many tokens as it may have, and would have gone on"""
    aside: Mapping[str, str] = field(default_factory=dict)
    """texts that lie elsewhere than in the content, by the field's name"""
    unplaced: bool = False
    """True if log-probabilities are given and where the answer begins among them can't be told"""
    came: str = ""
    """what came where that was no completion"""
    tokens: tuple[int, int] | None = None
    """those sent and received, as the server says; None where it doesn't"""

    @property
    def answer(self) -> str:
        """The text without the thoughts in it."""
        return self.text[slice(*find_answer(self.text))].strip()


def read_completion(body: Any, limit: int) -> Reply:
    """Return what a completion's `body`, parsed from JSON, says; an empty reply where it isn't one.

    Args:
        body: any JSON value.
        limit: the most tokens that the reply may have: one that has them, and gives no reason to end, was cut.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Reply("", came=_outline(body), tokens=_usage(body))
    message = choice.get("message")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    text, aside = _texts(message)
    given = _logprobs(choice.get("logprobs"))
    place = _locate(given, text, next((aside[name] for name in REASONING if name in aside), ""))
    first = given[place].alternatives if place is not None else {}
    reason = choice.get("finish_reason") or choice.get("finishReason") or ""
    finish, tokens = str(reason)[:40].casefold(), _usage(body)
    return Reply(
        text,
        first,
        finish,
        finish in CUT or (not finish and tokens is not None and tokens[1] >= limit),
        aside,
        bool(given and text.strip()) and not first,
        tokens=tokens,
    )


def first_word(text: str) -> str:
    """Return the first word of `text` in lower case and its plainest spelling; empty where there is none.

    >>> first_word("**Yes**, there is."), first_word("▁ＮＯ")
    ('yes', 'no')
    """
    found = WORD.match(text)
    return unicodedata.normalize("NFKC", found[1]).casefold() if found else ""


def explain(reply: Reply, limit: str) -> str:
    """Say what came in the place of an answer that can be read, and which setting helps.

    Args:
        limit: what sets the most tokens of a reply, such as "captions.model.reply_tokens = 64".
    """
    ended = f"finish_reason {reply.finish}" if reply.finish else "no finish_reason"
    cut = f"it was cut at {limit} ({ended})"
    quiet = "turn the model's thinking off"
    if reply.answer:
        begins = f'it begins "{_shortened(reply.answer)}"'
        return f"{cut}: raise that; {begins}" if reply.cut else f"{begins} ({ended})"
    where = next((name for name in REASONING if name in reply.aside), "")
    thinks = where or ("content, as thoughts" if reply.text.strip() else "")
    if reply.cut:
        return f"{cut}{f' with all its text in {thinks}' if thinks else ''}: raise that, or {quiet}"
    if "refusal" in reply.aside:
        return f'the model refused: "{_shortened(reply.aside["refusal"])}"'
    if "tool_calls" in reply.aside:
        return f"the model called a tool ({_shortened(reply.aside['tool_calls'])}) and gave no answer ({ended})"
    if where:
        shown = _shortened(reply.aside[where])
        return (
            f'its text lies in {where} ("{shown}"), its content is empty ({ended}): {quiet}, start the server without'
            f" its reasoning parser, or raise {limit}"
        )
    if thinks:
        return f'it holds thoughts alone ("{_shortened(reply.text)}", {ended}): {quiet}, or raise {limit}'
    return f"{reply.came or 'it is empty'} ({ended})"


def _shortened(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SHOWN else f"{plain[:SHOWN]} ..."


def _outline(body: Any) -> str:
    if isinstance(body, dict) and body:
        return f"it is no completion: an object with {', '.join(str(key)[:20] for key in list(body)[:6])}"
    return "it is empty"


def _usage(body: Any) -> tuple[int, int] | None:
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    sent, received, total = (
        next((usage[name] for name in names if _is_count(usage.get(name))), None)
        for names in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"), ("total_tokens",))
    )
    if sent is None or received is None:
        return None
    # Some count the thoughts, which are paid too, in the total only.
    return sent, max(received, (total or 0) - sent)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _texts(message: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return a message's content, and its texts that lie elsewhere by the name of their field."""
    said: list[str] = []
    aside: dict[str, str] = {}
    for kind, text in _parts(message.get("content")):
        if kind == "content":
            said.append(text)
        else:
            aside[kind] = aside.get(kind, "") + text
    for name in (*REASONING, "refusal"):
        if found := "".join(text for _, text in _parts(message.get(name))):
            aside[name] = found
    calls = message.get("tool_calls") or message.get("function_call")
    if calls:
        aside["tool_calls"] = ", ".join(_names(calls if isinstance(calls, list) else [calls])) or "unnamed"
    return "".join(said), aside


def _parts(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the texts of a content, be it a text or a list of typed parts, each with where it belongs."""
    if isinstance(content, str):
        yield "content", content
    elif isinstance(content, list):
        for part in content:
            yield from _parts(part)
    elif isinstance(content, dict):
        kind = str(content.get("type") or "").casefold()
        values = (content.get(name) for name in ("text", "value", "content", "parts", "refusal", "thinking", "summary"))
        inside = next((value for value in values if value), None)
        place = "content"
        if "refusal" in kind or (not kind and "refusal" in content):
            place = "refusal"
        elif any(word in kind for word in ("reason", "think", "thought", "analysis", "summary")):
            place = "reasoning"
        elif "tool" in kind or "function" in kind:
            return
        for where, text in _parts(inside):
            yield where if place == "content" else place, text


def _names(calls: Sequence[Any]) -> Iterator[str]:
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"]


@dataclass(frozen=True, slots=True)
class _Token:
    """A token of the reply, and the log-probabilities of what could have stood there, itself included."""

    data: bytes
    alternatives: Mapping[str, float]


def _logprobs(given: Any) -> list[_Token]:
    """Return the tokens that a server gives log-probabilities of; empty where it gives none that can be read."""
    if isinstance(given, dict) and isinstance(given.get("tokens"), list):
        given = _columns(given)
    elif isinstance(given, dict):
        given = given.get("content")
    if not isinstance(given, list):
        return []
    return [_token(each) for each in given]


def _columns(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the older form, which has a list each of tokens, log-probabilities and alternatives."""
    columns = [given.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    tokens, own, top = (column if isinstance(column, list) else [] for column in columns)
    return [
        {"token": token, "logprob": own[n] if n < len(own) else None, "top_logprobs": top[n] if n < len(top) else None}
        for n, token in enumerate(tokens)
    ]


def _token(entry: Any) -> _Token:
    if not isinstance(entry, dict):
        return _Token(b"", {})
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
            return _Token(_bytes(entry), {})  # No log-probabilities, whatever they are.
        spelling = _bytes(each).decode(errors="replace")
        found[spelling] = max(found.get(spelling, -math.inf), float(value))
    mine = _bytes(entry).decode(errors="replace").strip()
    if likeliest and not any(_bytes(each).decode(errors="replace").strip() == mine for each in likeliest):
        # A greedy reply's own token is its likeliest: these belong to another place.
        return _Token(_bytes(entry), {})
    return _Token(_bytes(entry), found)


def _bytes(entry: Mapping[str, Any]) -> bytes:
    """Return a token's bytes: as given, else those of its spelling."""
    given, token = entry.get("bytes"), entry.get("token")
    if isinstance(given, list) and given and all(_is_count(byte) and byte < 256 for byte in given):
        return bytes(given)
    token = token if isinstance(token, str) else ""
    if byte := BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return _encoded(token)


def _locate(tokens: Sequence[_Token], text: str, thoughts: str) -> int | None:
    """Return the place among `tokens` of the answer's first word; None where it can't be told for sure.

    The tokens may be those of `text`, or begin with those of thoughts that are no part of it, and with marks that are
    no part of any text. All are compared without spaces, which vocabularies put where they like.
    """
    start, end = find_answer(text)
    word = WORD.match(text[start:end])
    if not tokens or word is None:
        return None
    begin = start + word.start(1)
    squeezed = [_squeezed(token.data) for token in tokens]
    stream, apart = b"".join(squeezed), _squeezed(_encoded(thoughts))
    head, rest = _squeezed(_encoded(text[:begin])), _squeezed(_encoded(text[begin:]))
    if apart and apart.startswith(_unmarked(stream)):
        return None  # The thoughts' own tokens, even where they read like the answer.
    place = stream.rfind(rest)
    if place >= 0 and _only_marks(stream[place + len(rest) :]) and _leads_up(stream[:place], head, apart):
        return _holder(squeezed, place)
    if len(stream) > len(head) and (head + rest).startswith(stream):
        return _holder(squeezed, len(head))  # A list that ends sooner than the reply.
    return None


def _holder(squeezed: Sequence[bytes], place: int) -> int | None:
    """Return which token holds the byte at `place` of all; None where a word before it shares the token."""
    ahead = 0
    for number, token in enumerate(squeezed):
        if place < ahead + len(token):
            return None if any(map(str.isalnum, token[: place - ahead].decode(errors="replace"))) else number
        ahead += len(token)
    return None


def _leads_up(prefix: bytes, head: bytes, thoughts: bytes) -> bool:
    """True if `prefix`, what stands before the answer, is `head`, or that after thoughts that are known to be such."""
    if not prefix.endswith(head):
        return False
    extra = prefix[: len(prefix) - len(head)]
    ends = [match.end() for match in CLOSING_TAG.finditer(extra.decode(errors="replace"))]
    if ends:
        return _only_marks(_encoded(extra.decode(errors="replace")[ends[-1] :]))
    return _only_marks(extra) or (bool(thoughts) and _unmarked(extra) == _unmarked(thoughts))


def _only_marks(data: bytes) -> bool:
    """True if `data` are marks such as an end of the turn, none of which belongs to a thought."""
    said = data.decode(errors="replace")
    return not _unmarked(data) and not CLOSING_TAG.search(said) and not OPENING_TAG.search(said)


def _unmarked(data: bytes) -> bytes:
    return SPECIAL.sub(b"", data)


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _squeezed(data: bytes) -> bytes:
    """`data` without spaces, in whichever way they are written."""
    for space in SPACES:
        data = data.replace(space, b"")
    return b"".join(data.split())

"""Replies of every shape that servers send: no thought is taken for an answer, and no probability for another's."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agfsync.chat.completions import Reply, explain_reply, read_completion, read_first_word
from agfsync.scorers.vqa_openai import p_yes

RIGHT, WRONG = 0.8, 0.97
"""P of the answer that is given, and of the opposite where the thoughts stand"""
THOUGHT = ("Is", " there", " one", "?", " No", ",", " yes", ".")
LIMIT = "server.reply_tokens = 256"


def body(message: Mapping[str, Any], logprobs: Any = None, finish: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": finish, "message": message, "logprobs": logprobs}]}


def read(message: Mapping[str, Any], logprobs: Any = None, finish: str | None = "stop") -> Reply:
    return read_completion(body(message, logprobs, finish), 256)


def entry(token: str, yes: float | None = None, spelling: str = "plain") -> dict[str, Any]:
    """A token's log-probabilities: yes and no have 0.9 of them together, or with None next to nothing."""
    said = read_first_word(token)
    if yes is None:
        shares = {token: 0.96, "Yes": 0.02, " no": 0.02}
    elif said == "yes":
        shares = {token: 0.9 * yes, "No": 0.9 - 0.9 * yes}
    elif said == "no":
        shares = {token: 0.9 - 0.9 * yes, "yes": 0.9 * yes}
    else:
        shares = {token: 0.05, "Yes": 0.9 * yes, " no": 0.9 - 0.9 * yes}
    alternatives = [spelt({"token": each, "logprob": math.log(share)}, spelling) for each, share in shares.items()]
    return alternatives[0] | {"top_logprobs": alternatives}


def spelt(each: dict[str, Any], spelling: str) -> dict[str, Any]:
    """An entry's token as vocabularies write it."""
    token = each["token"]
    if spelling == "bytes":
        return each | {"token": "\\x" + token.encode().hex(), "bytes": list(token.encode())}
    marks = {"sentencepiece": ("▁", "<0x0A>"), "bytelevel": ("Ġ", "Ċ")}
    if spelling in marks:
        space, newline = marks[spelling]
        each = each | {"token": token if token == newline else token.replace(" ", space).replace("\n", "Ċ")}
    return each | ({"bytes": None} if spelling == "null bytes" else {})


@dataclass(frozen=True)
class Shape:
    """A reply and what it is worth: `counts` by its probabilities, by its word, or not at all."""

    name: tuple[str, ...]
    message: Mapping[str, Any]
    logprobs: Any
    expected: float | None


ANSWERS: Sequence[tuple[str, Sequence[str], float | None]] = (
    ("Yes", ("Yes",), 1.0),
    ("no", ("no",), 0.0),
    (" YES.", (" YES", "."), 1.0),
    ("No, there isn't.", ("No", ",", " there", " isn", "'t", "."), 0.0),
    ("**Yes**", ("**", "Yes", "**"), 1.0),
    ("\n\nNo", ("\n\n", "No"), 0.0),
    ('"yEs"', ('"', "yEs", '"'), 1.0),
    ("ja", ("ja",), None),
    ("нет", ("нет",), None),
    ("Nein.", ("Nein", "."), None),
    ("", (), None),
)
THINKING = {
    "none": ("", "", ""),
    "tags": ("<think>", "</think>", ""),
    "tag at the end": ("", "</think>", ""),
    "brackets": ("[THINK]", "[/THINK]", ""),
    "channels": ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>", ""),
    "reasoning_content": ("<think>", "</think>", "reasoning_content"),
    "reasoning": ("", "", "reasoning"),
    "dropped": ("", "", "dropped"),
}
"""Marks around thoughts, and the field for them next to the content, if any; "dropped" thoughts are in none."""
LOGPROBS = (
    "absent",
    "null",
    "empty",
    "aligned",
    "with thoughts",
    "thoughts only",
    "marked",
    "columns",
    "odd",
    "foreign",
)
SPELLINGS = ("plain", "sentencepiece", "bytelevel", "bytes", "null bytes")
CONTENTS = ("text", "parts", "output_text", "texts", "null")


def shapes() -> Iterator[Shape]:
    others = itertools.cycle(("", "tool_calls", "refusal"))
    parts = itertools.product(ANSWERS, THINKING, LOGPROBS, SPELLINGS, CONTENTS)
    for ((text, tokens, word), thinking, logprobs, spelling, content), more in zip(parts, others, strict=False):
        opening, closing, aside = THINKING[thinking]
        thought = "" if thinking == "none" else "".join(THOUGHT)
        said = text if aside or not thought else f"{opening}{thought}{closing}{text}"
        message = {"role": "assistant", "content": contained(content, said)}
        if aside not in ("", "dropped"):
            message[aside] = thought
        if more == "tool_calls":
            message["tool_calls"] = [{"type": "function", "function": {"name": "look", "arguments": "{}"}}]
        elif more == "refusal":
            message["refusal"] = None
        # What a server lists of the thoughts: marks and all where they are no part of the content.
        ahead = [entry(each, WRONG if word == 0 else 1 - WRONG, spelling) for each in THOUGHT] if thought else []
        before, after = ([entry(each, None, spelling)] if each and thought else [] for each in (opening, closing))
        worth = {token: RIGHT if word else 1 - RIGHT for token in tokens if word is not None}
        mine = [
            entry(each, worth.get(each) if read_first_word(each) in ("yes", "no") else None, spelling)
            for each in tokens
        ]
        whole = [*before, *ahead, *after, *mine]
        seen = whole if thought and not aside else mine
        given = listed(logprobs, seen, whole, ahead, mine)
        placed = logprobs in ("aligned", "columns", "marked") or (
            logprobs == "with thoughts" and (thinking != "dropped" or not ahead)
        )
        expected = word if content != "null" else None
        if expected is not None and placed:
            expected = RIGHT if word else 1 - RIGHT
        yield Shape((text, thinking, logprobs, spelling, content, more), message, given, expected)


def contained(content: str, said: str) -> Any:
    match content:
        case "parts":
            half = len(said) // 2
            return [{"type": "text", "text": said[:half]}, {"type": "text", "text": said[half:]}]
        case "output_text":
            return [{"type": "reasoning", "summary": [{"text": "No."}]}, {"type": "output_text", "text": said}]
        case "texts":
            return [said]
        case "null":
            return None
    return said


def listed(kind: str, seen: list[Any], whole: list[Any], ahead: list[Any], mine: list[Any]) -> Any:
    match kind:
        case "null" | "absent":
            return None
        case "empty":
            return {"content": []}
        case "aligned":
            return {"content": seen}
        case "with thoughts":
            return {"content": whole}
        case "thoughts only":
            return {"content": ahead}
        case "marked":
            return {"content": [*seen, entry("<|im_end|>")]}
        case "columns":
            tops = [{t["token"]: t["logprob"] for t in each["top_logprobs"]} for each in seen]
            plain = not any(each.get("bytes") for each in seen)
            columns = {"tokens": [e["token"] for e in seen], "token_logprobs": [e["logprob"] for e in seen]}
            return columns | {"top_logprobs": tops} if plain else {"content": seen}
        case "odd":
            return {"content": [7, None, {"token": 1, "top_logprobs": "x"}, {"top_logprobs": [{"logprob": "high"}]}]}
    return {"content": [entry(each, 1 - RIGHT) for each in ("Something", " else", " was", " said")]}


@pytest.mark.long
def test_no_shape_of_a_reply_gives_a_wrong_value() -> None:
    tried: Counter[str] = Counter()
    for shape in shapes():
        content = shape.name[4]
        found = p_yes(read(shape.message, shape.logprobs))
        expected = shape.expected
        if expected is None:
            assert found is None, shape
        elif content == "output_text":
            # Thoughts in a part of their own, which may read like the answer: then its word counts.
            assert found in (pytest.approx(expected), float(expected > 0.5)), shape
        else:
            assert found == pytest.approx(expected), shape
        tried["none" if found is None else "word" if found in (0.0, 1.0) else "probabilities"] += 1
    assert tried.total() == 22_000 and min(tried.values()) > 4_000
    print(f"\nshapes of replies to a question: {tried.total()} tried, 0 wrong; read by {dict(tried)}")


KEYS = (
    *("choices", "message", "content", "type", "text", "logprobs", "top_logprobs", "token", "logprob", "bytes"),
    *("reasoning", "refusal", "tool_calls", "finish_reason", "usage", "tokens", "parts", "thinking"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(message=JSON, logprobs=JSON, usage=JSON)
def test_whatever_a_server_sends_is_read_as_a_share_or_not_at_all(message: Any, logprobs: Any, usage: Any) -> None:
    for sent in (body(message, logprobs), message, {"choices": message, "usage": usage}, {"choices": [message]}):
        reply = read_completion(sent, 256)
        found = p_yes(reply)
        assert found is None or 0 <= found <= 1
        assert explain_reply(reply, LIMIT) and all(count >= 0 for count in reply.tokens or ())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}], "a cat"),
        ([{"type": "output_text", "text": "cat"}], "cat"),
        ({"type": "text", "text": "cat"}, "cat"),
        ([{"type": "text", "text": {"value": "cat", "annotations": []}}], "cat"),
        ([{"text": "cat"}], "cat"),
        (["a ", "cat"], "a cat"),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "A dog?"}]}, {"type": "text", "text": "cat"}],
            "cat",
        ),
        ([{"type": "image_url", "image_url": {"url": "http://x"}}, {"type": "text", "text": "cat"}], "cat"),
        ([{"type": "refusal", "refusal": "I can't."}], ""),
        (None, ""),
        (7, ""),
    ],
)
def test_a_content_is_a_text_or_parts_of_it(content: Any, text: str) -> None:
    assert read({"role": "assistant", "content": content}).text == text


@pytest.mark.parametrize(
    ("message", "finish", "says"),
    [
        ({"content": "I can't help."}, "stop", 'it begins "I can\'t help." (finish_reason stop)'),
        (
            {"content": "I can"},
            "length",
            f'it was cut at {LIMIT} (finish_reason length): raise that; it begins "I can"',
        ),
        ({"content": ""}, "stop", "it is empty (finish_reason stop)"),
        ({"content": None}, None, "it is empty (no finish_reason)"),
        ({"content": None}, "content_filter", "it is empty (finish_reason content_filter)"),
        (
            {"content": None, "reasoning_content": "Yes, there is."},
            "stop",
            'its text lies in reasoning_content ("Yes, there is."), its content is empty (finish_reason stop): turn the'
            f" model's thinking off, start the server without its reasoning parser, or raise {LIMIT}",
        ),
        (
            {"content": "", "reasoning": "Let me"},
            "length",
            f"it was cut at {LIMIT} (finish_reason length) with all its text in reasoning: raise that, or turn the"
            " model's thinking off",
        ),
        (
            {"content": "<think>Let me"},
            "length",
            f"it was cut at {LIMIT} (finish_reason length) with all its text in content, as thoughts: raise that, or"
            " turn the model's thinking off",
        ),
        ({"content": None, "refusal": "I can't."}, "stop", 'the model refused: "I can\'t."'),
        ({"content": [{"type": "refusal", "refusal": "No way."}]}, "stop", 'the model refused: "No way."'),
        (
            {"content": None, "tool_calls": [{"function": {"name": "look"}}]},
            "tool_calls",
            "the model called a tool (look) and gave no answer (finish_reason tool_calls)",
        ),
    ],
)
def test_what_came_instead_of_an_answer_is_said(message: dict[str, Any], finish: str | None, says: str) -> None:
    assert explain_reply(read(message, None, finish), LIMIT) == says


def test_a_reply_that_has_all_the_tokens_it_may_have_was_cut_where_no_reason_is_given() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 256}
    cut = [read_completion(body({"content": "x"}, None, end) | {"usage": usage}, 256).cut for end in (None, "stop")]
    assert cut == [True, False] and read({"content": "x"}, None, "MAX_TOKENS").cut


def test_thoughts_that_only_the_total_counts_are_paid_too() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 111}
    assert read_completion(body({"content": "yes"}) | {"usage": usage}, 256).tokens == (10, 101)
    assert read_completion(body({"content": "yes"}) | {"usage": {"prompt_tokens": -1}}, 256).tokens is None


def test_another_form_names_what_it_has() -> None:
    reply = read_completion({"model": "m", "message": {"content": "yes"}, "done": True}, 256)
    assert explain_reply(reply, LIMIT).startswith("it is no completion: an object with model, message, done")


@pytest.mark.parametrize(
    "top",
    [
        [{"token": "Yes", "logprob": 0.9}, {"token": "No", "logprob": 0.1}],  # probabilities
        [{"token": "Sky", "logprob": -0.1}, {"token": "No", "logprob": -3.0}],  # of another place
        [{"token": "No", "logprob": float("nan")}, {"token": "Yes", "logprob": None}],
        [{"token": "No", "logprob": "-0.1"}, "Yes"],
    ],
)
def test_what_is_no_log_probability_of_the_answer_leaves_its_word(top: list[Any]) -> None:
    assert p_yes(read({"content": "Yes"}, {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": top}]})) == 1.0


def test_a_list_that_ends_before_the_reply_does_is_read() -> None:
    assert p_yes(read({"content": "No, none."}, {"content": [entry("No", 0.3)]})) == pytest.approx(0.3)


def test_an_answer_that_shares_a_token_with_its_thought_counts_by_its_word() -> None:
    tokens = [entry("<think>"), entry("hm"), entry("m</think>Yes", 0.1)]
    assert p_yes(read({"content": "<think>hmm</think>Yes"}, {"content": tokens})) == 1.0

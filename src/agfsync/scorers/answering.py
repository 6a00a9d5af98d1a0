"""Answers of one word or of given choices, by the probabilities of their tokens, for models that answer questions.

The probability of an answer is the sum over its spellings: in lower case and capitalised, with and without a leading
space, and a number up to ten as word and as digits. The probability of a spelling of one token is that of the reply's
first token. The probability of a spelling of several tokens is the product of the tokens' conditional probabilities;
such a spelling counts only without a leading space. Spellings of the same tokens count once.

Shapes: Q questions, K positions of a reply, V the vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agfsync.records import Answer, Question
from agfsync.scorers import Unscored

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

AnswerTokens = tuple[int, ...]
ReadReplies = Callable[[Sequence[tuple[int, AnswerTokens]]], Iterable[Tensor]]
"""Function that takes pairs of a question's index and the first tokens of its reply, and returns for each the logits
(K, V) of the reply's first token and of the token after each given one."""


class Speller:
    """The spellings of answers in a tokenizer's vocabulary."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[AnswerTokens]] = {}

    def spell(self, answer: str) -> list[AnswerTokens]:
        """Return the distinct spellings of `answer`; none if the vocabulary lacks it."""
        if answer not in self._known:
            plain = dict.fromkeys(each for name in name_number(answer) for each in (name, name.capitalize()))
            alone, spaced = map(self._encode, plain), (self._encode(f" {each}") for each in plain)
            found = (*filter(None, alone), *(tokens for tokens in spaced if len(tokens) == 1))
            self._known[answer] = list(dict.fromkeys(found))
        return self._known[answer]

    def read(self, token: int) -> str:
        """Return the text of a reply's first token."""
        text: str = self._tokenizer.decode([token])
        return text.strip()

    def _encode(self, text: str) -> AnswerTokens:
        tokens = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        return () if self._tokenizer.unk_token_id in tokens else tokens


def name_number(answer: str) -> tuple[str, ...]:
    """Return `answer`, and its other spelling if it is a number up to ten.

    >>> name_number("three"), name_number("3"), name_number("red")
    (('three', '3'), ('3', 'three'), ('red',))
    """
    plain = answer.casefold()
    if plain in _NUMBERS:
        return answer, str(_NUMBERS.index(plain))
    return (answer, _NUMBERS[int(plain)]) if plain in map(str, range(len(_NUMBERS))) else (answer,)


def fill_template(template: str, question: str) -> str:
    """Replace {question} or else {} in `template` by `question`; other braces stay."""
    return template.replace("{question}" if "{question}" in template else "{}", question)


def put_question(question: Question, choices_template: str, template: str) -> str:
    """Return the text that asks a model `question`: `choices_template` if it has choices, else `template`, filled."""
    if not question.choices:
        return fill_template(template, question.text)
    return fill_template(choices_template, question.text).replace("{choices}", ", ".join(question.choices))


def answer_questions(
    questions: Sequence[Question], p_yes: Sequence[float], first_QV: Tensor, speller: Speller, read: ReadReplies
) -> list[Answer | Unscored]:
    """Return a model's answer to each question.

    A yes/no question is answered yes if P(yes) is above one half, a question with choices by the likeliest choice. Any
    other question is answered by the expected answer if the greedy reply begins with it, else by the text of the
    reply's first token.

    Args:
        p_yes: P(yes) against no, for each question.
        first_QV: logits of the reply's first token.
        read: called once, if there are answers of several tokens.
    """
    first_QV = first_QV.double().cpu()
    options = [(q.answer,) if q.is_yes_no else q.choices or (q.answer,) for q in questions]
    found = _read_options(options, first_QV, speller, read)
    said = [speller.read(token) for token in first_QV.argmax(-1).tolist()]
    return [_make_answer(*each) for each in zip(questions, p_yes, found, said, strict=True)]


@dataclass(slots=True)
class _Option:
    """A possible answer: the log-probabilities of its spellings; `greedy` if the greedy reply begins with it."""

    logs: list[float] = field(default_factory=list)
    greedy: bool = False

    @property
    def log(self) -> float:
        return float(torch.tensor(self.logs, dtype=torch.float64).logsumexp(0)) if self.logs else -math.inf


def _read_options(
    options: Sequence[Sequence[str]], first_QV: Tensor, speller: Speller, read: ReadReplies
) -> list[dict[str, _Option]]:
    """Return for each question a mapping from an option's text to the option."""
    spelt = [(q, option, tokens) for q, of in enumerate(options) for option in of for tokens in speller.spell(option)]
    several = [(q, tokens) for q, _, tokens in spelt if len(tokens) > 1]
    replies = iter(read(several) if several else ())
    found = [{option: _Option() for option in of} for of in options]
    for q, option, tokens in spelt:
        logits_KV = first_QV[q, None] if len(tokens) == 1 else next(replies)[: len(tokens)].double().cpu()
        logs_K = logits_KV.log_softmax(-1)[torch.arange(len(tokens)), list(tokens)]
        found[q][option].logs.append(float(logs_K.sum()))
        found[q][option].greedy |= logits_KV.argmax(-1).tolist() == list(tokens)
    return found


def _make_answer(question: Question, p_yes: float, options: Mapping[str, _Option], said: str) -> Answer | Unscored:
    logs = {text: option.log for text, option in options.items()}
    expected = math.exp(logs[question.answer])
    if question.is_yes_no:
        return Answer(question.key, "yes" if p_yes > 0.5 else "no", p_yes, expected)
    if max(logs.values()) == -math.inf:
        return Unscored(f"the model's vocabulary has no answer to: {question.text}")
    if not question.choices:
        word = question.answer if options[question.answer].greedy else said
        return Answer(question.key, word, expected, expected)
    shares = torch.tensor(list(logs.values()), dtype=torch.float64).softmax(0).tolist()
    share = shares[list(logs).index(question.answer)]
    return Answer(question.key, max(logs, key=logs.__getitem__), share, expected)

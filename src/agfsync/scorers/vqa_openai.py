"""The VQA scorer behind an OpenAI-compatible server: a model answers every question about an image (Eq. 2)."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from agfsync.chat.client import Client
from agfsync.chat.completions import Reply, explain_reply, read_first_word
from agfsync.chat.meter import Meter
from agfsync.chat.threads import map_in_threads
from agfsync.errors import BudgetError, NoReplyError
from agfsync.files.images import encode_png
from agfsync.language.text import normalise_text
from agfsync.records import Answer, Question
from agfsync.scorers import CapReached, Item, Measurement, Unscored, measure_answers
from agfsync.scorers.answering import name_number

INSTRUCTIONS = "You are shown a picture and asked a question about it. Only what can be seen in the picture counts. "
ANSWER_YES_NO = "Answer with one word: yes or no."
ANSWER_WORD = "Answer with one word."
ANSWER_CHOICE = "Answer with one of these: {choices}."
LIKELIEST = 20
"""The number of most likely first tokens to request with their probabilities; OpenAI's maximum."""
LIKELY = 0.5
"""The smallest sum of the probabilities of yes and no that counts if the model has said neither."""
BOTH = re.compile(r"\W*(?:yes|no)\W*(?:/|\||\bor\b|\band\b)\W*(?:yes|no)\b", re.IGNORECASE)
"""Matches a beginning such as "yes or no", which isn't an answer."""


class VqaOpenAI:
    """The share of the questions to which the model gives the caption's answer: 100 x correct / asked (Eq. 2).

    Each request has the image, inline as lossless PNG, and one question; the image comes first, so that a server can
    cache it for the next request. P(yes) is computed from the probabilities of the answer's first word after any
    reasoning: yes against no, each by its likeliest spelling; a missing spelling has probability 0. If the server gives
    no probabilities, or they don't decide between yes and no, P(yes) is 1 or 0 by the word that the model says. If that
    is neither yes nor no, the image is unscored.

    Any other question is answered by the choice or word that the reply begins with. The probability of the expected
    answer is the sum over its spellings among the likeliest first tokens, normalised over the choices if there are any.
    If the first tokens don't give it, the probability is 1 or 0 by what the model says.

    `path` is the server's name of the model, `server` the section `server` of the recipe. The server decides how
    weights are loaded; `revision`, `dtype` and `device` are not used. `meter` counts and caps the cost of the requests.
    """

    asks_questions = True
    takes_any_answer = True

    def __init__(
        self,
        *,
        path: str,
        server: Mapping[str, Any] | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
        meter: Meter | None = None,
    ) -> None:
        self._client = Client.of_judge("a vqa-openai scorer", path, server, meter, structured=False)

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item: a value with every answer, or `Unscored`.

        Raises:
            ModelError: there is no server or no such model, or the server rejects the key.
            CapReached: the next request might exceed the meter's cap.
        """
        images = [make_data_url(item.image) if item.questions else "" for item in items]
        both = zip(items, images, strict=True)
        asked = [(image, question) for item, image in both for question in item.questions]
        said = map_in_threads(lambda each: self._ask_question(*each), asked, self._client.at_once)
        results: list[Measurement | Unscored] = []
        try:
            for item in items:
                results.append(measure_answers(item.questions, [next(said) for _ in item.questions]))
        except BudgetError as reached:
            raise CapReached(str(reached), results) from None
        return results

    def _ask_question(self, image: str, question: Question) -> Answer | Unscored:
        """Return the answer to one question, or the reason why there is none."""
        seen = {"type": "image_url", "image_url": {"url": image}}
        wanted = ANSWER_YES_NO if question.is_yes_no else ANSWER_CHOICE if question.choices else ANSWER_WORD
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": INSTRUCTIONS + wanted.format(choices=", ".join(question.choices))},
            {"role": "user", "content": [seen, {"type": "text", "text": question.text}]},
        ]
        try:
            reply = self._client.reply(messages, logprobs=True, top_logprobs=LIKELIEST)
        except NoReplyError as fault:
            return Unscored(str(fault))
        found = read_yes_no(question, reply) if question.is_yes_no else read_answer(question, reply)
        if found is None:
            what = "is neither yes nor no" if question.is_yes_no else "has no answer"
            return Unscored(f"the model's reply {what}: {explain_reply(reply, self._client.limit)}")
        return found


def read_yes_no(question: Question, reply: Reply) -> Answer | None:
    """Return the answer of `reply` to a yes/no question; None if it is neither yes nor no."""
    p = p_yes(reply)
    return None if p is None else Answer(question.key, "yes" if p > 0.5 else "no", p)


def read_answer(question: Question, reply: Reply) -> Answer | None:
    """Return the answer of `reply` to a question that isn't yes/no; None if it has no word.

    The answer is the longest of the choices, or the expected answer, that the reply begins with, else its first word.
    """
    said = normalise_text(reply.answer)
    if not said:
        return None
    options = question.choices or (question.answer,)
    begun = [each for each in options if any(f"{said} ".startswith(f"{name} ") for name in _list_names(each))]
    answer = max(begun, key=len, default=said.split()[0])
    likely = {
        each: sum(
            math.exp(log)
            for token, log in reply.first.items()
            if normalise_text(token.lstrip(" Ġ▁")) in _list_names(each)
        )
        for each in options
    }
    total = sum(likely.values())
    if not question.choices and total:
        return Answer(question.key, answer, total, total)
    if question.choices and all(likely.values()):
        return Answer(question.key, answer, likely[question.answer] / total, likely[question.answer])
    return Answer(question.key, answer, float(answer == question.answer))


def _list_names(answer: str) -> list[str]:
    return [normalise_text(name) for name in name_number(answer)]


def p_yes(reply: Reply) -> float | None:
    """Return P(yes) in 0..1 of `reply`; None if it is neither yes nor no."""
    words = {"yes": 1.0, "no": 0.0}
    word = read_first_word(reply.answer)
    likelihoods = dict.fromkeys(words, -math.inf)
    for token, log_probability in reply.first.items():
        if (spelt := read_first_word(token)) in likelihoods:
            likelihoods[spelt] = max(likelihoods[spelt], log_probability)
    yes, no = map(math.exp, likelihoods.values())
    # If the model said neither, small probabilities of both mean nothing; if it said one, that one needs a probability.
    if likelihoods[word] > -math.inf if word in words else yes + no >= LIKELY:
        likeliest = max(likelihoods.values())
        yes, no = (math.exp(each - likeliest) for each in likelihoods.values())
        return yes / (yes + no)
    return None if BOTH.match(reply.answer) else words.get(word)


def make_data_url(image: Image.Image) -> str:
    """Return `image` as a lossless PNG in a data URL."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"

"""The VQA scorer behind an OpenAI-compatible server: a model answers every question about an image (Eq. 2)."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from agfsync.chat.client import Client
from agfsync.chat.completions import Reply, explain_reply, read_first_word
from agfsync.chat.endpoint import Endpoint
from agfsync.chat.meter import Meter
from agfsync.chat.threads import map_in_threads
from agfsync.errors import BudgetError, ModelError, NoReplyError
from agfsync.files.images import encode_png
from agfsync.scorers import CapReached, Item, Measurement, Unscored, measure_answers

INSTRUCTIONS = (
    "You are shown a picture and asked a question about it. Only what can be seen in the picture counts. "
    "Answer with one word: yes or no."
)
LIKELIEST = 20
"""The number of spellings of the first token whose probabilities are requested: the most that OpenAI gives."""
LIKELY = 0.5
"""The least joint probability of yes and no if the model has said neither."""
BOTH = re.compile(r"\W*(?:yes|no)\W*(?:/|\||\bor\b|\band\b)\W*(?:yes|no)\b", re.IGNORECASE)
"""Beginnings such as "yes or no", which are no answer."""


class VqaOpenAI:
    """The share of the questions to which the model gives the caption's answer: 100 x correct / asked (Eq. 2).

    Each request has the image, inline as lossless PNG, and one question; the image comes first, so that a server can
    cache it for the next request. P(yes) is computed from the probabilities of the answer's first word after any
    reasoning: yes against no, each by its likeliest spelling; a missing spelling has probability 0. If the server gives
    no probabilities, or the beginning of the answer among them is unclear, P(yes) is 1 or 0 by the word that the model
    says. An image with a question without either is unscored.

    `path` is the server's name of the model, `server` the recipe's section of that name. The server decides how weights
    are loaded; `revision`, `dtype` and `device` are not used. `meter` counts the cost of the requests and caps it.
    """

    asks_questions = True

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
        if server is None:
            raise ModelError("a vqa-openai scorer needs a server: give server.base_url, or server: {} for OpenAI's")
        endpoint = Endpoint(model=path, temperature=0.0, structured=False, **server)
        self._at_once = endpoint.concurrency
        self._client = Client(endpoint, meter or Meter())

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item: a value with every answer, or `Unscored`.

        Raises:
            ModelError: there is no server or no such model, or it doesn't take the key.
            CapReached: the next request might pass the meter's cap.
        """
        pictures = [make_data_url(item.image) if item.questions else "" for item in items]
        both = zip(items, pictures, strict=True)
        asked = [(picture, question.text) for item, picture in both for question in item.questions]
        said = map_in_threads(lambda each: self._ask_question(*each), asked, self._at_once)
        results: list[Measurement | Unscored] = []
        try:
            for item in items:
                results.append(_make_result(item, [next(said) for _ in item.questions]))
        except BudgetError as reached:
            raise CapReached(str(reached), results) from None
        return results

    def _ask_question(self, picture: str, question: str) -> float | Unscored:
        """Return P(yes) of one question, or the reason for none."""
        seen = {"type": "image_url", "image_url": {"url": picture}}
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": [seen, {"type": "text", "text": question}]},
        ]
        try:
            reply = self._client.reply(messages, logprobs=True, top_logprobs=LIKELIEST)
        except NoReplyError as fault:
            return Unscored(str(fault))
        found = p_yes(reply)
        if found is None:
            return Unscored(f"the model's reply is neither yes nor no: {explain_reply(reply, self._client.limit)}")
        return found


def p_yes(reply: Reply) -> float | None:
    """Return the P(yes), 0..1, that `reply` gives; None where it is neither yes nor no."""
    words = {"yes": 1.0, "no": 0.0}
    word = read_first_word(reply.answer)
    likelihoods = dict.fromkeys(words, -math.inf)
    for token, log_probability in reply.first.items():
        if (spelt := read_first_word(token)) in likelihoods:
            likelihoods[spelt] = max(likelihoods[spelt], log_probability)
    yes, no = map(math.exp, likelihoods.values())
    # Where the model said neither, small probabilities of both say nothing; where it said one, that one has some.
    if likelihoods[word] > -math.inf if word in words else yes + no >= LIKELY:
        likeliest = max(likelihoods.values())
        yes, no = (math.exp(each - likeliest) for each in likelihoods.values())
        return yes / (yes + no)
    return None if BOTH.match(reply.answer) else words.get(word)


def make_data_url(image: Image.Image) -> str:
    """Return `image` as a lossless PNG in a data URL."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"


def _make_result(item: Item, said: Sequence[float | Unscored]) -> Measurement | Unscored:
    unanswered = next((each for each in said if isinstance(each, Unscored)), None)
    return unanswered or measure_answers(item.questions, [each for each in said if not isinstance(each, Unscored)])

"""Estimates the requests, tokens and cost of captions, polishing and questions, from the actual prompts.

A token counts as four characters. Lengths and numbers that depend on the model's replies are taken from the paper.
"""

import json
from dataclasses import dataclass
from math import nan
from typing import Any

from agfsync.language import captions, polish, questions
from agfsync.language.captions import CAPTION_CATEGORIES

CHARACTERS = 4.0
"""characters per token"""
CAPTION = 6.0 * 26
"""characters of a caption: the paper's have 26 words"""
QUESTIONS_KEPT = 9.0
"""questions kept per caption: the paper has 414 172 questions on 45 834 captions"""
TOKENS_A_SECOND = 50.0
"""speed of a reply, once it has begun"""
WAIT = 1.0
"""seconds until a reply begins"""


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """The tokens that a stage sends and receives."""

    requests: float
    input: float
    output: float

    def __add__(self, other: "TokenEstimate") -> "TokenEstimate":
        return TokenEstimate(self.requests + other.requests, self.input + other.input, self.output + other.output)

    def estimate_cost(self, input_price: float, output_price: float) -> float:
        """Return the cost for prices per million tokens; NaN if it is 0, as for a model without prices."""
        return (self.input * input_price + self.output * output_price) / 1e6 or nan

    def estimate_seconds(self, concurrency: int) -> float:
        """Return the time in seconds with `concurrency` requests at once."""
        return (self.requests * WAIT + self.output / TOKENS_A_SECOND) / concurrency


def estimate_caption_tokens(written: int) -> TokenEstimate:
    """Estimate the writing of captions in twelve categories, ten per request; repeated captions aren't counted."""
    each = written / len(CAPTION_CATEGORIES)
    requests = len(CAPTION_CATEGORIES) * max(1.0, -(-each // captions.CAPTIONS_PER_REQUEST))
    count = max(captions.FEWEST_CAPTIONS, min(captions.CAPTIONS_PER_REQUEST, each))
    exemplars = [text for category in CAPTION_CATEGORIES.values() for text in category.exemplars]
    length = sum(map(len, exemplars)) / len(exemplars) + 4
    about = sum(len(category.about) for category in CAPTION_CATEGORIES.values()) / len(CAPTION_CATEGORIES)
    instructions = captions.CAPTION_INSTRUCTIONS.format(
        lengths="; ".join(f"3 {each}" for each in captions.CAPTION_LENGTHS)
    )
    shown = min(captions.CAPTIONS_SHOWN, each / 2) + 5
    sent = len(instructions) + _count_schema(captions.Descriptions) + about + shown * length + 90
    return TokenEstimate(requests, requests * sent / CHARACTERS, requests * (count * length + 20) / CHARACTERS)


def estimate_question_tokens(asked: int, rounds: int, verify: bool) -> TokenEstimate:
    """Estimate rounds of at least fifteen questions per caption, and their verification."""
    sample = questions.Draft(
        question_id="10",
        question="Is there a small wooden boat on the lake?",
        answer="yes",
        element="small wooden boat",
        element_type="object",
        flag="1",
    )
    sent: float = rounds * (len(questions.QUESTION_INSTRUCTIONS) + _count_schema(questions.Round) + CAPTION + 15)
    received: float = rounds * (questions.QUESTIONS_PER_ROUND * (len(sample.model_dump_json()) + 12) + 18)
    if verify:
        sent += len(questions.VERIFY_INSTRUCTIONS) + _count_schema(questions.Verdicts) + CAPTION + QUESTIONS_KEPT * 70
        received += QUESTIONS_KEPT * len('{"number": 1, "answer": "yes"}, ') + 16
    return TokenEstimate(asked * (rounds + verify), asked * sent / CHARACTERS, asked * received / CHARACTERS)


def estimate_polish_tokens(prompts: int) -> TokenEstimate:
    """Estimate the polishing of prompts as long as the paper's captions, five per request."""
    each = min(polish.PROMPTS_PER_REQUEST, prompts)
    requests = float(-(-prompts // polish.PROMPTS_PER_REQUEST))
    sent = len(polish.POLISH_INSTRUCTIONS) + _count_schema(polish.PolishReply) + each * (CAPTION + 30) + 15
    sample = polish.PolishDraft(number="1", changed="removed the contradicting colours", usable="yes", prompt="")
    received = each * (len(sample.model_dump_json()) + CAPTION + 10) + 15
    return TokenEstimate(requests, requests * sent / CHARACTERS, requests * received / CHARACTERS)


def _count_schema(shape: Any) -> int:
    """Return the number of characters of a reply's schema, which servers add to the messages."""
    return len(json.dumps(shape.model_json_schema()))

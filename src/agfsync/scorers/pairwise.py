"""Pairwise judges, which choose the better of two images by prompt or by look: their questions and replies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from PIL import Image
from pydantic import BaseModel, BeforeValidator

from agfsync.chat.replies import UnreadableError, parse_reply
from agfsync.scorers import Unscored

ASKS = {
    "preference": 'Both were made from this text: "{}". Which of the two do you prefer, as a picture of it?',
    "alignment": 'Both were made from this text: "{}". Which of the two shows what it says more faithfully?',
    "appeal": "Which of the two is more visually appealing? What they were meant to show doesn't matter.",
}
"""The questions Q1 to Q3 of the paper's evaluation, in our own words; the third doesn't show the prompt."""
COMPARE = (
    "You compare two pictures, Picture 1 and Picture 2, and judge them by what can be seen in them alone; their order "
    "means nothing. Reply with JSON and nothing else: "
    '{"reason": "one or two sentences", "choice": "1", "2" or "tie"}. Say tie if neither is better.'
)


@dataclass(frozen=True, slots=True)
class Match:
    """Two RGB images of a prompt in the order shown; `ask` is a key of `ASKS`."""

    prompt: str
    ask: str
    first: Image.Image
    second: Image.Image


@dataclass(frozen=True, slots=True)
class Ballot:
    """A judge's choice in a match, by the order shown, with its reason and its raw reply."""

    choice: Literal["1", "2", "tie"]
    explanation: str
    reply: str


@dataclass(frozen=True, slots=True)
class UnreadReply(Unscored):
    """A reply that holds no choice."""

    reply: str = ""


class PairwiseJudge(Protocol):
    """A judge of two images. It sees every couple of images in both orders, as two matches."""

    def compare(self, matches: Sequence[Match]) -> Sequence[Ballot | Unscored]:
        """Return one result for each match, in order.

        Raises:
            CapReached: its spending cap is reached.
        """
        ...


class ChoiceReply(BaseModel):
    """The shape of a judge's reply: the reason comes first, so that the choice can follow from it."""

    reason: str = ""
    choice: Annotated[
        Literal["1", "2", "tie"],
        BeforeValidator(lambda said: str(said).strip().lower().removeprefix("picture").strip(" .")),
    ]


def ask_about(match: Match) -> str:
    """Return the text that asks a model the question of a match."""
    return ASKS[match.ask].replace("{}", match.prompt)


def read_ballot(reply: str, answer: str, fault: str) -> Ballot | UnreadReply:
    """Parse the choice in `answer`, which is `reply` without reasoning; `fault` describes a reply without a choice."""
    try:
        said = parse_reply(answer, ChoiceReply)
    except UnreadableError:
        return UnreadReply(f"the model's reply holds no choice: {fault}", reply)
    return Ballot(said.choice, said.reason, reply)

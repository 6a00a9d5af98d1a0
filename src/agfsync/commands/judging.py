"""What a judge says of labelled pairs: a value of each image, or a choice between the two in both orders."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from agfsync import catalog
from agfsync.accuracy import LabelledPair
from agfsync.chat.meter import Meter
from agfsync.engine.batch_fitting import BatchFit
from agfsync.recipe import ScorerSettings
from agfsync.recipe.types import PairwiseSettings
from agfsync.records import Question, Vote, derive_seed
from agfsync.scorers import Scorer, Unscored
from agfsync.scorers.batch import PictureToScore, open_pictures, score_pictures
from agfsync.scorers.pairwise import Ballot, Match, PairwiseJudge
from agfsync.stages.evaluation.votes import decide_winner, measure_position
from agfsync.stages.spending import list_scorer_arguments

_WINNER, _LOSER = "aligned", "base"
"""The preferred image and the other, in the words of a vote."""


@dataclass(frozen=True, slots=True)
class PairToJudge:
    """A pair with its prompt, the prompt's questions, and the files of its images by their keys."""

    labelled: LabelledPair
    prompt: str
    files: Mapping[str, bytes]
    questions: tuple[Question, ...] = ()


class JudgeRecord(Protocol):
    """A judge and what it has said so far; `reasons` counts why it gave no value or choice."""

    reasons: Counter[str]

    def add(self, pairs: Sequence[PairToJudge]) -> None:
        """Let the judge say something of more pairs."""
        ...

    def find_differences(self) -> Mapping[str, Sequence[float]]:
        """Return, by the judge's name, each pair's value of the first image less the second's; NaN for none."""
        ...

    def measure_positions(self, resamples: int, seed: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the share of choices of the image shown `first` and the ends of its 95 % interval, by name."""
        ...


def open_record(name: str, settings: ScorerSettings, meter: Meter | None) -> JudgeRecord:
    """Load the judge of these settings.

    Raises:
        ModelError: it can't be loaded.
    """
    metered = {} if meter is None else {"meter": meter}
    if isinstance(settings, PairwiseSettings):
        arguments = settings.model_dump(exclude={"asks"}) | metered
        return PairwiseRecord(name, settings.asks, catalog.build("pairwise", arguments))
    return ImageRecord(name, catalog.build("scorers", list_scorer_arguments(settings, None) | metered))


@dataclass(slots=True)
class ImageRecord:
    """A scorer's values of images; an image of several pairs is scored once."""

    name: str
    scorer: Scorer
    reasons: Counter[str] = field(default_factory=Counter)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    """by image"""

    def add(self, pairs: Sequence[PairToJudge]) -> None:
        """Score those images of the pairs that have no value yet."""
        self.pairs += [(each.labelled.first, each.labelled.second) for each in pairs]
        new = {key: (each, file) for each in pairs for key, file in each.files.items() if key not in self.values}
        images = open_pictures([file for _, file in new.values()])
        shown = [
            PictureToScore(key, key, pair.prompt, pair.questions, image)
            for (key, (pair, _)), image in zip(new.items(), images, strict=True)
        ]
        for said in BatchFit(max(1, len(shown))).over(shown, lambda some: score_pictures(self.scorer, self.name, some)):
            self.values[said.score.key] = float("nan") if said.score.value is None else said.score.value
            if said.score.reason is not None:
                self.reasons[said.score.reason] += 1

    def find_differences(self) -> dict[str, list[float]]:
        """Return the first image's value less the second's, for each pair."""
        return {self.name: [self.values[first] - self.values[second] for first, second in self.pairs]}

    def measure_positions(self, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
        """Return nothing: a scorer sees one image at a time."""
        return {}


@dataclass(slots=True)
class PairwiseRecord:
    """A pairwise judge's choices by ask, each of which is a judge: with several asks it is called NAME.ASK."""

    name: str
    asks: Sequence[str]
    judge: PairwiseJudge
    reasons: Counter[str] = field(default_factory=Counter)
    votes: dict[str, list[list[Vote]]] = field(default_factory=lambda: defaultdict(list))
    """for each ask and pair, the votes in both orders"""

    def add(self, pairs: Sequence[PairToJudge]) -> None:
        """Let the judge choose between the images of each pair, in both orders."""
        games: list[tuple[Vote, Match | Unscored]] = []
        for pair in pairs:
            labelled = pair.labelled
            images = open_pictures([pair.files[labelled.first], pair.files[labelled.second]])
            for ask in self.asks:
                for first, shown in ((_WINNER, images), (_LOSER, images[::-1])):
                    vote = Vote("", "", labelled.prompt, ask, first, None)
                    games.append((vote, _make_match(pair.prompt, ask, *shown)))
        said = iter(self.judge.compare([match for _, match in games if isinstance(match, Match)]))
        votes = [self._enter(vote, next(said) if isinstance(match, Match) else match) for vote, match in games]
        for one, other in zip(votes[::2], votes[1::2], strict=True):
            self.votes[one.ask].append([one, other])

    def _enter(self, vote: Vote, said: Ballot | Unscored) -> Vote:
        if isinstance(said, Unscored):
            self.reasons[said.reason] += 1
            return vote
        other = _LOSER if vote.first == _WINNER else _WINNER
        choice = {"1": vote.first, "2": other, "tie": "tie"}[said.choice]
        return Vote("", "", vote.caption_key, vote.ask, vote.first, choice)

    def find_differences(self) -> dict[str, list[float]]:
        """Return 1 for each pair whose winner was chosen in both orders, -1 if the loser was, 0 for a tie, else NaN."""
        values = {_WINNER: 1.0, _LOSER: -1.0, "tie": 0.0, None: float("nan")}
        return {
            self._name(ask): [values[decide_winner([vote.choice for vote in both])] for both in pairs]
            for ask, pairs in self.votes.items()
        }

    def measure_positions(self, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
        """Return the share of choices of the picture shown `first`, with its 95 % interval over prompts, by ask."""
        found: dict[str, dict[str, Any]] = {}
        for ask, pairs in self.votes.items():
            by_prompt: dict[str, list[Vote]] = defaultdict(list)
            for both in pairs:
                if all(vote.choice is not None for vote in both):
                    by_prompt[both[0].caption_key] += both
            seed_of = derive_seed(seed, "position", self.name, ask)
            found[self._name(ask)] = measure_position(list(by_prompt.values()), resamples, seed_of)
        return found

    def _name(self, ask: str) -> str:
        return self.name if len(self.asks) == 1 else f"{self.name}.{ask}"


def _make_match(
    prompt: str, ask: str, first: Image.Image | Unscored, second: Image.Image | Unscored
) -> Match | Unscored:
    """Return the match of two images; the fault of one that can't be shown."""
    if isinstance(first, Unscored):
        return first
    return second if isinstance(second, Unscored) else Match(prompt, ask, first, second)

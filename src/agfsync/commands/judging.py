"""What a judge says of labelled pairs: a value of each image, or a choice between the two in both orders."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from agfsync import catalog
from agfsync.chat.meter import Meter
from agfsync.engine.batch_fitting import BatchFit
from agfsync.engine.progress import Progress
from agfsync.formats import TIE, LeftOutTally
from agfsync.recipe import ScorerSettings
from agfsync.recipe.scorers import PairwiseSettings
from agfsync.records import Caption, Question, Vote, derive_seed
from agfsync.scorers import Scorer, Unscored
from agfsync.scorers.batch import ImageToScore, decode_images, score_images
from agfsync.scorers.pairwise import Ballot, Match, PairwiseJudge
from agfsync.stages.evaluation.votes import decide_winner, measure_position
from agfsync.stages.selection import digest_judge
from agfsync.stages.spending import list_scorer_arguments
from agfsync.statistics.accuracy import LabelledPair
from agfsync.store import Run
from agfsync.store.streams import group_by_column, iterate_batches

_T = TypeVar("_T", contravariant=True)

RESAMPLES = 10_000
_AT_ONCE = 64
"""Pairs or images that are read at a time."""
_WINNER, _LOSER = "aligned", "base"
"""The preferred image and the other, in the words of a vote."""


@dataclass(frozen=True, slots=True)
class PairToJudge:
    """A pair with its prompt, the prompt's questions, and the files of its images by their keys."""

    labelled: LabelledPair
    prompt: str
    files: Mapping[str, bytes]
    questions: tuple[Question, ...] = ()


@dataclass(slots=True)
class Judged:
    """Findings about judges, on pairs or on answers, with what was left out and the cost of each judge's server.

    `table` has the accuracies by aspect and judge, `reasons` for each judge why images have no value.
    """

    path: Path
    left_out: LeftOutTally = field(default_factory=LeftOutTally)
    table: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    agreement: Sequence[Mapping[str, Any]] = ()
    positions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """of each pairwise judge"""
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """of each judge of answers"""
    identities: dict[str, str] = field(default_factory=dict)
    """of each judge, by which a report knows it whatever its name"""
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    spent: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it for programs, as JSON can hold it."""
        counts = dict(self.left_out.counts)
        found: dict[str, Any] = {"path": str(self.path), "judges": self.identities}
        found |= {"unscored": self.reasons, "spent": self.spent}
        if self.answers:
            return found | {"left_out": counts, "answers": self.answers}
        found |= {"rule": "half", "ties": counts.pop(TIE, 0), "left_out": counts, "accuracy": self.table}
        return found | {"agreement": self.agreement, "positions": self.positions}


class JudgeRecord(Protocol[_T]):
    """A judge and what it has said so far; `reasons` counts why it gave no value, choice or answer."""

    reasons: Counter[str]

    def add(self, some: Sequence[_T], /) -> None:
        """Let the judge say something of more pairs or images."""
        ...


_R = TypeVar("_R", bound=JudgeRecord[Any])


def let_judge(
    found: Judged,
    name: str,
    settings: ScorerSettings,
    open_record: Callable[[str, ScorerSettings, Meter | None], _R],
    read: Callable[[LeftOutTally], Iterator[Any]],
    total: tuple[int, str],
    progress: Progress,
) -> _R:
    """Load a judge, let it judge all that `read` yields, and enter in `found` what isn't the record's own.

    Args:
        total: the number of what there is to judge, and its unit.

    Raises:
        ModelError: it can't be loaded.
    """
    server, meter = settings.asked_server, None
    if server is not None:
        meter = Meter((server.prices.input, server.prices.output), server.max_cost, server.max_tokens_total)
    progress.say(f"judge: loading {name}")
    record, found.left_out = open_record(name, settings, meter), LeftOutTally()
    with progress.stage(f"judge: {name}", *total) as task:
        for some in iterate_batches(read(found.left_out), _AT_ONCE):
            record.add(some)
            task.advance(len(some))
    found.reasons[name], found.identities[name] = dict(record.reasons), digest_judge(settings)
    if meter is not None:
        found.spent[name] = meter.spent.to_dict()
    return record


class PairRecord(JudgeRecord[PairToJudge], Protocol):
    """A judge and what it has said of the `pairs` so far."""

    pairs: list[LabelledPair]

    def find_differences(self) -> Mapping[str, Sequence[float]]:
        """Return, by the judge's name, each pair's value of the first image less the second's; NaN for none."""
        ...

    def measure_positions(self, resamples: int, seed: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the share of choices of the image shown `first` and the ends of its 95 % interval, by name."""
        ...


def open_pair_record(name: str, settings: ScorerSettings, meter: Meter | None) -> PairRecord:
    """Load the judge of these settings.

    Raises:
        ModelError: it can't be loaded.
    """
    if isinstance(settings, PairwiseSettings):
        arguments = settings.model_dump(exclude={"asks"}) | ({} if meter is None else {"meter": meter})
        return PairwiseRecord(name, settings.asks, catalog.build("pairwise", arguments))
    return ImageRecord(name, load_scorer(settings, meter))


def load_scorer(settings: ScorerSettings, meter: Meter | None) -> Any:
    """Load a scorer of images; `meter` counts the cost of one behind a server.

    Raises:
        ModelError: it can't be loaded.
    """
    return catalog.build("scorers", list_scorer_arguments(settings, None) | ({} if meter is None else {"meter": meter}))


def read_texts(run: Run) -> tuple[dict[str, str], dict[str, tuple[Question, ...]]]:
    """Return the text and the questions of each caption of a run, by its key."""
    asked = group_by_column("caption_key", run.rows("questions"))
    texts = {each.key: each.text for each in run.read("captions", Caption)}
    return texts, {key: tuple(Question.of(row) for row in rows) for key, rows in asked}


@dataclass(slots=True)
class ImageRecord:
    """A scorer's values of images; an image of several pairs is scored once."""

    name: str
    scorer: Scorer
    reasons: Counter[str] = field(default_factory=Counter)
    pairs: list[LabelledPair] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    """by image"""

    def add(self, pairs: Sequence[PairToJudge]) -> None:
        """Score those images of the pairs that have no value yet."""
        self.pairs += [each.labelled for each in pairs]
        new = {key: (each, file) for each in pairs for key, file in each.files.items() if key not in self.values}
        images = decode_images([file for _, file in new.values()])
        shown = [
            ImageToScore(key, key, pair.prompt, pair.questions, image)
            for (key, (pair, _)), image in zip(new.items(), images, strict=True)
        ]
        for said in BatchFit(max(1, len(shown))).over(shown, lambda some: score_images(self.scorer, self.name, some)):
            self.values[said.score.key] = float("nan") if said.score.value is None else said.score.value
            if said.score.reason is not None:
                self.reasons[said.score.reason] += 1

    def find_differences(self) -> dict[str, list[float]]:
        """Return the first image's value less the second's, for each pair."""
        return {self.name: [self.values[pair.first] - self.values[pair.second] for pair in self.pairs]}

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
    pairs: list[LabelledPair] = field(default_factory=list)
    votes: dict[str, list[list[Vote]]] = field(default_factory=lambda: defaultdict(list))
    """for each ask and pair, the votes in both orders"""

    def add(self, pairs: Sequence[PairToJudge]) -> None:
        """Let the judge choose between the images of each pair, in both orders."""
        self.pairs += [each.labelled for each in pairs]
        games: list[tuple[Vote, Match | Unscored]] = []
        for pair in pairs:
            labelled = pair.labelled
            images = decode_images([pair.files[labelled.first], pair.files[labelled.second]])
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
        """Return the share of choices of the image shown `first`, with its 95 % interval over prompts, by ask."""
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

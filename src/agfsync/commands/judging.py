"""A judge's results on labelled pairs: a value of each image, or a choice between two images in both orders."""

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
"""pairs or images read at a time"""
_WINNER, _LOSER = "aligned", "base"
"""the names of the preferred image and of the other in a vote"""


@dataclass(frozen=True, slots=True)
class PairToJudge:
    """A pair with its prompt, the questions on it, and the files of its images by their keys."""

    labelled: LabelledPair
    prompt: str
    files: Mapping[str, bytes]
    questions: tuple[Question, ...] = ()


@dataclass(slots=True)
class Judged:
    """Results of judges on pairs or answers, with the left-out entries and the spending on each judge's server.

    `table` has the accuracies by aspect and judge, `reasons` each judge's counted reasons for missing values.
    """

    path: Path
    left_out: LeftOutTally = field(default_factory=LeftOutTally)
    table: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    agreement: Sequence[Mapping[str, Any]] = ()
    positions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """figures of each pairwise judge"""
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """figures of each judge that answers questions"""
    identities: dict[str, str] = field(default_factory=dict)
    """the digest of each judge, by which a report recognises it under any name"""
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    spent: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the results in JSON types."""
        counts = dict(self.left_out.counts)
        tree: dict[str, Any] = {"path": str(self.path), "judges": self.identities}
        tree |= {"unscored": self.reasons, "spent": self.spent}
        if self.answers:
            return tree | {"left_out": counts, "answers": self.answers}
        tree |= {"rule": "half", "ties": counts.pop(TIE, 0), "left_out": counts, "accuracy": self.table}
        return tree | {"agreement": self.agreement, "positions": self.positions}


class JudgeRecord(Protocol[_T]):
    """A judge and its results so far; `reasons` counts missing values, choices or answers."""

    reasons: Counter[str]

    def add(self, some: Sequence[_T], /) -> None:
        """Let the judge judge more pairs or images."""
        ...


_R = TypeVar("_R", bound=JudgeRecord[Any])


def run_judge(
    judged: Judged,
    name: str,
    settings: ScorerSettings,
    open_record: Callable[[str, ScorerSettings, Meter | None], _R],
    read: Callable[[LeftOutTally], Iterator[Any]],
    total: tuple[int, str],
    progress: Progress,
) -> _R:
    """Load a judge, let it judge all items of `read`, and add its counts and spending to `judged`.

    Args:
        total: the number of items, and their unit.

    Raises:
        ModelError: the judge can't be loaded.
    """
    server, meter = settings.asked_server, None
    if server is not None:
        meter = Meter((server.prices.input, server.prices.output), server.max_cost, server.max_tokens_total)
    progress.say(f"judge: loading {name}")
    record, judged.left_out = open_record(name, settings, meter), LeftOutTally()
    with progress.stage(f"judge: {name}", *total) as task:
        for batch in iterate_batches(read(judged.left_out), _AT_ONCE):
            record.add(batch)
            task.advance(len(batch))
    judged.reasons[name], judged.identities[name] = dict(record.reasons), digest_judge(settings)
    if meter is not None:
        judged.spent[name] = meter.spent.to_dict()
    return record


class PairRecord(JudgeRecord[PairToJudge], Protocol):
    """A judge and its results on the `pairs` so far."""

    pairs: list[LabelledPair]

    def find_differences(self) -> Mapping[str, Sequence[float]]:
        """Return, by the judge's name, each pair's value of the first image minus the second's; NaN if missing."""
        ...

    def measure_positions(self, resamples: int, seed: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the share of choices of the image shown `first` with its 95 % interval, by name."""
        ...


def open_pair_record(name: str, settings: ScorerSettings, meter: Meter | None) -> PairRecord:
    """Load the judge with these settings.

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
    questions = group_by_column("caption_key", run.rows("questions"))
    texts = {caption.key: caption.text for caption in run.read("captions", Caption)}
    return texts, {key: tuple(Question.of(row) for row in rows) for key, rows in questions}


@dataclass(slots=True)
class ImageRecord:
    """A scorer's values of images; an image of several pairs is scored once."""

    name: str
    scorer: Scorer
    reasons: Counter[str] = field(default_factory=Counter)
    pairs: list[LabelledPair] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    """image key -> value"""

    def add(self, pairs: Sequence[PairToJudge]) -> None:
        """Score the images of the pairs that have no value yet."""
        self.pairs += [pair.labelled for pair in pairs]
        new = {key: (pair, file) for pair in pairs for key, file in pair.files.items() if key not in self.values}
        images = decode_images([file for _, file in new.values()])
        items = [
            ImageToScore(key, key, pair.prompt, pair.questions, image)
            for (key, (pair, _)), image in zip(new.items(), images, strict=True)
        ]
        fit = BatchFit(max(1, len(items)))
        for scored in fit.over(items, lambda batch: score_images(self.scorer, self.name, batch)):
            self.values[scored.score.key] = float("nan") if scored.score.value is None else scored.score.value
            if scored.score.reason is not None:
                self.reasons[scored.score.reason] += 1

    def find_differences(self) -> dict[str, list[float]]:
        """Return the first image's value minus the second's for each pair."""
        return {self.name: [self.values[pair.first] - self.values[pair.second] for pair in self.pairs]}

    def measure_positions(self, resamples: int, seed: int) -> dict[str, dict[str, Any]]:
        """Return an empty mapping: a scorer sees one image at a time."""
        return {}


@dataclass(slots=True)
class PairwiseRecord:
    """A pairwise judge's choices by ask. With several asks, each one counts as a judge called NAME.ASK."""

    name: str
    asks: Sequence[str]
    judge: PairwiseJudge
    reasons: Counter[str] = field(default_factory=Counter)
    pairs: list[LabelledPair] = field(default_factory=list)
    votes: dict[str, list[list[Vote]]] = field(default_factory=lambda: defaultdict(list))
    """ask -> for each pair the votes in both orders"""

    def add(self, pairs: Sequence[PairToJudge]) -> None:
        """Let the judge choose between the images of each pair, in both orders."""
        self.pairs += [pair.labelled for pair in pairs]
        matches: list[tuple[Vote, Match | Unscored]] = []
        for pair in pairs:
            labelled = pair.labelled
            images = decode_images([pair.files[labelled.first], pair.files[labelled.second]])
            for ask in self.asks:
                for first, shown in ((_WINNER, images), (_LOSER, images[::-1])):
                    vote = Vote("", "", labelled.prompt, ask, first, None)
                    matches.append((vote, _make_match(pair.prompt, ask, *shown)))
        results = iter(self.judge.compare([match for _, match in matches if isinstance(match, Match)]))
        votes = [self._make_vote(vote, next(results) if isinstance(match, Match) else match) for vote, match in matches]
        for one, other in zip(votes[::2], votes[1::2], strict=True):
            self.votes[one.ask].append([one, other])

    def _make_vote(self, vote: Vote, result: Ballot | Unscored) -> Vote:
        if isinstance(result, Unscored):
            self.reasons[result.reason] += 1
            return vote
        other = _LOSER if vote.first == _WINNER else _WINNER
        choice = {"1": vote.first, "2": other, "tie": "tie"}[result.choice]
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
        positions: dict[str, dict[str, Any]] = {}
        for ask, pairs in self.votes.items():
            by_prompt: dict[str, list[Vote]] = defaultdict(list)
            for both in pairs:
                if all(vote.choice is not None for vote in both):
                    by_prompt[both[0].caption_key] += both
            seed_of = derive_seed(seed, "position", self.name, ask)
            positions[self._name(ask)] = measure_position(list(by_prompt.values()), resamples, seed_of)
        return positions

    def _name(self, ask: str) -> str:
        return self.name if len(self.asks) == 1 else f"{self.name}.{ask}"


def _make_match(
    prompt: str, ask: str, first: Image.Image | Unscored, second: Image.Image | Unscored
) -> Match | Unscored:
    """Return the match of two images, or the fault of an image that can't be shown."""
    if isinstance(first, Unscored):
        return first
    return second if isinstance(second, Unscored) else Match(prompt, ask, first, second)

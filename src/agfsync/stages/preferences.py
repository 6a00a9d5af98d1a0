"""What a pair set gives a run: captions, its pictures as candidates, and which are preferred. No stage of its own.

The captions stage takes its prompts, the candidates stage its pictures, and the pairs stage reads what was preferred.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agfsync.engine import Part, Sifted, over_budget
from agfsync.formats import NoPreference, PairSet, Preference
from agfsync.formats.pairing import opened
from agfsync.formats.selection import read_selectors
from agfsync.pictures import BrokenPicture
from agfsync.progress import Task
from agfsync.records import Candidate, Caption, Pair, digest
from agfsync.sources import captions_of_pairs, recognise
from agfsync.stages import VERSIONS, Context
from agfsync.stages.selection import SELECTED_BY, note_selectors
from agfsync.stages.written import caption_of

CAPTIONS, CANDIDATES, PREFERENCES = "captions", "candidates", "candidates_preferences"
PAIR_SET = "pair set"
"""The generator of a picture that no generator of this run has drawn."""
SAME = "winner and loser are the same picture"


def captions_given(context: Context) -> dict[str, Caption]:
    """The pair set's prompts as captions to train on, by their units; none without a pair set.

    Raises:
        FormatError: it is no pair set.
    """
    source = context.recipe.pairs.source
    if source is None:
        return {}
    context.progress.say(f"{CAPTIONS}: reading the prompts of {source}")
    captions = [caption_of(text, category, "train") for text, category in captions_of_pairs(source).items()]
    units = {f"{digest(CAPTIONS, VERSIONS[CAPTIONS], 'given', c.category)}/{c.key}": c for c in captions}
    done = context.run.done(CAPTIONS, units)
    if missing := {unit: [caption] for unit, caption in units.items() if unit not in done}:
        context.run.commit(CAPTIONS, missing, Caption.schema)
    return units


def take_in(context: Context, source: Path) -> Mapping[str, Any]:
    """Let the candidates be the pictures of the pair set at `source`, one pair in memory after the other.

    Raises:
        FormatError: it is no pair set.
        BudgetError: more of its pairs have a broken picture than `failure_budget` allows.
    """
    captions = {c.text: c.key for c in context.run.read("captions", Caption) if c.split == "train"}
    with context.progress.stage(CANDIDATES, len(captions)) as task:
        intake = _Intake(context, captions, task)
        try:
            for found in recognise(source, PairSet).pairs(source):
                intake.add(found)
        finally:
            intake.commit()
    broken, total = intake.broken, len(intake.pairs) + intake.left_out.total()
    if broken.total() > context.recipe.failure_budget * total:
        raise over_budget(CANDIDATES, broken, total, context.recipe.failure_budget, "pairs")
    intake.select()
    counts = {"captions": len(captions), "candidates": len(intake.pictures), "pairs": len(intake.pairs)}
    return counts | {"left_out": dict(intake.left_out), SELECTED_BY: note_selectors(read_selectors(source))}


def preferred(context: Context) -> Iterator[tuple[str, Sifted]]:
    """The pair that each unit of the pair set is, and what was left out of it, in a unit that is no pair."""
    left_out = context.run.dropped(PREFERENCES)
    for key, rows in context.run.grouped(PREFERENCES):
        yield key, Sifted([Pair.of(row) for row in rows], {} if rows else left_out)


class _Intake:
    """Pictures and preferences on their way into the run; what is there already isn't written again."""

    def __init__(self, context: Context, captions: Mapping[str, str], task: Task) -> None:
        self._run, self._captions, self._task = context.run, captions, task
        self._candidates = Part(context.run, CANDIDATES, Candidate.schema)
        self._preferences = Part(context.run, PREFERENCES, Pair.schema)
        self._of_caption: Counter[str] = Counter()
        self.pictures: dict[str, None] = {}
        self.pairs: dict[str, None] = {}
        self.left_out: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()

    def add(self, found: Preference | NoPreference) -> None:
        if isinstance(found, NoPreference):
            self.left_out[found.reason] += 1
            return
        try:
            winner, loser = opened(found)
        except BrokenPicture as failure:
            self.left_out[str(failure)] += 1
            self.broken[str(failure)] += 1
            return
        if winner == loser:
            self.left_out[SAME] += 1
            return
        caption = self._captions.get(found.prompt)
        if caption is None:
            self.left_out["its prompt is no caption of this run: the pair set has changed meanwhile"] += 1
            return
        self._enter(caption, self._candidate(caption, winner), self._candidate(caption, loser))

    def _candidate(self, caption: str, image: bytes) -> str:
        """Enters a picture, if it is new; its key. The same picture in several pairs of a caption is one candidate."""
        key = digest("pair set's picture", caption, blake2b(image, digest_size=16).hexdigest())
        if key not in self.pictures:
            if not self._of_caption[caption]:
                self._task.advance(1)
            index = self._of_caption[caption]
            if not self._is_there(CANDIDATES, key):
                self._candidates.add(key, [Candidate(key, caption, index, None, PAIR_SET, image)])
            self._of_caption[caption] += 1
            self.pictures[key] = None
        return key

    def _enter(self, caption: str, winner: str, loser: str) -> None:
        key = digest("pair", winner, loser)
        if key not in self.pairs and not self._is_there(PREFERENCES, key):
            self._preferences.add(key, [Pair(key, caption, winner, loser, 1.0, 0.0, 1.0)])
        self.pairs[key] = None

    def _is_there(self, table: str, key: str) -> bool:
        return bool(self._run.done(table, [key]))

    def commit(self) -> None:
        self._candidates.commit()
        self._preferences.commit()

    def select(self) -> None:
        """Makes the tables. One unit of the pairs' counts what was left out, if anything was."""
        counts = digest("left out", dict(self.left_out))
        if self.left_out and not self._is_there(PREFERENCES, counts):
            self._preferences.add(counts, Sifted([], self.left_out))
            self._preferences.commit()
        self._run.select(CANDIDATES, self.pictures)
        self._run.select(PREFERENCES, [*self.pairs, *([counts] if self.left_out else [])])

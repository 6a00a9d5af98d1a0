"""The import of a pair set into a run: its prompts, its images and its preferences.

The captions stage takes its prompts, the candidates stage its images, and the pairs stage its preferences.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from sys import intern
from typing import Any

from agfsync.engine.jobs import Sifted
from agfsync.engine.processing import PartWriter, check_budget, report_skipped
from agfsync.engine.progress import ProgressTask
from agfsync.files.images import BrokenImageError
from agfsync.formats import LeftOut, LeftOutTally, NoPreference, PairItem, Preference
from agfsync.formats.pairing import SAME_IMAGE, Judgements, image_key, read_pair_images
from agfsync.formats.sources import read_pair_prompts, read_pairs, resolve_snapshot
from agfsync.formats.writing import read_selectors
from agfsync.records import Candidate, Caption, Pair, digest
from agfsync.stages import VERSIONS
from agfsync.stages.context import Context
from agfsync.stages.selection import SELECTED_BY, note_selectors
from agfsync.stages.written import make_caption
from agfsync.store.manifest import Skipped

_CAPTIONS, _CANDIDATES, PREFERENCES = "captions", "candidates", "candidates_preferences"
PAIR_SET = "pair set"
"""The generator of an image that no generator of this run has drawn."""
CHANGED = "its prompt is no caption of this run: the pair set has changed meanwhile"


def read_given_captions(context: Context) -> dict[str, Caption]:
    """Return the pair set's prompts as captions to train on, by their units; none without a pair set.

    Raises:
        FormatError: it is no pair set.
    """
    source = context.recipe.pairs.source
    if source is None:
        return {}
    context.progress.say(f"{_CAPTIONS}: reading the prompts of {source}")
    found = read_pair_prompts(source, context.recipe.pairs.split)
    captions = [make_caption(text, category, "train") for text, category in found.items()]
    units = {f"{digest(_CAPTIONS, VERSIONS[_CAPTIONS], 'given', c.category)}/{c.key}": c for c in captions}
    done = context.run.find_done(_CAPTIONS, units)
    if missing := {unit: [caption] for unit, caption in units.items() if unit not in done}:
        context.run.commit(_CAPTIONS, missing, Caption.schema)
    return units


def import_pair_set(context: Context, source: Path) -> Mapping[str, Any]:
    """Make the images of the pair set at `source` the candidates, with one pair in memory at a time.

    Raises:
        FormatError: it is no pair set.
        BudgetError: more of its pairs can't be used, or have a broken image, than `failure_budget` allows.
    """
    captions = {c.text: c.key for c in context.run.read("captions", Caption) if c.split == "train"}
    settings = context.recipe.pairs
    with context.progress.stage(_CANDIDATES, len(captions)) as task:
        intake = _Intake(context, captions, task)
        try:
            for found in read_pairs(source, settings.split):
                intake.add(found)
            intake.add_pairs()
        finally:
            intake.commit_parts()
    tally = intake.tally
    skip_left_out(context, _CANDIDATES, source, tally, intake.meant, "pairs")
    intake.select_tables()
    counts = {"captions": len(captions), "candidates": len(intake.images), "pairs": len(intake.pairs)}
    counts["judgements"] = len(intake.judged)
    left_out = {"left_out": dict(tally.counts), "left_out_at": dict(tally.places)}
    return counts | left_out | {SELECTED_BY: note_selectors(read_selectors(resolve_snapshot(source)))}


def skip_left_out(context: Context, stage: str, source: Path, tally: LeftOutTally, total: int, unit: str) -> None:
    """Report the unused entries of the file or folder `source`; enter the unusable ones of its `total` as skipped.

    Raises:
        BudgetError: that is more than `failure_budget` allows.
    """
    for line in tally.lines(failed=False):
        context.progress.say(f"{stage}: {source}: left out: {line}")
    skipped: list[Skipped] = []
    for reason, count in tally.failed.items():
        places = tally.places.get(reason) or [""]
        where = f"{source}: {places[0]}" if places[0] else str(source)
        skipped.append(Skipped(stage, digest("left out", reason), reason, where, count))
        context.run.skip(stage, skipped[-1].key, reason, where, count)
    check_budget(stage, skipped, total, context.recipe.failure_budget, unit)
    report_skipped(context.progress, stage, skipped, total, unit)


def read_preferences(context: Context) -> Iterator[tuple[str, Sifted]]:
    """Yield each unit of the pair set with its pair; the left-out entries are counted in a unit without a pair."""
    left_out = context.run.count_dropped(PREFERENCES)
    for key, rows in context.run.rows_by_unit(PREFERENCES):
        yield key, Sifted([Pair.of(row) for row in rows], {} if rows else left_out)


class _Intake:
    """The import of images and preferences into the run; those that are there already aren't written again."""

    def __init__(self, context: Context, captions: Mapping[str, str], task: ProgressTask) -> None:
        self._run, self._captions, self._task = context.run, captions, task
        self._candidates = PartWriter(context.run, _CANDIDATES, Candidate.schema)
        self._preferences = PartWriter(context.run, PREFERENCES, Pair.schema)
        self._of_caption: Counter[str] = Counter()
        self.judged: Judgements[str] = Judgements(context.recipe.pairs.repeats)
        self.images: dict[str, str] = {}
        """key -> its caption's key"""
        self.pairs: dict[str, None] = {}
        self.tally = LeftOutTally()
        self.meant = 0
        """how many pairs there would be if all could be used"""

    def add(self, found: PairItem) -> None:
        """Add one judgement's images, or count why it makes no pair."""
        if isinstance(found, LeftOut):
            self.meant += found.count if found.failed else 0
            self.tally.add(found)
            return
        self.meant += 1
        if (left := self._try_to_add(found)) is not None:
            self.tally.add(left)

    def _try_to_add(self, found: Preference | NoPreference) -> LeftOut | None:
        if isinstance(found, NoPreference):
            return LeftOut(found.reason, found.where, failed=False)
        try:
            winner, loser = read_pair_images(found)
        except BrokenImageError as failure:
            return LeftOut(str(failure), found.where)
        if winner == loser:
            return LeftOut(SAME_IMAGE, found.where, failed=False)
        caption = self._captions.get(found.prompt)
        if caption is None:
            return LeftOut(CHANGED, found.where, failed=False)
        self.judged.add(self._add_candidate(caption, winner), self._add_candidate(caption, loser))
        return None

    def _add_candidate(self, caption: str, image: bytes) -> str:
        """Enter an image, if it is new, and return its key. The same one in several pairs is one candidate."""
        key = intern(image_key(caption, image))
        if key not in self.images:
            if not self._of_caption[caption]:
                self._task.advance(1)
            index = self._of_caption[caption]
            if not self._is_there(_CANDIDATES, key):
                self._candidates.add(key, [Candidate(key, caption, index, None, PAIR_SET, image)])
            self._of_caption[caption] += 1
            self.images[key] = caption
        return key

    def add_pairs(self) -> None:
        """Enter the pairs, once all judgements are known."""
        for winner, loser, number in self.judged.pairs():
            key = digest("pair", winner, loser, *([number] if number else []))
            if not self._is_there(PREFERENCES, key):
                self._preferences.add(key, [Pair(key, self.images[winner], winner, loser, 1.0, 0.0, 1.0)])
            self.pairs[key] = None
        for reason, count in self.judged.left_out().items():
            self.tally.add(LeftOut(reason, count=count, failed=False))

    def _is_there(self, table: str, key: str) -> bool:
        return bool(self._run.find_done(table, [key]))

    def commit_parts(self) -> None:
        self._candidates.commit()
        self._preferences.commit()

    def select_tables(self) -> None:
        """Select the tables. One unit of the preferences counts the left-out entries that aren't skipped, if any."""
        left_out = self.tally.counts - self.tally.failed
        counts = digest("left out", dict(left_out))
        if left_out and not self._is_there(PREFERENCES, counts):
            self._preferences.add(counts, Sifted([], left_out))
            self._preferences.commit()
        self._run.select(_CANDIDATES, self.images)
        self._run.select(PREFERENCES, [*self.pairs, *([counts] if left_out else [])])

"""The import of a pair set into a run: its prompts, its images and its preferences.

The stage captions imports its prompts, the stage candidates its images, and the stage pairs its preferences.
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
"""The `generator` of images that come from a pair set."""
CHANGED = "its prompt is no caption of this run: the pair set has changed meanwhile"
"""a reason that enters a digest: other words would make a finished import out of date"""


def read_given_captions(context: Context) -> dict[str, Caption]:
    """Return the pair set's prompts as captions to train on, by unit; none without a pair set.

    Raises:
        FormatError: the source isn't a pair set.
    """
    source = context.recipe.pairs.source
    if source is None:
        return {}
    context.progress.say(f"{_CAPTIONS}: reading the prompts of {source}")
    prompts = read_pair_prompts(source, context.recipe.pairs.split)
    captions = [make_caption(text, category, "train") for text, category in prompts.items()]
    units = {f"{digest(_CAPTIONS, VERSIONS[_CAPTIONS], 'given', c.category)}/{c.key}": c for c in captions}
    done = context.run.find_done(_CAPTIONS, units)
    if missing := {unit: [caption] for unit, caption in units.items() if unit not in done}:
        context.run.commit(_CAPTIONS, missing, Caption.schema)
    return units


def import_pair_set(context: Context, source: Path) -> Mapping[str, Any]:
    """Make the images of the pair set at `source` the candidates, with one pair in memory at a time.

    Raises:
        FormatError: `source` isn't a pair set.
        BudgetError: more of its pairs are unusable or have a broken image than `failure_budget` allows.
    """
    captions = {c.text: c.key for c in context.run.read("captions", Caption) if c.split == "train"}
    settings = context.recipe.pairs
    with context.progress.stage(_CANDIDATES, len(captions)) as task:
        importer = _PairImporter(context, captions, task)
        try:
            for item in read_pairs(source, settings.split):
                importer.add(item)
            importer.add_pairs()
        finally:
            importer.commit_parts()
    tally = importer.tally
    skip_left_out(context, _CANDIDATES, source, tally, importer.expected_pairs, "pairs")
    importer.select_tables()
    counts = {"captions": len(captions), "candidates": len(importer.images), "pairs": len(importer.pairs)}
    counts["judgements"] = len(importer.judged)
    left_out = {"left_out": dict(tally.counts), "left_out_at": dict(tally.places)}
    return counts | left_out | {SELECTED_BY: note_selectors(read_selectors(resolve_snapshot(source)))}


def skip_left_out(context: Context, stage: str, source: Path, tally: LeftOutTally, total: int, unit: str) -> None:
    """Report the unused entries of the file or folder `source`; record the unusable ones of its `total` as skipped.

    Raises:
        BudgetError: more are unusable than `failure_budget` allows.
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
    """Yield each unit of the pair set with its pair; a unit without a pair holds the counts of left-out entries."""
    left_out = context.run.count_dropped(PREFERENCES)
    for key, rows in context.run.rows_by_unit(PREFERENCES):
        yield key, Sifted([Pair.of(row) for row in rows], {} if rows else left_out)


class _PairImporter:
    """Imports images and preferences into the run; existing ones aren't written again."""

    def __init__(self, context: Context, captions: Mapping[str, str], task: ProgressTask) -> None:
        self._run, self._captions, self._task = context.run, captions, task
        self._candidates = PartWriter(context.run, _CANDIDATES, Candidate.schema)
        self._preferences = PartWriter(context.run, PREFERENCES, Pair.schema)
        self._of_caption: Counter[str] = Counter()
        self.judged: Judgements[str] = Judgements(context.recipe.pairs.repeats)
        self.images: dict[str, str] = {}
        """image key -> caption key"""
        self.pairs: dict[str, None] = {}
        self.tally = LeftOutTally()
        self.expected_pairs = 0
        """the number of pairs if all entries were usable"""

    def add(self, item: PairItem) -> None:
        """Add one judgement's images, or count the reason why it gives no pair."""
        if isinstance(item, LeftOut):
            self.expected_pairs += item.count if item.failed else 0
            self.tally.add(item)
            return
        self.expected_pairs += 1
        if (left_out := self._try_to_add(item)) is not None:
            self.tally.add(left_out)

    def _try_to_add(self, item: Preference | NoPreference) -> LeftOut | None:
        if isinstance(item, NoPreference):
            return LeftOut(item.reason, item.where, failed=False)
        try:
            winner, loser = read_pair_images(item)
        except BrokenImageError as failure:
            return LeftOut(str(failure), item.where)
        if winner == loser:
            return LeftOut(SAME_IMAGE, item.where, failed=False)
        caption = self._captions.get(item.prompt)
        if caption is None:
            return LeftOut(CHANGED, item.where, failed=False)
        self.judged.add(self._add_candidate(caption, winner), self._add_candidate(caption, loser))
        return None

    def _add_candidate(self, caption: str, image: bytes) -> str:
        """Add an image if it is new, and return its key. An image of several pairs is one candidate."""
        key = intern(image_key(caption, image))
        if key not in self.images:
            if not self._of_caption[caption]:
                self._task.advance(1)
            index = self._of_caption[caption]
            if not self._exists(_CANDIDATES, key):
                self._candidates.add(key, [Candidate(key, caption, index, None, PAIR_SET, image)])
            self._of_caption[caption] += 1
            self.images[key] = caption
        return key

    def add_pairs(self) -> None:
        """Add the pairs, once all judgements are known."""
        for winner, loser, number in self.judged.pairs():
            key = digest("pair", winner, loser, *([number] if number else []))
            if not self._exists(PREFERENCES, key):
                self._preferences.add(key, [Pair(key, self.images[winner], winner, loser, 1.0, 0.0, 1.0)])
            self.pairs[key] = None
        for reason, count in self.judged.left_out().items():
            self.tally.add(LeftOut(reason, count=count, failed=False))

    def _exists(self, table: str, key: str) -> bool:
        return bool(self._run.find_done(table, [key]))

    def commit_parts(self) -> None:
        self._candidates.commit()
        self._preferences.commit()

    def select_tables(self) -> None:
        """Select the tables; an extra unit of the preferences counts the left-out entries that aren't skipped."""
        left_out = self.tally.counts - self.tally.failed
        counts_unit = digest("left out", dict(left_out))
        if left_out and not self._exists(PREFERENCES, counts_unit):
            self._preferences.add(counts_unit, Sifted([], left_out))
            self._preferences.commit()
        self._run.select(_CANDIDATES, self.images)
        self._run.select(PREFERENCES, [*self.pairs, *([counts_unit] if left_out else [])])

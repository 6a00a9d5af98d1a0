"""Stage 1: a writer's captions, spread evenly over its categories, no two the same; some held out for the evaluation.

A caption is a unit of its own, so that more or fewer of them can be asked for later and those that are there stay.
Whether it is held out is drawn when it is written, among the places that its category has left.
"""

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agfsync import catalog
from agfsync.config import Captions
from agfsync.errors import BudgetError
from agfsync.language import CaptionWriter
from agfsync.language.text import normalised
from agfsync.progress import Task
from agfsync.records import Caption, Split, digest, seed_of
from agfsync.stages import VERSIONS, Context

STAGE = "captions"
ASK = 100
"""captions asked for at a time: what a kill can cost"""
DRY = 3
"""requests in a row that bring nothing new, after which a writer has run dry"""

Places = dict[Split, int]


@dataclass(slots=True)
class Written:
    """The captions of one writer and seed in the run folder: `units` by category, in the order of writing."""

    source: str
    seen: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    units: dict[str, list[tuple[str, Split]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, unit: str, caption: Caption) -> None:
        self.seen.add(normalised(caption.text))
        self.texts.append(caption.text)
        self.units[caption.category].append((unit, caption.split))

    def count(self, category: str, split: Split) -> int:
        return sum(each == split for _, each in self.units[category])


def run(context: Context) -> Mapping[str, Any]:
    """Write what is missing of `captions.count` and `captions.held_out` captions.

    Raises:
        BudgetError: the writer brings nothing new in a category any more.
    """
    settings, seed = context.recipe.captions, context.recipe.seed
    writer: CaptionWriter = catalog.find("captions", settings.writer)()
    wanted = shares(writer.categories, settings)
    written = _written(context, digest(STAGE, VERSIONS[STAGE], writer.identity, seed))
    total = settings.count + settings.held_out
    have = sum(
        min(places[split], written.count(category, split)) for category, places in wanted.items() for split in places
    )
    with context.progress.stage(STAGE, total, done=have) as task:
        for category, places in wanted.items():
            _fill(context, writer, written, category, places, task)
    context.run.select(STAGE, _chosen(written, wanted))
    return _notes(context, wanted)


def shares(categories: Sequence[str], settings: Captions) -> dict[str, Places]:
    """How many captions of each split each category gets: evenly, the first ones taking what is left over."""
    each: dict[str, Places] = {}
    for index, category in enumerate(categories):
        train, held_out = (
            count // len(categories) + (index < count % len(categories))
            for count in (settings.count, settings.held_out)
        )
        each[category] = {"train": train, "held-out": held_out}
    return each


def _written(context: Context, source: str) -> Written:
    """What this writer has written already, in the order of writing."""
    written = Written(source)
    mine = [unit for unit in context.run.made(STAGE) if unit.startswith(f"{source}/")]
    for unit, caption in zip(mine, context.run.read(STAGE, Caption, mine), strict=True):
        written.add(unit, caption)
    return written


def _fill(context: Context, writer: CaptionWriter, written: Written, category: str, places: Places, task: Task) -> None:
    fruitless = 0
    while free := _free(written, category, places):
        # The seed follows from what is there, so that a run that was killed asks for the very same as one that wasn't.
        seed = seed_of(context.recipe.seed, STAGE, category, len(written.units[category]), fruitless)
        asked = min(ASK, len(free))
        begun = time.monotonic()
        texts = writer.captions(category, asked, written.texts, seed)
        new, repeated = _new(texts, written.seen)
        random.Random(seed).shuffle(free)
        captions = [Caption(_key(t), t, category, split) for t, split in zip(new[:asked], free, strict=False)]
        _commit(context, written, captions, repeated, time.monotonic() - begun)
        task.advance(len(captions))
        fruitless = 0 if captions else fruitless + 1
        if fruitless == DRY:
            raise _dry(context.recipe.captions, category, written, places)


def _free(written: Written, category: str, places: Places) -> list[Split]:
    """The places of `category` that no caption has taken yet."""
    return [split for split, count in places.items() for _ in range(count - written.count(category, split))]


def _new(texts: Sequence[str], seen: set[str]) -> tuple[list[str], int]:
    """Those of `texts` that are neither empty nor in `seen`, each once, and how many others there were."""
    new: dict[str, str] = {}
    for text in texts:
        plain = normalised(text)
        if plain and plain not in seen:
            new.setdefault(plain, " ".join(text.split()))
    return list(new.values()), len(texts) - len(new)


def _key(text: str) -> str:
    return digest("caption", text)


def _commit(context: Context, written: Written, captions: Sequence[Caption], repeated: int, seconds: float) -> None:
    """One request is one part. What it repeated is counted with its first caption."""
    units = {f"{written.source}/{caption.key}": [caption] for caption in captions}
    if units:
        dropped = {next(iter(units)): {"repeated": repeated}} if repeated else {}
        context.run.commit(STAGE, units, Caption.schema, dropped=dropped, seconds=seconds)
    for unit, (caption,) in units.items():
        written.add(unit, caption)


def _chosen(written: Written, wanted: Mapping[str, Places]) -> list[str]:
    """The units of the finished table: of each category as many as wanted, the first that were written."""
    chosen: list[str] = []
    for category, places in wanted.items():
        left = dict(places)
        for unit, split in written.units[category]:
            if left[split] > 0:
                left[split] -= 1
                chosen.append(unit)
    return chosen


def _dry(settings: Captions, category: str, written: Written, places: Places) -> BudgetError:
    return BudgetError(
        f"captions: writer '{settings.writer}' ran dry at {len(written.units[category])} of the {sum(places.values())}"
        f" captions of '{category}': ask for fewer (captions.count, captions.held_out) or take another writer"
    )


def _notes(context: Context, wanted: Mapping[str, Places]) -> dict[str, Any]:
    return {
        "train": sum(places["train"] for places in wanted.values()),
        "held_out": sum(places["held-out"] for places in wanted.values()),
        "categories": {category: sum(places.values()) for category, places in wanted.items()},
        "dropped": dict(context.run.dropped(STAGE)),
    }

"""Stage 1: a writer's captions, spread evenly over its categories, no two the same; some held out for the evaluation.

A caption is a unit of its own, so that more or fewer of them can be asked for later and those that are there stay.
Whether it is held out is drawn when it is written, among the places that its category has left.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from agfsync.config import Captions
from agfsync.errors import BudgetError
from agfsync.language import CaptionWriter, NoReplyError
from agfsync.language.duplicates import Neighbours
from agfsync.language.text import normalised
from agfsync.progress import Task
from agfsync.records import Caption, Split, digest, seed_of
from agfsync.stages import VERSIONS, Context
from agfsync.stages.writing import Desk, at_work

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
    similarity: float
    seen: set[str] = field(default_factory=set)
    near: dict[str, Neighbours] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    units: dict[str, list[tuple[str, Split]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, unit: str, caption: Caption) -> None:
        self.seen.add(normalised(caption.text))
        self.texts.append(caption.text)
        self.units[caption.category].append((unit, caption.split))
        self.neighbours(caption.category).add(caption.text)

    def neighbours(self, category: str) -> Neighbours:
        """The captions of `category`, by which those that are nearly one of them are known."""
        return self.near.setdefault(category, Neighbours(self.similarity))

    def count(self, category: str, split: Split) -> int:
        return sum(each == split for _, each in self.units[category])


def run(context: Context) -> Mapping[str, Any]:
    """Write what is missing of `captions.count` and `captions.held_out` captions.

    Raises:
        BudgetError: the writer brings nothing new in a category any more.
    """
    settings = context.recipe.captions
    with at_work(context, STAGE, settings) as desk:
        writer: CaptionWriter = desk.writer
        wanted = shares(writer.categories, settings)
        written = _written(context, _source(context, writer))
        total = settings.count + settings.held_out
        have = sum(min(n, written.count(category, split)) for category, p in wanted.items() for split, n in p.items())
        with context.progress.stage(STAGE, total, done=have) as task:
            for category, places in wanted.items():
                _fill(context, desk, written, category, places, task)
    context.run.select(STAGE, _chosen(written, wanted))
    return {**_notes(context, wanted), **desk.cost()}


def _source(context: Context, writer: CaptionWriter) -> str:
    """What names the captions that `writer` writes here."""
    similarity = context.recipe.captions.similarity
    # Units of before there was a similarity keep their names.
    alike = [similarity] if similarity < 1 else []
    return digest(STAGE, VERSIONS[STAGE], writer.identity, context.recipe.seed, *alike)


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
    written = Written(source, context.recipe.captions.similarity)
    mine = [unit for unit in context.run.made(STAGE) if unit.startswith(f"{source}/")]
    for unit, caption in zip(mine, context.run.read(STAGE, Caption, mine), strict=True):
        written.add(unit, caption)
    return written


def _fill(context: Context, desk: Desk, written: Written, category: str, places: Places, task: Task) -> None:
    fruitless = 0
    while free := _free(written, category, places):
        # The seed follows from what is there, so that a run that was killed asks for the very same as one that wasn't.
        seed = seed_of(context.recipe.seed, STAGE, category, len(written.units[category]), fruitless)
        begun = time.monotonic()
        texts, trouble = _ask(desk, category, min(ASK, len(free)), written.texts, seed)
        new, dropped = _new(texts, written, category, len(free))
        random.Random(seed).shuffle(free)
        captions = [Caption(_key(t), t, category, split) for t, split in zip(new, free, strict=False)]
        _commit(context, written, captions, dropped, time.monotonic() - begun)
        task.advance(len(captions))
        fruitless = 0 if captions else fruitless + 1
        if fruitless == DRY:
            raise _dry(context.recipe.captions, category, written, places, trouble)


def _ask(desk: Desk, category: str, count: int, avoid: Sequence[str], seed: int) -> tuple[Sequence[str], str]:
    """What the writer writes, and why that is nothing where its language model gave no reply."""
    try:
        return desk.writer.captions(category, count, avoid, seed), ""
    except NoReplyError as failure:
        return [], str(failure)
    finally:
        desk.note()


def _free(written: Written, category: str, places: Places) -> list[Split]:
    """The places of `category` that no caption has taken yet."""
    return [split for split, count in places.items() for _ in range(count - written.count(category, split))]


def _new(texts: Sequence[str], written: Written, category: str, most: int) -> tuple[list[str], Counter[str]]:
    """The first `most` of `texts` that are new, and why others aren't, counted."""
    new: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    near = Neighbours(written.similarity)
    for text in texts:
        plain = normalised(text)
        if not plain or plain in written.seen or plain in new:
            dropped["repeated"] += 1
        elif near.near(text) or written.neighbours(category).near(text):
            dropped["nearly repeated"] += 1
        elif len(new) < most:
            new[plain] = " ".join(text.split())
            near.add(text)
    return list(new.values()), dropped


def _key(text: str) -> str:
    return digest("caption", text)


def _commit(
    context: Context, written: Written, captions: Sequence[Caption], left_out: Counter[str], seconds: float
) -> None:
    """One request is one part. What it brought in vain is counted with its first caption."""
    units = {f"{written.source}/{caption.key}": [caption] for caption in captions}
    if units:
        dropped = {next(iter(units)): left_out} if left_out else {}
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


def _dry(settings: Captions, category: str, written: Written, places: Places, trouble: str) -> BudgetError:
    reached = f"{len(written.units[category])} of the {sum(places.values())} captions of '{category}'"
    if trouble:
        return BudgetError(f"captions: writer '{settings.writer}' is stuck at {reached}: {trouble}")
    return BudgetError(
        f"captions: writer '{settings.writer}' ran dry at {reached}: ask for fewer (captions.count, captions.held_out)"
        f" or take another writer"
    )


def _notes(context: Context, wanted: Mapping[str, Places]) -> dict[str, Any]:
    lengths = [len(row["text"].split()) for row in context.run.rows(STAGE, ["text"])]
    return {
        "train": sum(places["train"] for places in wanted.values()),
        "held_out": sum(places["held-out"] for places in wanted.values()),
        "categories": {category: sum(places.values()) for category, places in wanted.items()},
        "words": {"least": min(lengths), "median": median(lengths), "most": max(lengths)},
        "dropped": dict(context.run.dropped(STAGE)),
    }

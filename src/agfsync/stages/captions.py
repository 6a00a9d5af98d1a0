"""Stage 1: a writer's captions, spread evenly over its categories, no two the same; some held out for the evaluation.

The writer may be a file of prompts. Where the pairs come from a pair set, its prompts are the captions to train on, and
the writer's are held out, all of them.

A caption is a unit of its own, so that more or fewer of them can be asked for later and those that are there stay.
Whether it is held out is drawn when it is written, among the places that its category has left.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agfsync import catalog
from agfsync.config import Captions
from agfsync.errors import BudgetError
from agfsync.language import CaptionWriter
from agfsync.language.text import normalised
from agfsync.progress import Task
from agfsync.records import Caption, Split, digest, seed_of
from agfsync.sources import Prompts, captions_of_pairs
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
    given = _given(context)
    taken = {normalised(caption.text) for caption in given.values()}
    writer, rooms = _writer(settings, taken)
    if context.recipe.pairs.source:
        settings = settings.model_copy(update={"count": 0})
    wanted = shares(writer.categories, settings, rooms)
    written = _written(context, digest(STAGE, VERSIONS[STAGE], writer.identity, seed), taken)
    total = settings.count + settings.held_out
    have = sum(
        min(places[split], written.count(category, split)) for category, places in wanted.items() for split in places
    )
    with context.progress.stage(STAGE, total, done=have) as task:
        for category, places in wanted.items():
            _fill(context, writer, written, category, places, task)
    context.run.select(STAGE, [*given, *_chosen(written, wanted)])
    return _notes(context, wanted, given.values())


def shares(categories: Sequence[str], settings: Captions, rooms: Mapping[str, int] | None = None) -> dict[str, Places]:
    """How many captions of each split each category gets: evenly, the first ones taking what is left over.

    `rooms` says how many a category has, if there is an end to them; the others then take what it can't.

    Raises:
        BudgetError: there are fewer in all than the settings ask for.
    """
    free = dict(rooms) if rooms is not None else dict.fromkeys(categories, settings.count + settings.held_out)
    asked = settings.count + settings.held_out
    if sum(free.values()) < asked and rooms is not None:
        raise BudgetError(
            f"captions: {settings.source} has {sum(free.values())} captions to write, captions.count and"
            f" captions.held_out ask for {asked}: ask for fewer"
        )
    held_out = _spread(settings.held_out, free)
    train = _spread(settings.count, {category: room - held_out[category] for category, room in free.items()})
    return {category: {"train": train[category], "held-out": held_out[category]} for category in categories}


def _spread(count: int, rooms: Mapping[str, int]) -> dict[str, int]:
    """`count` spread evenly over `rooms`, which must hold as many, none of them beyond what it holds."""
    given = dict.fromkeys(rooms, 0)
    while left := count - sum(given.values()):
        open_ = [name for name, room in rooms.items() if given[name] < room]
        each, over = divmod(left, len(open_))
        for place, name in enumerate(open_):
            given[name] += min(rooms[name] - given[name], each + (place < over))
    return given


def _given(context: Context) -> dict[str, Caption]:
    """The pair set's prompts as captions to train on, by their units; none without a pair set."""
    source = context.recipe.pairs.source
    if source is None:
        return {}
    context.progress.say(f"{STAGE}: reading the prompts of {source}")
    captions = [Caption(_key(text), text, category, "train") for text, category in captions_of_pairs(source).items()]
    units = {f"{digest(STAGE, VERSIONS[STAGE], 'given', c.category)}/{c.key}": c for c in captions}
    done = context.run.done(STAGE)
    if missing := {unit: [caption] for unit, caption in units.items() if unit not in done}:
        context.run.commit(STAGE, missing, Caption.schema)
    return units


def _writer(settings: Captions, taken: Collection[str]) -> tuple[CaptionWriter, dict[str, int] | None]:
    """The writer, and how many captions each of its categories has where it is a file."""
    if settings.source is None:
        writer: CaptionWriter = catalog.find("captions", settings.writer)()
        return writer, None
    prompts = Prompts(settings.source, taken)
    return prompts, prompts.rooms


def _written(context: Context, source: str, taken: Collection[str]) -> Written:
    """What this writer has written already, in the order of writing, without the captions that are `taken`."""
    written = Written(source, set(taken))
    mine = [unit for unit in context.run.made(STAGE) if unit.startswith(f"{source}/")]
    for unit, caption in zip(mine, context.run.read(STAGE, Caption, mine), strict=True):
        if normalised(caption.text) not in taken:
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


def _notes(context: Context, wanted: Mapping[str, Places], given: Collection[Caption]) -> dict[str, Any]:
    categories = Counter({category: sum(places.values()) for category, places in wanted.items()})
    categories.update(caption.category for caption in given)
    return {
        "train": sum(places["train"] for places in wanted.values()) + len(given),
        "held_out": sum(places["held-out"] for places in wanted.values()),
        "categories": dict(categories),
        "dropped": dict(context.run.dropped(STAGE)),
    }

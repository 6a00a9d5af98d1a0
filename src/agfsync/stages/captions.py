"""Stage 1: a writer's captions, spread evenly over its categories, no two the same; some held out for the evaluation.

A file of prompts may replace the writer, and a polisher may rewrite what either gives. If the pairs come from a pair
set, its prompts are the captions to train on, and all of the writer's are held out.

A caption is a unit of its own, so that more or fewer of them can be asked for later and those that are there stay.
Its split is drawn when it is written, among the free places of its category.
"""

import random
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from agfsync.engine.progress import ProgressTask
from agfsync.errors import BudgetError, NoReplyError
from agfsync.formats.sources import SourceCaptions
from agfsync.language import CaptionWriter
from agfsync.language.text import count_words, normalise_text
from agfsync.recipe import Recipe
from agfsync.records import Caption, derive_seed, digest
from agfsync.stages import VERSIONS
from agfsync.stages.checking import sift_captions
from agfsync.stages.context import Context
from agfsync.stages.places import Places, share_by_category
from agfsync.stages.polishing import polish_captions
from agfsync.stages.preferences import read_given_captions, skip_left_out
from agfsync.stages.writing import WriterSession, open_writer
from agfsync.stages.written import WrittenCaptions, make_caption, name_written_table

_STAGE = "captions"
POLISHED = "polish"
"""The note of the polishing."""
ASK = 100
"""captions asked for at a time: what a kill can cost"""
DRY = 3
"""requests in a row that bring nothing new, after which a writer has run dry"""


def run(context: Context) -> Mapping[str, Any]:
    """Write the missing ones of `captions.count` and `captions.held_out` captions.

    Raises:
        BudgetError: the writer brings nothing new in a category any more, or its file has fewer, or more rows that
            can't be used than `failure_budget` allows.
        FormatError: a file isn't what it should be.
    """
    settings = context.recipe.captions
    given = read_given_captions(context)
    taken = {normalise_text(each.text) for each in given.values()}
    prompts = _read_prompts(context, taken) if settings.source else None
    with open_writer(context, _STAGE, settings, instead=prompts) as session:
        asked = _count_asked(context.recipe)
        rooms = _count_rooms(session.writer, prompts, asked)
        wanted = share_by_category(asked, rooms)
        skipped = share_by_category({**asked, "train": settings.skip}, rooms)
        written = _read_written(context, session.writer, taken)
        with context.progress.stage(_STAGE, sum(asked.values()), done=written.count_present(wanted)) as task:
            for category, places in wanted.items():
                _fill_category(context, session, written, category, places, task)
    left_out = {"left_out": dict(prompts.left_out.counts)} if prompts else {}
    polish = _select_captions(context, written.select_units(wanted, skipped), given)
    return {**_collect_notes(context), **left_out, **session.account.to_notes(), **polish}


def _select_captions(context: Context, units: Sequence[str], given: Mapping[str, Caption]) -> Mapping[str, Any]:
    """Select the stage's table, polished if the recipe says so; return the note of that."""
    if context.recipe.captions.polish is None:
        context.run.select(_STAGE, [*given, *units])
        return {}
    table = name_written_table(context.recipe.captions)
    context.run.select(table, units)
    return {POLISHED: polish_captions(context, list(context.run.read(table, Caption)), given)}


def _read_prompts(context: Context, taken: Collection[str]) -> SourceCaptions:
    """Read the file of prompts, and report its unused rows."""
    settings = context.recipe.captions
    prompts = SourceCaptions(str(settings.source), taken, settings.split)
    skip_left_out(context, name_written_table(settings), prompts.path, prompts.left_out, prompts.rows, "rows")
    return prompts


def _count_asked(recipe: Recipe) -> Places:
    """Return the numbers of captions to write, the skipped ones included; none to train on for a pair set's pairs."""
    settings = recipe.captions
    return {"train": 0 if recipe.pairs.source else settings.skip + settings.count, "held-out": settings.held_out}


def _count_rooms(writer: CaptionWriter, prompts: SourceCaptions | None, asked: Places) -> Mapping[str, int]:
    """Return how many captions each category has; a writer counts as having enough until it runs dry.

    Raises:
        BudgetError: a file has fewer in all than are asked for.
    """
    total = sum(asked.values())
    if prompts is None:
        return dict.fromkeys(writer.categories, total)
    if (there := sum(prompts.rooms.values())) < total:
        raise BudgetError(
            f"captions: {prompts.path} has {there} captions to write, captions.count and captions.held_out ask for"
            f" {total}: ask for fewer"
        )
    return prompts.rooms


def _read_written(context: Context, writer: CaptionWriter, taken: Collection[str]) -> WrittenCaptions:
    """Return this writer's earlier captions in the order of writing, without those that are `taken`."""
    settings = context.recipe.captions
    # Captions of a file are all wanted, however alike they are.
    similarity = 1.0 if settings.source else settings.similarity
    shaping = [similarity] if settings.words is None or settings.source else [similarity, settings.words]
    source = digest(_STAGE, VERSIONS[_STAGE], writer.identity, context.recipe.seed, *shaping)
    written = WrittenCaptions(source, similarity, set(taken))
    table = name_written_table(settings)
    mine = [unit for unit in context.run.list_made(table) if unit.startswith(f"{source}/")]
    for unit, each in zip(mine, context.run.read(table, Caption, mine), strict=True):
        if normalise_text(each.text) not in taken:
            written.add(unit, each)
    return written


def _fill_category(
    context: Context,
    session: WriterSession,
    written: WrittenCaptions,
    category: str,
    places: Places,
    task: ProgressTask,
) -> None:
    fruitless, vain = 0, Counter[str]()
    while free := written.list_free(category, places):
        # The seed follows from what is there, so that a run that was killed asks for the very same as one that wasn't.
        seed = derive_seed(context.recipe.seed, _STAGE, category, len(written.units[category]), fruitless)
        begun = time.monotonic()
        texts, trouble = _ask_writer(session, category, min(ASK, len(free)), written.texts[category], seed)
        settings = context.recipe.captions
        texts, faulty = (texts, Counter[str]()) if settings.source else sift_captions(texts, settings.words)
        new, dropped = written.pick_new(texts, category, len(free))
        vain += faulty + dropped
        random.Random(seed).shuffle(free)
        captions = [make_caption(text, category, split) for text, split in zip(new, free, strict=False)]
        _commit_captions(context, written, captions, vain, time.monotonic() - begun)
        task.advance(len(captions))
        fruitless, vain = (0, Counter()) if captions else (fruitless + 1, vain)
        if fruitless == DRY:
            trouble = trouble or "; ".join(session.account.meter.spoilers)
            raise _explain_dry_writer(context.recipe.captions.writer.type, category, written, places, trouble, vain)


def _ask_writer(
    session: WriterSession, category: str, count: int, avoid: Sequence[str], seed: int
) -> tuple[Sequence[str], str]:
    """Return the writer's texts, and the reason if its language model gave no reply."""
    try:
        return session.writer.captions(category, count, avoid, seed), ""
    except NoReplyError as failure:
        return [], str(failure)
    finally:
        session.account.note()


def _commit_captions(
    context: Context, written: WrittenCaptions, captions: Sequence[Caption], left_out: Counter[str], seconds: float
) -> None:
    """Commit the captions of one request as one part; dropped texts are counted with its first caption."""
    units = {f"{written.source}/{each.key}": [each] for each in captions}
    if units:
        dropped = {next(iter(units)): left_out} if left_out else {}
        table = name_written_table(context.recipe.captions)
        context.run.commit(table, units, Caption.schema, dropped=dropped, seconds=seconds)
    for unit, (each,) in units.items():
        written.add(unit, each)


def _explain_dry_writer(
    writer: str, category: str, written: WrittenCaptions, places: Places, trouble: str, vain: Counter[str]
) -> BudgetError:
    reached = f"{len(written.units[category])} of the {sum(places.values())} captions of '{category}'"
    reasons = ", ".join(f"{reason} {count}" for reason, count in vain.most_common())
    left_out = f"; left out: {reasons}" if reasons else ""
    if trouble:
        return BudgetError(f"captions: writer '{writer}' is stuck at {reached}: {trouble}{left_out}")
    return BudgetError(
        f"captions: writer '{writer}' ran dry at {reached}: ask for fewer (captions.count, captions.held_out) or take"
        f" another writer{left_out}"
    )


def _collect_notes(context: Context) -> dict[str, Any]:
    """Return the counts of captions, of their lengths in words and of dropped texts."""
    rows = list(context.run.rows(_STAGE, ["text", "category", "split"]))
    splits = Counter(row["split"] for row in rows)
    # A pair set without preferences leaves no caption.
    lengths = [count_words(row["text"]) for row in rows] or [0]
    return {
        "train": splits["train"],
        "held_out": splits["held-out"],
        "categories": dict(Counter(row["category"] for row in rows)),
        "words": {"least": min(lengths), "median": median(lengths), "most": max(lengths)},
        "dropped": dict(context.run.count_dropped(name_written_table(context.recipe.captions))),
    }

"""Stage 1: a writer's distinct captions, spread evenly over its categories; some are held out for the evaluation.

A file of prompts may replace the writer, and a polisher may rewrite the captions of either. If the pairs come from a
pair set, its prompts are the captions to train on, and all of the writer's are held out.

Each caption is a unit, so that a later change of their number keeps the existing ones. Its split is drawn when it is
written, among those that its category still lacks.
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
from agfsync.stages.places import SplitCounts, spread_over_categories
from agfsync.stages.polishing import polish_captions
from agfsync.stages.preferences import read_given_captions, skip_left_out
from agfsync.stages.writing import WriterSession, open_writer
from agfsync.stages.written import WrittenCaptions, make_caption, name_written_table

_STAGE = "captions"
POLISHED = "polish"
"""The note with the figures of the polishing."""
REQUESTED_CAPTIONS = 100
"""captions in a request: the work that a killed process loses"""
FRUITLESS_REQUESTS = 3
"""requests in a row without a new caption, after which a writer has run dry"""


def run(context: Context) -> Mapping[str, Any]:
    """Write the missing captions, up to `captions.count` and `captions.held_out`.

    Raises:
        BudgetError: the writer has no new caption in a category, its file has too few, or more of its rows are unusable
            than `failure_budget` allows.
        FormatError: a file doesn't have the right format.
    """
    settings = context.recipe.captions
    given = read_given_captions(context)
    taken = {normalise_text(caption.text) for caption in given.values()}
    prompts = _read_prompts(context, taken) if settings.source else None
    with open_writer(context, _STAGE, settings, instead=prompts) as session:
        needed = _count_needed(context.recipe)
        capacities = _count_capacities(session.writer, prompts, needed)
        wanted = spread_over_categories(needed, capacities)
        skipped = spread_over_categories({**needed, "train": settings.skip}, capacities)
        written = _read_written(context, session.writer, taken)
        with context.progress.stage(_STAGE, sum(needed.values()), done=written.count_present(wanted)) as task:
            for category, places in wanted.items():
                _fill_category(context, session, written, category, places, task)
    left_out = {"left_out": dict(prompts.left_out.counts)} if prompts else {}
    polish = _select_captions(context, written.select_units(wanted, skipped), given)
    return {**_collect_notes(context), **left_out, **session.account.to_notes(), **polish}


def _select_captions(context: Context, units: Sequence[str], given: Mapping[str, Caption]) -> Mapping[str, Any]:
    """Select the stage's table, polished if the recipe has a polisher; return the note on the polishing."""
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


def _count_needed(recipe: Recipe) -> SplitCounts:
    """Return the numbers of captions to write, including skipped ones; with a pair set, none to train on."""
    settings = recipe.captions
    return {"train": 0 if recipe.pairs.source else settings.skip + settings.count, "held-out": settings.held_out}


def _count_capacities(writer: CaptionWriter, prompts: SourceCaptions | None, needed: SplitCounts) -> Mapping[str, int]:
    """Return the number of captions that each category can give; a writer is assumed to have enough.

    Raises:
        BudgetError: a file has too few captions in total.
    """
    total = sum(needed.values())
    if prompts is None:
        return dict.fromkeys(writer.categories, total)
    if (available := sum(prompts.rooms.values())) < total:
        raise BudgetError(
            f"captions: {prompts.path} has {available} captions to write, captions.count and captions.held_out ask for"
            f" {total}: ask for fewer"
        )
    return prompts.rooms


def _read_written(context: Context, writer: CaptionWriter, taken: Collection[str]) -> WrittenCaptions:
    """Return the captions that this writer has written before, in order, without those that are `taken`."""
    settings = context.recipe.captions
    # A file's captions are all used, however similar they are.
    similarity = 1.0 if settings.source else settings.similarity
    shaping = [similarity] if settings.words is None or settings.source else [similarity, settings.words]
    source = digest(_STAGE, VERSIONS[_STAGE], writer.identity, context.recipe.seed, *shaping)
    written = WrittenCaptions(source, similarity, set(taken))
    table = name_written_table(settings)
    own_units = [unit for unit in context.run.list_made(table) if unit.startswith(f"{source}/")]
    for unit, caption in zip(own_units, context.run.read(table, Caption, own_units), strict=True):
        if normalise_text(caption.text) not in taken:
            written.add(unit, caption)
    return written


def _fill_category(
    context: Context,
    session: WriterSession,
    written: WrittenCaptions,
    category: str,
    places: SplitCounts,
    task: ProgressTask,
) -> None:
    """Request captions of `category` until its splits are full.

    Raises:
        BudgetError: the writer has run dry.
    """
    fruitless, rejected = 0, Counter[str]()
    while free := written.list_free(category, places):
        # The seed depends only on the captions so far, so that a resumed run sends the same requests.
        seed = derive_seed(context.recipe.seed, _STAGE, category, len(written.units[category]), fruitless)
        begun = time.monotonic()
        count = min(REQUESTED_CAPTIONS, len(free))
        texts, trouble = _ask_writer(session, category, count, written.texts[category], seed)
        settings = context.recipe.captions
        texts, faulty = (texts, Counter[str]()) if settings.source else sift_captions(texts, settings.words)
        new, dropped = written.pick_new(texts, category, len(free))
        rejected += faulty + dropped
        random.Random(seed).shuffle(free)
        captions = [make_caption(text, category, split) for text, split in zip(new, free, strict=False)]
        _commit_captions(context, written, captions, rejected, time.monotonic() - begun)
        task.advance(len(captions))
        fruitless, rejected = (0, Counter()) if captions else (fruitless + 1, rejected)
        if fruitless == FRUITLESS_REQUESTS:
            trouble = trouble or "; ".join(session.account.meter.spoilers)
            raise _explain_dry_writer(context.recipe.captions.writer.type, category, written, places, trouble, rejected)


def _ask_writer(
    session: WriterSession, category: str, count: int, avoid: Sequence[str], seed: int
) -> tuple[Sequence[str], str]:
    """Return the writer's texts; none, and the reason, if its language model didn't reply."""
    try:
        return session.writer.captions(category, count, avoid, seed), ""
    except NoReplyError as failure:
        return [], str(failure)
    finally:
        session.account.note()


def _commit_captions(
    context: Context, written: WrittenCaptions, captions: Sequence[Caption], left_out: Counter[str], seconds: float
) -> None:
    """Commit the captions of one request as a part; its first caption holds the counts of dropped texts."""
    units = {f"{written.source}/{caption.key}": [caption] for caption in captions}
    if units:
        dropped = {next(iter(units)): left_out} if left_out else {}
        table = name_written_table(context.recipe.captions)
        context.run.commit(table, units, Caption.schema, dropped=dropped, seconds=seconds)
    for unit, (caption,) in units.items():
        written.add(unit, caption)


def _explain_dry_writer(
    writer: str, category: str, written: WrittenCaptions, places: SplitCounts, trouble: str, rejected: Counter[str]
) -> BudgetError:
    reached = f"{len(written.units[category])} of the {sum(places.values())} captions of '{category}'"
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
    left_out = f"; left out: {reasons}" if reasons else ""
    if trouble:
        return BudgetError(f"captions: writer '{writer}' is stuck at {reached}: {trouble}{left_out}")
    return BudgetError(
        f"captions: writer '{writer}' ran dry at {reached}: ask for fewer (captions.count, captions.held_out) or take"
        f" another writer{left_out}"
    )


def _collect_notes(context: Context) -> dict[str, Any]:
    """Return the counts of captions and of dropped texts, and the captions' lengths in words."""
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

"""The polishing of written captions: each caption is a unit, so that none is paid for twice."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from textwrap import shorten
from typing import Any

from agfsync.chat.threads import map_in_threads
from agfsync.engine.jobs import Outcome, Skip, Unit
from agfsync.engine.processing import process_units, report_skipped
from agfsync.language import PolishedPrompt, Polisher, UnpolishedPrompt
from agfsync.language.text import count_words, normalise_text
from agfsync.records import Caption, derive_seed, digest, one_line
from agfsync.stages import VERSIONS
from agfsync.stages.checking import find_caption_fault
from agfsync.stages.context import Context
from agfsync.stages.writing import WriterSession, open_polisher
from agfsync.stages.written import make_caption
from agfsync.store.streams import iterate_batches

_STAGE = "captions"
_SHOWN_CHARACTERS = 80


def polish_captions(context: Context, written: Sequence[Caption], given: Mapping[str, Caption]) -> dict[str, Any]:
    """Polish the captions `written` by a writer, and select the usable ones after the `given` ones.

    Returns the notes: figures of the captions `before` and `after`, the number of captions that were `changed`, the
    number that became `repeated` and so are left out, and the spending.

    Raises:
        BudgetError: more are skipped than `failure_budget` allows, or the polisher has reached its cap.
    """
    recipe = context.recipe
    assert recipe.captions.polish is not None
    with open_polisher(context, recipe.captions.polish) as session:
        name = partial(digest, _STAGE, VERSIONS[_STAGE], session.writer.identity, recipe.seed)
        units = [Unit(name(recipe.captions.words, c.text, c.category, c.split), c) for c in written]
        common = {"schema": Caption.schema, "progress": context.progress, "budget": recipe.failure_budget}
        work, batch = partial(_polish_all, session, context), 4 * session.writer.concurrency * session.writer.at_once
        process_units(context.run, _STAGE, units, work, batch=batch, title="captions: polishing", **common)
    report_skipped(context.progress, _STAGE, context.run.list_skipped(_STAGE, own=True), len(units))
    skipped = {entry.key for entry in context.run.list_skipped(_STAGE, own=True)}
    kept, repeated = _drop_repeated(context, [u.key for u in units if u.key not in skipped], given.values())
    context.run.select(_STAGE, [*given, *kept])
    after = list(kept.values())
    changed = sum(caption.text != caption.original for caption in after)
    figures = {"before": describe_captions(written), "after": describe_captions(after)}
    return {**figures, "changed": changed, "repeated": repeated, **session.account.to_notes()}


def describe_captions(captions: Sequence[Caption]) -> dict[str, Any]:
    """Return the number of captions, in total and by category, and their lengths in words."""
    # Every caption may have been skipped.
    words = [count_words(caption.text) for caption in captions] or [0]
    return {
        "captions": len(captions),
        "categories": dict(Counter(caption.category for caption in captions)),
        "words": {"least": min(words), "median": median(words), "mean": fmean(words), "most": max(words)},
    }


def _polish_all(session: WriterSession, context: Context, captions: Sequence[Caption]) -> Iterator[Outcome]:
    groups = list(iterate_batches(captions, session.writer.at_once))
    polish = partial(_polish_group, session.writer, context)
    for outcomes in map_in_threads(polish, groups, session.writer.concurrency):
        session.account.note()
        yield from outcomes


def _polish_group(polisher: Polisher, context: Context, captions: Sequence[Caption]) -> list[Outcome]:
    """Return a polished caption, or a skip, for each of `captions`. May run in any thread."""
    seed = derive_seed(context.recipe.seed, "polish", captions[0].key)
    replies = polisher.polish([caption.text for caption in captions], seed)
    words = context.recipe.captions.words
    return [_make_outcome(caption, reply, words) for caption, reply in zip(captions, replies, strict=True)]


def _make_outcome(written: Caption, reply: PolishedPrompt | UnpolishedPrompt, words: tuple[int, int] | None) -> Outcome:
    where = f"'{shorten(written.text, _SHOWN_CHARACTERS, placeholder=' ...')}'"
    if isinstance(reply, UnpolishedPrompt):
        remark = one_line(reply.said)
        return Skip(reply.reason, f"{where}: {remark}" if remark else where)
    text = one_line(reply.text)
    if fault := find_caption_fault(text, words):
        return Skip(f"polished caption: {fault}", where)
    changed = one_line(reply.changed) if text != written.text else ""
    return [make_caption(text, written.category, written.split, written.text, changed)]


def _drop_repeated(context: Context, units: Sequence[str], given: Iterable[Caption]) -> tuple[dict[str, Caption], int]:
    """Return the captions of `units` by unit, each text once, and the number of repeated ones."""
    seen = {normalise_text(caption.text) for caption in given}
    kept: dict[str, Caption] = {}
    for unit, caption in zip(units, context.run.read(_STAGE, Caption, units), strict=True):
        plain = normalise_text(caption.text)
        if plain not in seen:
            seen.add(plain)
            kept[unit] = caption
    return kept, len(units) - len(kept)

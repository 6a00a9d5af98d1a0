"""The captions of the evaluation sets: the run's held-out captions, or the prompts of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agfsync.formats.sources import SourceCaptions
from agfsync.language.text import normalise_text
from agfsync.recipe.base import HELD_OUT
from agfsync.recipe.evaluation import EvaluationSet
from agfsync.records import Caption, Question, digest
from agfsync.stages.context import Context, asks_questions, read_captions_to_draw
from agfsync.stages.places import spread_evenly
from agfsync.stages.written import make_question

_CAPTIONS = "evaluation_captions"
"""The table of the captions that aren't in the run's own table."""


@dataclass(frozen=True, slots=True)
class ReadSet:
    """An evaluation set: its captions, their questions by the captions' keys, and the scorers that judge it."""

    name: str
    captions: Sequence[Caption]
    questions: Mapping[str, tuple[Question, ...]]
    by: tuple[str, ...]
    asking: frozenset[str] = frozenset()
    """the scorers that need questions, and so can't judge captions without any"""

    def list_judges(self, caption: Caption) -> list[str]:
        """Return the scorers that judge the images of `caption`."""
        return [name for name in self.by if self.questions[caption.key] or name not in self.asking]


def read_sets(context: Context) -> list[ReadSet]:
    """Return the recipe's evaluation sets in order, and keep the captions of files in the run folder.

    Raises:
        FormatError: a source is missing or malformed.
    """
    recipe = context.recipe
    sets = [
        _read_held_out(context) if name == HELD_OUT else _read_source(context, name, settings)
        for name, settings in recipe.evaluation.sets.items()
        if settings.of is None
    ]
    units = {digest(_CAPTIONS, s.name, c.key): c for s in sets if s.name != HELD_OUT for c in s.captions}
    done = context.run.find_done(_CAPTIONS, units)
    if missing := {key: [caption] for key, caption in units.items() if key not in done}:
        context.run.commit(_CAPTIONS, missing, Caption.schema)
    context.run.select(_CAPTIONS, units)
    return sets


def _read_held_out(context: Context) -> ReadSet:
    items = list(read_captions_to_draw(context, "held-out"))
    by = tuple(context.recipe.set_scorers(HELD_OUT))
    return ReadSet(HELD_OUT, [item.caption for item in items], {item.key: item.questions for item in items}, by)


def _read_source(context: Context, name: str, settings: EvaluationSet) -> ReadSet:
    """Read a file's prompts, without those that the run trains on."""
    trains = context.recipe.training.method.needs != "nothing"
    written = context.run.read("captions", Caption) if trains else ()
    trained = {normalise_text(caption.text) for caption in written if caption.split == "train"}
    prompts = SourceCaptions(str(settings.source), trained, settings.split, avoided="trained on")
    for line in prompts.left_out.lines():
        context.progress.say(f"evaluation: {name}: {Path(str(settings.source))}: left out: {line}")
    rooms = prompts.rooms
    wanted = rooms if settings.count is None else spread_evenly(min(settings.count, sum(rooms.values())), rooms)
    captions = [
        Caption(digest("caption", text), text, category, name)
        for category, count in wanted.items()
        for text in prompts.captions(category, count, (), 0)
    ]
    questions = {
        caption.key: tuple(make_question(caption.key, each) for each in prompts.questions_on(caption.text)[0])
        for caption in captions
    }
    judges = context.recipe.set_scorers(name)
    asking = frozenset(each for each, scorer in judges.items() if asks_questions(scorer))
    without = sum(not of_caption for of_caption in questions.values())
    if without and asking:
        fault = f"{without} of {len(captions)} prompts have no questions"
        context.progress.say(f"evaluation: {name}: {fault}, so {', '.join(sorted(asking))} can't judge them")
    return ReadSet(name, captions, questions, tuple(judges), asking)

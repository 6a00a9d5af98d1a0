"""The stages: each a function from tables of the run folder to a table, one file each. They never import each other.

What several of them need is here, and in the files that call themselves no stage. A table is in the order of those that
it is made from (captions; a caption's pictures; a picture's scores, by judge), so that they can be read side by side,
however long they are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from agfsync import catalog
from agfsync.engine.progress import Progress
from agfsync.recipe import ModelSettings, Recipe, ScorerSettings
from agfsync.records import Caption, Question, Split, digest
from agfsync.store import Run
from agfsync.store.streams import by, matched

VERSIONS: Mapping[str, int] = {
    "captions": 1,
    "questions": 1,
    "candidates": 1,
    "scores": 1,
    "pairs": 1,
    "training": 1,
    "evaluation": 1,
    "report": 1,
}
"""Raise a stage's when it makes other rows of the same settings: it then runs again on runs that are done."""

MODEL = "model"
"""The folder of the aligned model, or of its LoRA, in the run's."""
GENERATORS = "generators"
"""The candidates' note of the models that drew them, by what the candidates say of it, where there are several."""
EARLIER = "earlier_seconds"
"""A stage's note of the time that an interrupted run of it took and that no part tells of."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a stage works with. `digest` names the settings and inputs that it runs under."""

    run: Run
    recipe: Recipe
    progress: Progress
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ToDraw:
    """A caption with the questions that it is judged by, in the order in which they were asked for."""

    caption: Caption
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The caption's."""
        return self.caption.key


def to_draw(context: Context, split: Split) -> Iterator[ToDraw]:
    """The captions of `split` that have questions: those that were skipped have none to be judged by."""
    questions = by("caption_key", context.run.rows("questions"))
    for caption, asked in matched(context.run.read("captions", Caption), lambda caption: caption.key, questions):
        if asked and caption.split == split:
            yield ToDraw(caption, tuple(Question.of(row) for row in asked))


def generator_source(settings: ModelSettings) -> str:
    """What names a generator with all that shapes its pictures, without loading it. Its device doesn't."""
    refiner = (settings.refining.path,) if settings.refining else ()
    models = (settings.path, settings.configuration, *(part.path for part in settings.parts.values()), *refiner)
    return digest(differences(settings, "device"), catalog.fingerprint(*models))


def scorer_source(name: str, settings: ScorerSettings) -> str:
    """Return what names a scorer by all that shapes its scores, without loading it; device and address don't."""
    server = settings.asked_server
    tokens = server.reply_tokens if server is not None else None
    shaping = differences(settings, "device", "server")
    return digest(name, settings.type, shaping, tokens, catalog.fingerprint(*settings.files))


def differences(section: BaseModel, *without: str) -> dict[str, Any]:
    """Return the values of `section` that differ from their defaults, as JSON has them.

    A digest holds these alone, so that a new key with a default renames no finished work.
    """
    plain: dict[str, Any] = section.model_dump(mode="json", exclude=set(without), exclude_defaults=True)
    return plain

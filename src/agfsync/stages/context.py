"""The context of a stage: the run, the recipe, and the digests of models and scorers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from agfsync import catalog
from agfsync.engine.progress import Progress
from agfsync.recipe import ModelSettings, Recipe, ScorerSettings
from agfsync.records import Caption, Question, Split, digest
from agfsync.store import Run
from agfsync.store.streams import group_by_column, join_in_order

MODEL = "model"
"""The folder of the trained model in the run's folder."""
NOT_SHAPING_IMAGES = ("device", "offload")
"""Settings of a model that don't affect its images."""
GENERATORS = "generators"
"""The candidates' note with each `generator`'s model, if there are several."""
EARLIER = "earlier_seconds"
"""A stage's note with the seconds of its earlier, interrupted runs that no part records."""


@dataclass(frozen=True, slots=True)
class Context:
    """The run and recipe of a stage. `digest` is the digest of its settings and inputs."""

    run: Run
    recipe: Recipe
    progress: Progress
    digest: str = ""


@dataclass(frozen=True, slots=True)
class CaptionToDraw:
    """A caption with its questions, in the order in which they were written."""

    caption: Caption
    questions: tuple[Question, ...]

    @property
    def key(self) -> str:
        """The caption's key."""
        return self.caption.key


def read_captions_to_draw(context: Context, split: Split) -> Iterator[CaptionToDraw]:
    """Yield the captions of `split` that have questions, which skipped ones lack; all if none are needed."""
    needed = context.recipe.questions.minimum > 0
    questions = group_by_column("caption_key", context.run.rows("questions"))
    for caption, rows in join_in_order(context.run.read("captions", Caption), lambda caption: caption.key, questions):
        if caption.split == split and (rows or not needed):
            yield CaptionToDraw(caption, tuple(Question.of(row) for row in rows or ()))


def digest_generator(settings: ModelSettings) -> str:
    """Return the digest of a model and of all settings that affect its images, without loading it."""
    refiner = (settings.refining.path,) if settings.refining else ()
    models = (settings.path, settings.configuration, *(part.path for part in settings.parts.values()), *refiner)
    return digest(dump_changes(settings, *NOT_SHAPING_IMAGES), catalog.fingerprint(*models))


def digest_drawing(recipe: Recipe) -> list[str]:
    """Return the digests of the models that draw candidates; the first one's covers the start of a later round."""
    first, *others = map(digest_generator, recipe.drawing_models)
    start = recipe.start
    return [first if start is None else digest(first, start.identity, start.round), *others]


def digest_evaluated(recipe: Recipe) -> dict[str, str]:
    """Return the digests of the models "base" and "aligned" of the evaluation, before any training."""
    marks = ("", "") if recipe.given is None else recipe.given.marks
    return {
        name: digest(digest_generator(settings), mark) if mark else digest_generator(settings)
        for (name, settings), mark in zip(recipe.evaluated_models.items(), marks, strict=True)
    }


def digest_scorer(name: str, settings: ScorerSettings) -> str:
    """Return the digest of a scorer and of all settings that affect its scores, without loading it."""
    server = settings.asked_server
    tokens = server.reply_tokens if server is not None else None
    # The run's own reward model is identified by its weights, which its revision names, not by the run's path.
    shaping = dump_changes(settings, "device", "server", *(("path",) if settings.is_own else ()))
    return digest(name, settings.type, shaping, tokens, catalog.fingerprint(*settings.files))


def asks_questions(settings: ScorerSettings) -> bool:
    """Return True if a scorer gives no value without questions."""
    return bool(getattr(catalog.find("scorers", settings.type), "asks_questions", False))


def knows_truth(settings: ScorerSettings) -> bool:
    """Return True if a scorer's answers are the ground truth, like those of the Shapes world's oracle."""
    return bool(getattr(catalog.find("scorers", settings.type), "knows_truth", False))


def takes_any_answer(settings: ScorerSettings) -> bool:
    """Return True if a scorer that asks questions takes answers other than yes and no."""
    return bool(getattr(catalog.find("scorers", settings.type), "takes_any_answer", False))


def dump_changes(section: BaseModel, *without: str) -> dict[str, Any]:
    """Return the values of `section` that differ from their defaults, in JSON types.

    Digests cover only these, so that a new key with a default leaves finished work valid.
    """
    plain: dict[str, Any] = section.model_dump(mode="json", exclude=set(without), exclude_defaults=True)
    return plain

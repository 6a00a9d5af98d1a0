"""The stages in order, and what names each one's settings and inputs: the table of contents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agfsync.formats.sources import fingerprint_source
from agfsync.recipe import Recipe, ScorerSettings
from agfsync.records import digest
from agfsync.stages import MODEL, VERSIONS, differences, generator_source, scorer_source
from agfsync.stages.writing import writer_source
from agfsync.store import Run


@dataclass(frozen=True, slots=True)
class Stage:
    """A function from tables to a table, `agfsync.stages.NAME.run`, imported when it is its turn.

    It is up to date while its settings, and what the stages in `after` made, are what they were when it ended.
    """

    name: str
    after: tuple[str, ...]
    settings: Callable[[Recipe], Any]
    """what of the recipe shapes its result; devices and batch sizes don't"""
    lighter: str = "captions.count"
    """what of the recipe to lower where memory runs out, though batches are fitted into it"""
    makes: tuple[str, ...] = ()
    """files and folders of the run folder beside its tables"""
    by_rows: bool = False
    """whether a unit's rows may be others when it is made anew: what a language model writes"""


UNSHAPING = ("checkpoint_every", "accumulate", "gradient_checkpointing", "trackers")
"""Settings of the training that change no more than the last bits of its result."""

STAGES = (
    Stage(
        "captions",
        (),
        lambda r: (
            r.seed,
            _plain(r.captions, "writer", "source", "split"),
            writer_source("captions", r.captions),
            *_sources(r),
        ),
    ),
    Stage(
        "questions",
        ("captions",),
        lambda r: (r.seed, _plain(r.questions, "writer"), writer_source("questions", r.questions), *_sources(r)),
        by_rows=True,
    ),
    Stage(
        "candidates",
        ("captions", "questions"),
        lambda r: _pair_set(r) or _drawing(r),
        "the generator's height and width, or its dtype to bf16",
    ),
    Stage(
        "scores",
        ("questions", "candidates"),
        lambda r: _judges(r.candidate_scorers),
        "the scorers' dtype to bf16, or take smaller ones",
    ),
    Stage(
        "pairs",
        ("candidates", "scores"),
        lambda r: _pair_set(r) or _plain(r.pairs, "source", "split", "repeats"),
    ),
    Stage(
        "training",
        ("pairs",),
        lambda r: (r.training_seed, _plain(r.training, "seed", *UNSHAPING), generator_source(r.model)),
        "training.batch, or set training.gradient_checkpointing, or train a LoRA (training.lora.rank)",
        (MODEL, "training/metrics.jsonl"),
    ),
    Stage(
        "evaluation",
        ("questions", "training"),
        lambda r: (
            r.seed,
            _plain(r.evaluation, "batch"),
            generator_source(r.model),
            _judges(r.evaluation_scorers),
        ),
        "the generator's height and width, or its and the judges' dtype to bf16",
    ),
    Stage(
        "report",
        ("questions", "candidates", "scores", "pairs", "training", "evaluation"),
        lambda r: (
            *(r.name, _plain(r.report), r.pairs.weights, r.evaluation.resamples),
            _sources(r, "pairs"),
        ),
        "report.examples",
        ("report.html",),
    ),
)

NAMES = tuple(stage.name for stage in STAGES)


def digest_of(stage: Stage, run_: Run, recipe: Recipe) -> str:
    """What names a stage's settings and inputs. A stage before it counts by what it made, not by how it was set."""
    ended = [run_.finished(name) for name in stage.after]
    marks = [None if finished is None else finished.mark for finished in ended]
    return digest(stage.name, VERSIONS[stage.name], stage.settings(recipe), marks)


def is_current(stage: Stage, run_: Run, recipe: Recipe) -> bool:
    """Whether the stage has ended under the settings and inputs that it has now."""
    finished = run_.finished(stage.name)
    return finished is not None and finished.digest == digest_of(stage, run_, recipe)


def due_stages(run_: Run, recipe: Recipe, until: str | None = None) -> list[str]:
    """Return the names of the stages up to `until` that aren't up to date, or follow from one that isn't."""
    due: list[str] = []
    for stage in STAGES if until is None else STAGES[: NAMES.index(until) + 1]:
        if set(stage.after) & set(due) or not is_current(stage, run_, recipe):
            due.append(stage.name)
    return due


def _plain(section: Any, *without: str) -> dict[str, Any]:
    return differences(section, *without)


def _drawing(recipe: Recipe) -> tuple[Any, ...]:
    generators = [generator_source(settings) for settings in recipe.drawing_models]
    return (recipe.seed, _plain(recipe.candidates, "beside"), *generators)


def _pair_set(recipe: Recipe) -> list[tuple[str, ...]]:
    """Return what the pair set holds and how its judgements are counted; nothing where the pairs are this run's own."""
    return [(*source, recipe.pairs.repeats) for source in _sources(recipe, "pairs")]


def _sources(recipe: Recipe, *stages: str) -> list[tuple[str, ...]]:
    """Return what the files hold that `stages`, default all, are taken from, and what of it; not where they lie."""
    captions, pairs = recipe.captions, recipe.pairs
    named = {
        "captions": (captions.source, (captions.split,)),
        "pairs": (pairs.source, (pairs.split,)),
    }
    wanted = stages or tuple(named)
    return [(stage, fingerprint_source(path), *of) for stage, (path, of) in named.items() if path and stage in wanted]


def _judges(settings: Mapping[str, ScorerSettings]) -> list[str]:
    return [scorer_source(name, each) for name, each in settings.items()]

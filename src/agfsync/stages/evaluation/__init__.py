"""Stage 7: base against aligned model on the held-out captions, drawn from the same seeds and scored by every judge.

Images and scores have separate tables, so that unchanged ones are reused: the base's images survive a change of the
training, and a new judge scores the existing images.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agfsync import catalog
from agfsync.engine.batch_fitting import release_memory
from agfsync.engine.jobs import BatchFunction, JobContext, Outcome, Unit
from agfsync.engine.processing import process_units, report_skipped
from agfsync.engine.running import run_job
from agfsync.errors import RunError
from agfsync.files.images import encode_pngs
from agfsync.models import Generator
from agfsync.models.artefact import ModelArtefact
from agfsync.recipe import Recipe
from agfsync.recipe.scorers import OWN_REWARD
from agfsync.records import Candidate, Caption, Comparison, Score, derive_seed, digest
from agfsync.stages import VERSIONS
from agfsync.stages.context import MODEL, Context, digest_evaluated
from agfsync.stages.evaluation.comparing import Sides, compare_models, summarise_comparisons
from agfsync.stages.evaluation.measuring import MEASURED, measure_set
from agfsync.stages.evaluation.pairwise import judge_pairwise
from agfsync.stages.evaluation.sets import ReadSet, read_sets
from agfsync.stages.evaluation.spread import measure_spread
from agfsync.stages.judging import ImageToJudge, Tables, judge_images
from agfsync.stages.spending import sum_judge_spending

_STAGE = "evaluation"
IMAGES = "evaluation_images"
FURTHER_IMAGES = "evaluation_more"
"""The table of further images of the first set's captions: no judge scores them, they measure diversity."""
SCORES = "evaluation_scores"
SETS = "sets"
"""The note with the summaries of all sets but the first."""
PAIRWISE = "pairwise"
"""The note with the figures of the sets that are judged pairwise."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image to draw: a caption and the image's index."""

    caption: Caption
    index: int = 0

    @property
    def seed_parts(self) -> tuple[Any, ...]:
        """The parts of its seed and digest that identify it; the first image's have no index."""
        return (self.caption.key, self.index) if self.index else (self.caption.key,)


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """A job that draws images of captions with the base or the aligned `model`; `source` is its digest.

    `name` is the model's name in messages.
    """

    model: str
    name: str
    settings: Mapping[str, Any]
    source: str
    seed: int
    batch: int
    defaults: Collection[str] = ()
    """the settings that a model class may lack"""

    @property
    def device(self) -> str:
        return str(self.settings["device"])

    def reads(self, drawings: Sequence[Drawing]) -> tuple[str, Sequence[str]]:
        return IMAGES, ()

    def open(self, context: JobContext) -> BatchFunction[Drawing]:
        context.say(f"{_STAGE}: loading {self.name}")
        generator: Generator = catalog.build("models", self.settings, self.defaults)
        for remark in getattr(generator, "remarks", ()):
            context.say(f"{_STAGE}: {remark}")
        return lambda drawings: context.fit.over(drawings, partial(self._draw_batch, generator))

    def _draw_batch(self, generator: Generator, drawings: Sequence[Drawing]) -> list[Outcome]:
        seeds = [derive_seed(self.seed, _STAGE, *each.seed_parts) for each in drawings]
        # No embedding noise: it diversifies candidates, and would only blur the comparison.
        files = encode_pngs(generator.draw([each.caption.text for each in drawings], seeds, 0.0))
        outcomes: list[Outcome] = []
        for each, seed, file in zip(drawings, seeds, files, strict=True):
            key = digest("evaluation image", self.model, self.source, each.caption.key, seed)
            outcomes.append([Candidate(key, each.caption.key, each.index, seed, self.model, file)])
        return outcomes


def run(context: Context) -> Mapping[str, Any]:
    """Draw and judge the missing images, and compare the models; return the summary of `summarise_comparisons`.

    Raises:
        RunError: there is no aligned model. ModelError: a model can't be loaded.
        BudgetError: a judge left more images unscored than `failure_budget` allows.
    """
    sets = read_sets(context)
    captions = list({caption.key: caption for each in sets for caption in each.captions}.values())
    _draw_images(context, captions)
    _draw_more(context, sets[0].captions, ("base", "aligned"))
    drawn, sides = _read_images(context, sets)
    tables = Tables(stage=_STAGE, images=IMAGES, scores=SCORES)
    judged = judge_images(context, tables, context.recipe.evaluation_scorers, drawn)
    scores = list(context.run.read(SCORES, Score))
    rows = {s.name: compare_models(s.captions, sides, scores, s.questions, s.name, s.by) for s in sets}
    _commit_comparisons(context, [row for of_set in rows.values() for row in of_set])
    settings, seed = context.recipe.evaluation, context.recipe.seed
    first, *others = [summarise_comparisons(of_set, settings.resamples, seed) for of_set in rows.values()]
    notes = {what: {name: note[what] for name, note in judged.items()} for what in ("unscored", "truncated")}
    pairwise = judge_pairwise(
        context, IMAGES, {each.key: each for each in drawn}, sides, {s.name: s.captions for s in sets}
    )
    spent = sum_judge_spending(context.run.path, _STAGE)
    measured = {
        s.name: measure_set(s, name, sides, scores) for s in sets if (name := settings.sets[s.name].measure) is not None
    }
    notes |= {MEASURED: measured} if measured else {}
    notes |= measure_spread(context, sets[0].captions, (IMAGES, FURTHER_IMAGES))
    optional = {SETS: dict(zip(list(rows)[1:], others, strict=True))} if others else {}
    optional |= {PAIRWISE: pairwise} if pairwise else {}
    return {"set": sets[0].name, "captions": len(sets[0].captions), **spent, **notes, **first, **optional}


def judge_base(context: Context) -> None:
    """Draw and judge the base model's images of all sets, which the evaluations of the run's forks then reuse.

    The run's own reward model judges them if it is trained.

    Raises:
        ModelError: a model can't be loaded. BudgetError: as for `run`.
    """
    sets = read_sets(context)
    captions = list({caption.key: caption for each in sets for caption in each.captions}.values())
    source, drawings = digest_evaluated(context.recipe)["base"], list(map(Drawing, captions))
    context.run.select(IMAGES, _draw_with_model(context, "base", source, drawings))
    _draw_more(context, sets[0].captions, ("base",))
    drawn, _ = _read_images(context, sets)
    tables = Tables(stage=_STAGE, images=IMAGES, scores=SCORES)
    judges = {name: each for name, each in context.recipe.evaluation_scorers.items() if each.path != OWN_REWARD}
    judge_images(context, tables, judges, drawn)


def _draw_images(context: Context, captions: Sequence[Caption]) -> None:
    """Draw every caption with both models, one model in memory at a time."""
    drawings = list(map(Drawing, captions))
    selected = [
        *_draw_with_model(context, "base", digest_evaluated(context.recipe)["base"], drawings),
        *_draw_with_model(context, "aligned", _digest_aligned(context), drawings),
    ]
    report_skipped(context.progress, _STAGE, context.run.list_skipped(IMAGES), 2 * len(captions), "images")
    context.run.select(IMAGES, selected)


def _draw_more(context: Context, captions: Sequence[Caption], models: Sequence[str]) -> None:
    """Draw the further images of each caption with these models."""
    drawings = [Drawing(caption, n) for caption in captions for n in range(1, context.recipe.evaluation.per_caption)]
    keys = []
    for model in models if drawings else ():
        source = digest_evaluated(context.recipe)["base"] if model == "base" else _digest_aligned(context)
        keys += _draw_with_model(context, model, source, drawings, FURTHER_IMAGES)
    context.run.select(FURTHER_IMAGES, keys)


def _draw_with_model(
    context: Context, model: str, source: str, drawings: Sequence[Drawing], table: str = IMAGES
) -> list[str]:
    """Draw with one model; return the keys of its units, which cover `source`."""
    recipe, name = context.recipe, _describe_model(context.recipe, model)
    version = VERSIONS[_STAGE]
    units = [Unit(digest(_STAGE, version, model, source, recipe.seed, *each.seed_parts), each) for each in drawings]
    run_job(
        context.run,
        table,
        units,
        EvaluationJob(model, name, _list_arguments(context, model), source, recipe.seed, recipe.evaluation.batch),
        engine=recipe.engine,
        at_once=recipe.evaluation.batch,
        schema=Candidate.schema,
        progress=context.progress,
        budget=recipe.failure_budget,
        unit="images",
        title=f"{_STAGE}: {name} draws",
    )
    release_memory()
    return [unit.key for unit in units]


def _list_arguments(context: Context, model: str) -> dict[str, Any]:
    """Return the arguments that build the base or the aligned model."""
    settings = context.recipe.evaluated_models[model].arguments()
    folder = context.run.path / MODEL
    return settings if model == "base" else ModelArtefact.load(folder).extend_arguments(settings, folder)


def _digest_aligned(context: Context) -> str:
    training = context.run.find_finished("training")
    if training is None or not (context.run.path / MODEL).is_dir():
        raise RunError(f"no aligned model at {context.run.path / MODEL}: type `agfsync training {context.run.path}`")
    source = digest_evaluated(context.recipe)["aligned"]
    # A given model doesn't depend on a training.
    return digest(source, training.mark) if context.recipe.given is None else source


def _describe_model(recipe: Recipe, model: str) -> str:
    """Return a model's name in messages: "base model", or its name in a comparison."""
    return f"{model} model" if recipe.given is None else recipe.model_names[model]


def _read_images(context: Context, sets: Sequence[ReadSet]) -> tuple[list[ImageToJudge], Sides]:
    """Return the drawn images, and the keys of both models' images of each caption that both have drawn.

    An image is judged by the scorers of every set that has its caption.
    """
    captions = {caption.key: caption for each in sets for caption in each.captions}
    questions = {key: asked for each in reversed(sets) for key, asked in each.questions.items()}
    judges: dict[str, dict[str, None]] = defaultdict(dict)
    for each in sets:
        for caption in each.captions:
            judges[caption.key].update(dict.fromkeys(each.list_judges(caption)))
    images: list[ImageToJudge] = []
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for unit, rows in context.run.rows_by_unit(IMAGES, ["key", "caption_key", "generator"]):
        for row in rows:
            caption = captions[row["caption_key"]]
            of_caption = questions[caption.key], tuple(judges[caption.key])
            images.append(ImageToJudge(row["key"], unit, caption.text, *of_caption))
            sides[caption.key][row["generator"]] = row["key"]
    return images, {key: (two["base"], two["aligned"]) for key, two in sides.items() if len(two) == 2}


def _commit_comparisons(context: Context, rows: Sequence[Comparison]) -> None:
    """Commit the rows, one unit for each caption of a set."""
    by_caption: dict[tuple[str, str], list[Comparison]] = {}
    for row in rows:
        by_caption.setdefault((row.set, row.caption_key), []).append(row)
    units = [Unit(digest(_STAGE, *of, [row.key for row in rows]), rows) for of, rows in by_caption.items()]
    work: Callable[[Sequence[list[Comparison]]], Sequence[Outcome]] = list
    common = {"schema": Comparison.schema, "progress": context.progress, "budget": context.recipe.failure_budget}
    process_units(context.run, _STAGE, units, work, batch=len(units) or 1, title=f"{_STAGE}: comparing", **common)
    context.run.select(_STAGE, [unit.key for unit in units])

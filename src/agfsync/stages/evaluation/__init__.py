"""Stage 7: base against aligned model on the held-out captions, drawn from the same seeds and judged by every judge.

Pictures and scores are tables of their own, so that whatever of them hasn't changed is found again: the base's pictures
outlive a change of training, and a new judge judges the pictures that are there.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agfsync import catalog
from agfsync.engine import Desk, Outcome, Unit, Work, carry_out, process
from agfsync.engine.memory import release
from agfsync.errors import RunError
from agfsync.files.images import encoded
from agfsync.models import EXCHANGED, LORA_FILE, Generator
from agfsync.records import Candidate, Caption, Comparison, Score, digest, seed_of
from agfsync.stages import MODEL, VERSIONS, Context, generator_source, to_draw
from agfsync.stages.evaluation.comparing import Questions, Sides, compare, summarise
from agfsync.stages.judging import Tables, ToJudge, judge
from agfsync.stages.spending import spent_by_judges

STAGE = "evaluation"
IMAGES = "evaluation_images"
SCORES = "evaluation_scores"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture of each caption by the base or the aligned `model`, which `source` names and `settings` build."""

    model: str
    settings: Mapping[str, Any]
    source: str
    seed: int
    batch: int

    @property
    def device(self) -> str:
        return str(self.settings["device"])

    def reads(self, captions: Sequence[Caption]) -> tuple[str, Sequence[str]]:
        return IMAGES, ()

    def open(self, desk: Desk) -> Work[Caption]:
        desk.say(f"{STAGE}: loading the {self.model} model")
        generator: Generator = catalog.build("models", self.settings)
        for remark in getattr(generator, "remarks", ()):
            desk.say(f"{STAGE}: {remark}")
        return lambda captions: desk.fit.over(captions, partial(self._drawn, generator))

    def _drawn(self, generator: Generator, captions: Sequence[Caption]) -> list[Outcome]:
        seeds = [seed_of(self.seed, STAGE, caption.key) for caption in captions]
        # No embedding noise: it is there to make candidates differ, and would only blur the comparison.
        files = encoded(generator.draw([caption.text for caption in captions], seeds, 0.0))
        keys = [
            digest("evaluation image", self.model, self.source, c.key, s) for c, s in zip(captions, seeds, strict=True)
        ]
        made = zip(keys, captions, seeds, files, strict=True)
        return [[Candidate(key, c.key, 0, seed, self.model, file)] for key, c, seed, file in made]


def run(context: Context) -> Mapping[str, Any]:
    """Draw, judge and compare whatever isn't yet; the notes are the summary that `summarise` makes.

    Raises:
        RunError: there is no aligned model. ModelError: a model can't be loaded.
        BudgetError: a judge left more pictures unscored than `failure_budget` allows.
    """
    asked = list(to_draw(context, "held-out"))
    captions, questions = [each.caption for each in asked], {each.key: each.questions for each in asked}
    _draw(context, captions)
    drawn, sides = _drawn(context, captions, questions)
    judges = context.recipe.evaluation_scorers
    judged = judge(context, Tables(stage=STAGE, pictures=IMAGES, scores=SCORES), judges, drawn)
    rows = compare(captions, sides, context.run.read(SCORES, Score), questions)
    _keep(context, captions, rows)
    summary = summarise(rows, context.recipe.evaluation.resamples, context.recipe.seed)
    told = {what: {name: note[what] for name, note in judged.items()} for what in ("unscored", "truncated")}
    return {"captions": len(captions), **spent_by_judges(context.run.path, STAGE), **told, **summary}


def _draw(context: Context, captions: Sequence[Caption]) -> None:
    """Both models' pictures of every caption, one model in memory at a time."""
    selected = [
        *_draw_with(context, "base", generator_source(context.recipe.model), captions),
        *_draw_with(context, "aligned", _aligned_source(context), captions),
    ]
    context.run.select(IMAGES, selected)


def _draw_with(context: Context, model: str, source: str, captions: Sequence[Caption]) -> list[str]:
    """One model's pictures; the keys of its units. The unit names the model by `source`, not by its part in the run."""
    recipe = context.recipe
    units = [Unit(digest(STAGE, VERSIONS[STAGE], model, source, recipe.seed, c.key), c) for c in captions]
    carry_out(
        context.run,
        IMAGES,
        units,
        Drawing(model, _settings(context, model), source, recipe.seed, recipe.evaluation.batch),
        engine=recipe.engine,
        at_once=recipe.evaluation.batch,
        schema=Candidate.schema,
        progress=context.progress,
        budget=recipe.failure_budget,
        unit="pictures",
        title=f"{STAGE}: {model} model draws",
    )
    release()
    return [unit.key for unit in units]


def _settings(context: Context, model: str) -> dict[str, Any]:
    """What builds the base or the aligned generator: the latter is a LoRA on the base, or a whole model of its own."""
    settings = context.recipe.model.arguments()
    folder = context.run.path / MODEL
    if model == "base":
        return settings
    if (folder / LORA_FILE).is_file():
        return settings | {"adapter": folder}
    # What was saved has every part in it, and no variant.
    own = dict.fromkeys(("revision", "variant", *EXCHANGED))
    return settings | {name: value for name, value in own.items() if name in settings} | {"path": str(folder)}


def _aligned_source(context: Context) -> str:
    training = context.run.finished("training")
    if training is None or not (context.run.path / MODEL).is_dir():
        raise RunError(f"no aligned model at {context.run.path / 'model'}: type `agfsync training {context.run.path}`")
    return digest(generator_source(context.recipe.model), training.mark)


def _drawn(context: Context, captions: Sequence[Caption], questions: Questions) -> tuple[list[ToJudge], Sides]:
    """The pictures that are there, and for each caption that both models have drawn its two."""
    by_key = {caption.key: caption for caption in captions}
    found: list[ToJudge] = []
    sides: dict[str, dict[str, str]] = defaultdict(dict)
    for unit, rows in context.run.grouped(IMAGES, ["key", "caption_key", "generator"]):
        for row in rows:
            caption = by_key[row["caption_key"]]
            found.append(ToJudge(row["key"], unit, caption.text, tuple(questions[caption.key])))
            sides[caption.key][row["generator"]] = row["key"]
    return found, {key: (two["base"], two["aligned"]) for key, two in sides.items() if len(two) == 2}


def _keep(context: Context, captions: Sequence[Caption], rows: Sequence[Comparison]) -> None:
    """Enters the rows, a unit a caption."""
    by_caption: dict[str, list[Comparison]] = {caption.key: [] for caption in captions}
    for row in rows:
        by_caption[row.caption_key].append(row)
    units = [Unit(digest(STAGE, key, [row.key for row in of]), of) for key, of in by_caption.items()]
    work: Callable[[Sequence[list[Comparison]]], Sequence[Outcome]] = list
    common = {"schema": Comparison.schema, "progress": context.progress, "budget": context.recipe.failure_budget}
    process(context.run, STAGE, units, work, batch=len(units) or 1, title=f"{STAGE}: comparing", **common)
    context.run.select(STAGE, [unit.key for unit in units])

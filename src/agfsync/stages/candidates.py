"""Stage 3: N pictures for each caption, each from a seed and an embedding noise of its own (Eq. 1).

Where the recipe names generators beside the one that is aligned, each of them draws N of its own, one model in memory
at a time, and their numbers run on.

Where the pairs come from a pair set, its pictures are the candidates and none is drawn.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agfsync import catalog
from agfsync.engine import BatchFunction, JobContext, Outcome, Unit, report_skipped, run_job
from agfsync.engine.batch_fitting import release_memory
from agfsync.files.images import encode_pngs
from agfsync.models import Generator
from agfsync.recipe import ModelSettings, Recipe
from agfsync.records import Candidate, Caption, digest, seed_of
from agfsync.stages import VERSIONS
from agfsync.stages.context import GENERATORS, Context, generator_source, to_draw
from agfsync.stages.preferences import take_in
from agfsync.store.streams import Reiterable, Stream, join_in_order

_STAGE = "candidates"


@dataclass(frozen=True, slots=True)
class CandidateJob:
    """A caption's pictures `indices` by one generator. `source` names it with all that shapes them."""

    settings: ModelSettings
    source: str
    noise: float
    seed: int
    indices: tuple[int, ...]

    def unit(self, caption: Caption) -> str:
        """The key of the unit that these pictures are."""
        first, count = self.indices[0], len(self.indices)
        # What stands alone, or first, is named as if there never were others.
        return digest(self.source, self.seed, count, caption.key, *([first] if first else []))

    @property
    def batch(self) -> int:
        return len(self.indices)

    @property
    def device(self) -> str:
        return self.settings.device

    def reads(self, captions: Sequence[Caption]) -> tuple[str, Sequence[str]]:
        return _STAGE, ()

    def open(self, desk: JobContext) -> BatchFunction[Caption]:
        desk.say(f"{_STAGE}: loading {self.settings.path}")
        generator: Generator = catalog.build("models", self.settings.arguments(), self.settings.defaults())
        for remark in getattr(generator, "remarks", ()):
            desk.say(f"{_STAGE}: {remark}")

        def draw(captions: Sequence[Caption]) -> Iterator[Outcome]:
            """A caption's pictures in one batch, if they fit: which of them go together has no say in their noise."""
            for caption in captions:
                yield desk.fit.over(self.indices, partial(self._drawn, generator, caption))

        return draw

    def _drawn(self, generator: Generator, caption: Caption, indices: Sequence[int]) -> list[Candidate]:
        seeds = seeds_of(caption, indices, self.seed)
        files = encode_pngs(generator.draw([caption.text] * len(seeds), seeds, self.noise))
        keys = [digest("candidate", self.source, caption.key, seed) for seed in seeds]
        made = zip(keys, indices, seeds, files, strict=True)
        return [Candidate(key, caption.key, index, seed, generator.identity, file) for key, index, seed, file in made]


def run(context: Context) -> Mapping[str, Any]:
    """Draw what is missing of `candidates.per_caption` pictures for each caption that makes pairs.

    Raises:
        ModelError: the generator can't be loaded. BudgetError: too many pictures of a pair set are broken.
    """
    recipe = context.recipe
    if recipe.pairs.source:
        return take_in(context, Path(recipe.pairs.source))
    captions = Stream(
        sum(1 for _ in to_draw(context, "train")), lambda: (each.caption for each in to_draw(context, "train"))
    )
    drawings = [_drawing(recipe, place) for place in range(len(recipe.drawing_models))]
    for drawing in drawings:
        _draw(context, drawing, captions)
        release_memory()
    report_skipped(context.progress, _STAGE, context.run.list_skipped(_STAGE), len(captions) * len(drawings))
    context.run.select(_STAGE, (drawing.unit(caption) for caption in captions for drawing in drawings))
    drawn = len(captions) * recipe.candidates.per_caption * len(drawings)
    named = {GENERATORS: _names(context, drawings, captions)} if recipe.candidates.beside else {}
    return {"captions": len(captions), "candidates": drawn} | named


def seeds_of(caption: Caption, indices: Iterable[int], seed: int) -> list[int]:
    """The seeds of a caption's pictures `indices` in a run of `seed`."""
    return [seed_of(seed, caption.key, index) for index in indices]


def _drawing(recipe: Recipe, place: int) -> CandidateJob:
    """What the generator at `place` draws of a caption."""
    settings, count = recipe.drawing_models[place], recipe.candidates.per_caption
    noise = recipe.candidates.embedding_noise
    source = digest(_STAGE, VERSIONS[_STAGE], generator_source(settings), noise)
    return CandidateJob(settings, source, noise, recipe.seed, tuple(range(place * count, (place + 1) * count)))


def _draw(context: Context, drawing: CandidateJob, captions: Reiterable[Caption]) -> None:
    """One generator's pictures of every caption."""
    recipe = context.recipe
    units = Stream(len(captions), lambda: (Unit(drawing.unit(caption), caption) for caption in captions))
    common = {"schema": Candidate.schema, "progress": context.progress, "budget": recipe.failure_budget}
    run_job(context.run, _STAGE, units, drawing, engine=recipe.engine, at_once=1, **common)


def _names(context: Context, drawings: Sequence[CandidateJob], captions: Iterable[Caption]) -> dict[str, str]:
    """Each generator's model, by what its pictures say of it."""
    units = ((drawing.unit(caption), drawing.settings.path) for caption in captions for drawing in drawings)
    drawn = join_in_order(units, lambda each: each[0], context.run.rows_by_unit(_STAGE, ["generator"]))
    return {row["generator"]: model for (_, model), rows in drawn for row in rows or ()}

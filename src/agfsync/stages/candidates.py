"""Stage 3: N images for each caption, each from a seed and an embedding noise of its own (Eq. 1).

If the recipe names generators in addition to the aligned one, each of them also draws N images, one model in memory at
a time; the image numbers continue.

If the pairs come from a pair set, its images are the candidates, and none is drawn.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agfsync import catalog
from agfsync.engine.batch_fitting import release_memory
from agfsync.engine.jobs import BatchFunction, JobContext, Outcome, Unit
from agfsync.engine.processing import report_skipped
from agfsync.engine.running import run_job
from agfsync.files.images import encode_pngs
from agfsync.models import Generator
from agfsync.models.artefact import ModelArtefact
from agfsync.recipe import ModelSettings, Recipe
from agfsync.records import Candidate, Caption, derive_seed, digest
from agfsync.stages import VERSIONS
from agfsync.stages.context import GENERATORS, Context, digest_drawing, read_captions_to_draw
from agfsync.stages.preferences import import_pair_set
from agfsync.store.streams import Reiterable, Stream, join_in_order

_STAGE = "candidates"


@dataclass(frozen=True, slots=True)
class CandidateJob:
    """A job that draws the images `indices` of captions with one generator; `source` digests all settings of them."""

    settings: ModelSettings
    source: str
    noise: float
    seed: int
    indices: tuple[int, ...]
    start: Path | None = None
    """the folder of a trained model that draws instead of the model of `settings`"""

    def name_unit(self, caption: Caption) -> str:
        """Return the key of the unit of a caption's images."""
        first, count = self.indices[0], len(self.indices)
        # The first generator's key doesn't depend on the others, so that adding one redraws nothing.
        return digest(self.source, self.seed, count, caption.key, *([first] if first else []))

    @property
    def batch(self) -> int:
        return len(self.indices)

    @property
    def device(self) -> str:
        return self.settings.device

    def reads(self, captions: Sequence[Caption]) -> tuple[str, Sequence[str]]:
        return _STAGE, ()

    def open(self, context: JobContext) -> BatchFunction[Caption]:
        context.say(f"{_STAGE}: loading {self.settings.path}")
        arguments = self.settings.arguments()
        if self.start is not None:
            arguments = ModelArtefact.load(self.start).extend_arguments(arguments, self.start)
        generator: Generator = catalog.build("models", arguments, self.settings.defaults())
        for remark in getattr(generator, "remarks", ()):
            context.say(f"{_STAGE}: {remark}")

        def draw(captions: Sequence[Caption]) -> Iterator[Outcome]:
            """Draw a caption's images in one batch if it fits; splitting the batch doesn't affect their noise."""
            for caption in captions:
                yield context.fit.over(self.indices, partial(self._draw_batch, generator, caption))

        return draw

    def _draw_batch(self, generator: Generator, caption: Caption, indices: Sequence[int]) -> list[Candidate]:
        seeds = derive_seeds(caption, indices, self.seed)
        files = encode_pngs(generator.draw([caption.text] * len(seeds), seeds, self.noise))
        keys = [digest("candidate", self.source, caption.key, seed) for seed in seeds]
        drawn = zip(keys, indices, seeds, files, strict=True)
        return [Candidate(key, caption.key, index, seed, generator.identity, file) for key, index, seed, file in drawn]


def run(context: Context) -> Mapping[str, Any]:
    """Draw the missing images, `candidates.per_caption` for each training caption.

    Raises:
        ModelError: the generator can't be loaded. BudgetError: too many images of a pair set are broken.
    """
    recipe = context.recipe
    if recipe.pairs.source:
        return import_pair_set(context, Path(recipe.pairs.source))
    captions = Stream(
        sum(1 for _ in read_captions_to_draw(context, "train")),
        lambda: (item.caption for item in read_captions_to_draw(context, "train")),
    )
    jobs = [_make_job(recipe, place) for place in range(len(recipe.drawing_models))]
    for job in jobs:
        _draw_candidates(context, job, captions)
        release_memory()
    unit = "captions" if len(jobs) == 1 else "captions of a generator"
    report_skipped(context.progress, _STAGE, context.run.list_skipped(_STAGE), len(captions) * len(jobs), unit)
    context.run.select(_STAGE, (job.name_unit(caption) for caption in captions for job in jobs))
    drawn = len(captions) * recipe.candidates.per_caption * len(jobs)
    named = {GENERATORS: _name_generators(context, jobs, captions)} if recipe.candidates.beside else {}
    return {"captions": len(captions), "candidates": drawn} | named


def derive_seeds(caption: Caption, indices: Iterable[int], seed: int) -> list[int]:
    """Return the seeds of a caption's images `indices` in a run of `seed`."""
    return [derive_seed(seed, caption.key, index) for index in indices]


def _make_job(recipe: Recipe, place: int) -> CandidateJob:
    """Return the job of the generator at `place`; image numbers continue from one generator, or round, to the next."""
    models, count = recipe.drawing_models, recipe.candidates.per_caption
    noise, start = recipe.candidates.embedding_noise, recipe.start if place == 0 else None
    source = digest(_STAGE, VERSIONS[_STAGE], digest_drawing(recipe)[place], noise)
    first = count * (place if start is None else start.round * len(models))
    folder = None if start is None else Path(start.path)
    return CandidateJob(models[place], source, noise, recipe.seed, tuple(range(first, first + count)), folder)


def _draw_candidates(context: Context, job: CandidateJob, captions: Reiterable[Caption]) -> None:
    """Draw every caption's images with one generator."""
    recipe = context.recipe
    units = Stream(len(captions), lambda: (Unit(job.name_unit(caption), caption) for caption in captions))
    common = {"schema": Candidate.schema, "progress": context.progress, "budget": recipe.failure_budget}
    run_job(context.run, _STAGE, units, job, engine=recipe.engine, at_once=1, **common)


def _name_generators(context: Context, jobs: Sequence[CandidateJob], captions: Iterable[Caption]) -> dict[str, str]:
    """Return the path of each generator's model, by the `generator` of its images."""
    units = ((job.name_unit(caption), job.settings.path) for caption in captions for job in jobs)
    drawn = join_in_order(units, lambda unit: unit[0], context.run.rows_by_unit(_STAGE, ["generator"]))
    return {row["generator"]: model for (_, model), rows in drawn for row in rows or ()}

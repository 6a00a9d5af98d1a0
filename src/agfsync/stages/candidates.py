"""Stage 3: N pictures for each caption, each from a seed and an embedding noise of its own (Eq. 1).

Where the pairs come from a pair set, its pictures are the candidates and none is drawn.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from agfsync import catalog
from agfsync.engine import Outcome, Unit, process
from agfsync.generators import Generator
from agfsync.pictures import encode
from agfsync.records import Candidate, Caption, digest, seed_of
from agfsync.stages import VERSIONS, Context, captions_to_draw, generator_source
from agfsync.stages.preferences import take_in

STAGE = "candidates"


def run(context: Context) -> Mapping[str, Any]:
    """Draw what is missing of `candidates.per_caption` pictures for each caption that makes pairs.

    Raises:
        ModelError: the generator can't be loaded. BudgetError: too many pictures of a pair set are broken.
    """
    recipe = context.recipe
    if recipe.pairs.source:
        return take_in(context, Path(recipe.pairs.source))
    settings, noise, count = (
        recipe.candidates.generator,
        recipe.candidates.embedding_noise,
        recipe.candidates.per_caption,
    )
    source = digest(STAGE, VERSIONS[STAGE], generator_source(settings), noise)
    units = [Unit(digest(source, recipe.seed, count, c.key), c) for c in captions_to_draw(context, "train")]

    @cache
    def generator() -> Generator:
        """Loaded when there is something to draw."""
        context.progress.say(f"{STAGE}: loading {settings.model}")
        made: Generator = catalog.build("generators", settings.model_dump())
        return made

    def work(captions: Sequence[Caption]) -> list[Outcome]:
        return [
            _draw(generator(), caption, seeds_of(caption, count, recipe.seed), noise, source) for caption in captions
        ]

    common = {"schema": Candidate.schema, "progress": context.progress, "budget": recipe.failure_budget}
    process(context.run, STAGE, units, work, batch=1, **common)
    context.run.select(STAGE, [unit.key for unit in units])
    return {"captions": len(units), "candidates": len(units) * count}


def seeds_of(caption: Caption, count: int, seed: int) -> list[int]:
    """The seeds of a caption's `count` pictures in a run of `seed`."""
    return [seed_of(seed, caption.key, index) for index in range(count)]


def _draw(generator: Generator, caption: Caption, seeds: Sequence[int], noise: float, source: str) -> list[Candidate]:
    """A caption's candidates, all in one batch."""
    images = generator.draw([caption.text] * len(seeds), seeds, noise)
    with ThreadPoolExecutor() as pool:
        files = list(pool.map(encode, images))
    return [
        Candidate(digest("candidate", source, caption.key, seed), caption.key, index, seed, generator.identity, file)
        for index, (seed, file) in enumerate(zip(seeds, files, strict=True))
    ]

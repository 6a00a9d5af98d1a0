"""Write a run's pairs in a third-party format: atomically, with a few images in memory."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from agfsync import __version__, catalog
from agfsync.errors import FormatError, RunError
from agfsync.files.atomic import store_errors
from agfsync.formats import Dataset, PairWriter, WrittenPair
from agfsync.formats.sources import find_formats
from agfsync.recipe import Captions, Questions, Recipe, load_recipe
from agfsync.records import Annotation, Candidate, Caption, Pair, Question
from agfsync.stages.annotating import ANNOTATIONS, ANNOTATORS
from agfsync.stages.context import GENERATORS
from agfsync.stages.selection import find_selectors, public_name
from agfsync.store import RECIPE, Run
from agfsync.store.manifest import Finished

_AT_ONCE = 4
"""pairs whose images are in memory"""


def export_pairs(path: Path, name: str, out: Path) -> Mapping[str, int]:
    """Write the pairs of the run at `path` into the new folder `out`; return the numbers of `pairs` and dropped `ties`.

    Raises:
        RecipeError: there is no format `name`.
        FormatError: the format can only be read, or `out` isn't empty.
        RunError: there is no run at `path`, or it has no pairs yet.
    """
    writer = catalog.find("formats", name)()
    if not isinstance(writer, PairWriter):
        raise FormatError(f"{name} can be read and not written: there are {', '.join(find_formats(PairWriter))}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FormatError(f"{out} holds something already: choose another --out")
    with Run.open(path) as run:
        finished, recipe = run.find_finished("pairs"), load_recipe(path / RECIPE)
        if recipe.training.method.needs == "nothing":
            raise RunError(f"{path} has no pairs: its method {recipe.training.method.type} needs none")
        if finished is None:
            raise RunError(f"{path} has no pairs yet: type `agfsync run` with --out {path}, then export again")
        out = out.resolve()
        partial = out.with_name(out.name + ".partial")
        with store_errors(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                counts = writer.write(_describe_dataset(run, recipe, finished), partial)
                # An empty folder `out` is replaced.
                partial.replace(out)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return counts


def _describe_dataset(run: Run, recipe: Recipe, finished: Finished) -> Dataset:
    # A pair set may not name the models of its images: then its own name is used.
    drawn_by = public_name(recipe.pairs.source or recipe.model.path)
    return Dataset(
        name=recipe.name,
        created=finished.ended,
        made_with=_describe_origin(recipe, finished),
        captions=run.read("captions", Caption),
        questions=run.read("questions", Question),
        pairs=_read_pairs(run, _name_models(run), drawn_by),
        selected_by=find_selectors(run, recipe),
        annotations=run.read(ANNOTATIONS, Annotation) if run.count(ANNOTATIONS) else None,
        agreement=_describe_agreement(run),
    )


def _describe_agreement(run: Run) -> dict[str, str]:
    """Return, for each aspect of the run's annotators, a text on the agreement of its replies."""
    finished = run.find_finished("scores")
    checks: Mapping[str, Any] = finished.notes.get(ANNOTATORS, {}) if finished else {}
    return {
        f"{name}.{aspect}": f"{figures['replies']:,} replies, {figures['refused']:,} refused;"
        f" {figures['contradicted']:,} of {figures['couples']:,} couples contradicted in another order;"
        f" {figures['rank_faults']:,} replies ranked against their scores"
        for name, each in checks.items()
        for aspect, figures in each["aspects"].items()
    }


def _describe_origin(recipe: Recipe, finished: Finished) -> dict[str, str]:
    given, models = recipe.pairs.source, [each.path for each in recipe.drawing_models]
    source, author = recipe.captions.source, public_name(_name_writer(recipe.questions))
    return {
        "captions": public_name(source or _name_writer(recipe.captions)),
        "questions": f"{public_name(source)} where it has any, else {author}" if source else author,
        "images": public_name(given) if given else ", ".join(map(public_name, models)),
        "preferred by": f"the pair set {public_name(given)}" if given else recipe.pairs.criterion,
        "program": f"agfsync {__version__}",
        "made": finished.ended,
    }


def _name_writer(settings: Captions | Questions) -> str:
    """Return a writer's name, or that of its language model."""
    model = settings.writer.language_model
    return model.path if model else settings.writer.type


def _name_models(run: Run) -> dict[str, str]:
    """Return each generator's model by the `generator` of its images; empty if a single generator drew them."""
    drawn = run.find_finished("candidates")
    named: Mapping[str, str] = drawn.notes.get(GENERATORS, {}) if drawn else {}
    return {generator: public_name(model) for generator, model in named.items()}


def _read_pairs(run: Run, models: Mapping[str, str], model: str) -> Iterator[WrittenPair]:
    """Yield every pair with its images; only texts and keys of all pairs are in memory.

    `models` has the models by `generator`; `model` is the default.
    """
    wanted = {row[side] for row in run.rows("pairs", ["winner_key", "loser_key"]) for side in row}
    units = {
        row["key"]: unit
        for unit, rows in run.rows_by_unit("candidates", ["key"])
        for row in rows
        if row["key"] in wanted
    }
    captions = {caption.key: caption for caption in run.read("captions", Caption)}
    of_caption = Counter(row["caption_key"] for row in run.rows("pairs", ["caption_key"]))
    if wanted - units.keys() or of_caption.keys() - captions.keys():
        raise RunError(
            f"{run.path}: its captions or images were regenerated since its pairs: type `agfsync run` with"
            f" --out {run.path}, then export again"
        )
    pairs = run.read("pairs", Pair)
    while batch := list(islice(pairs, _AT_ONCE)):
        batch_units = dict.fromkeys(units[key] for pair in batch for key in (pair.winner_key, pair.loser_key))
        images = {
            c.key: (c.image, models.get(c.generator, model)) for c in run.read("candidates", Candidate, [*batch_units])
        }
        for pair in batch:
            yield _join_pair(pair, captions[pair.caption_key], images, of_caption[pair.caption_key])


def _join_pair(pair: Pair, caption: Caption, images: Mapping[str, tuple[bytes, str]], of_prompt: int) -> WrittenPair:
    """Join a pair with its images; `images` has each image with the name of its model."""
    (winner, winner_model), (loser, loser_model) = images[pair.winner_key], images[pair.loser_key]
    return WrittenPair(
        key=pair.key,
        prompt=caption.text,
        category=caption.category,
        winner=winner,
        loser=loser,
        winner_key=pair.winner_key,
        loser_key=pair.loser_key,
        winner_score=pair.winner_score,
        loser_score=pair.loser_score,
        winner_model=winner_model,
        loser_model=loser_model,
        of_prompt=of_prompt,
        aspect=pair.aspect,
    )

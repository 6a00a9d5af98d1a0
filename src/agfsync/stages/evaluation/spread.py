"""Measures of image sets, which judges of single images can't give: diversity, and distance from real images.

Shapes: N images, M of a reference, K images a caption, E the embedding's width. Embeddings have length 1.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfsync import catalog
from agfsync.engine.batch_fitting import release_memory
from agfsync.errors import FormatError
from agfsync.files.images import BrokenImageError, decode_image
from agfsync.formats.image_folder import is_image_name
from agfsync.formats.paths import walk_files
from agfsync.records import Candidate, Caption, Comparison, derive_seed
from agfsync.scorers import ImageEmbedder
from agfsync.stages.context import Context
from agfsync.stages.evaluation.comparing import compute_figures
from agfsync.stages.spending import list_scorer_arguments
from agfsync.statistics import infer_mean
from agfsync.store.streams import iterate_batches

_BANDWIDTH, _SCALE = 10.0, 1000.0
"""CMMD's published constants: the kernel's sigma, and a factor for readable values."""
_ROWS = 1024
"""rows of the kernel matrix in memory at a time"""

Embeddings = NDArray[np.float64]
EmbeddedCaptions = Mapping[str, Mapping[str, Embeddings]]
"""Caption key -> "base" or "aligned" -> (K, E)."""


def measure_spread(context: Context, captions: Sequence[Caption], tables: Sequence[str]) -> dict[str, Any]:
    """Return the notes `diversity` and `cmmd` of the images in `tables`, as far as the recipe asks for them.

    They cover the captions with all of their images.

    Raises:
        ModelError: the embedding's model can't be loaded. FormatError: the reference has fewer than two images.
    """
    settings, name = context.recipe.evaluation, context.recipe.embedding
    if name is None:
        return {}
    context.progress.say(f"evaluation: loading {name} for its embeddings")
    embedder: ImageEmbedder = catalog.build("scorers", list_scorer_arguments(context.recipe.scorers[name], None))
    of_captions = _embed_captions(context, embedder, captions, tables)
    notes: dict[str, Any] = {}
    common = {"embedding": name, "per_caption": settings.per_caption}
    if settings.per_caption > 1 and of_captions:
        rows = [
            Comparison("", "", each.key, each.category, name, "", *_compute_both(of_captions[each.key]))
            for each in captions
            if each.key in of_captions
        ]
        seed = derive_seed(context.recipe.seed, "bootstrap", "diversity")
        notes["diversity"] = common | compute_figures(rows, settings.resamples, seed)
    if settings.reference is not None and of_captions:
        files = list_reference(Path(settings.reference))
        reference_ME = np.concatenate(list(_embed(embedder, _read_reference(files), settings.batch)))
        seed = derive_seed(context.recipe.seed, "bootstrap", "cmmd")
        base, aligned = ([of[model] for of in of_captions.values()] for model in ("base", "aligned"))
        compared = compare_cmmd(base, aligned, reference_ME, settings.resamples, seed)
        notes["cmmd"] = {"reference": len(reference_ME), **common, **compared}
    del embedder
    release_memory()
    return notes


def compute_diversity(embeddings_KE: Embeddings) -> float:
    """Return 100 x the mean of 1 - cosine over every two of K > 1 embeddings: 0 if all are equal.

    >>> compute_diversity(np.array([[1.0, 0.0], [0.0, 1.0]]))
    100.0
    """
    count = len(embeddings_KE)
    cosines = (float(np.square(embeddings_KE.sum(0)).sum()) - count) / (count * (count - 1))
    return 100 * (1 - cosines)


def average_kernel(of_NE: Embeddings, over_ME: Embeddings) -> NDArray[np.float64]:
    """Return each row's mean kernel exp(-|x - y|^2 / (2 sigma^2)) over the rows of `over_ME`, with sigma 10: (N,)."""
    norms_M = np.square(over_ME).sum(1)
    means = []
    for start in range(0, len(of_NE), _ROWS):
        block_NE = of_NE[start : start + _ROWS]
        squares_NM = np.square(block_NE).sum(1)[:, None] + norms_M - 2 * block_NE @ over_ME.T
        means.append(np.exp(-squares_NM / (2 * _BANDWIDTH**2)).mean(1))
    return np.concatenate(means)


def compute_cmmd(of_NE: Embeddings, reference_ME: Embeddings) -> float:
    """Return CMMD (arXiv:2401.09603): 1000 x the squared maximum mean discrepancy of two sets of embeddings.

    It is the biased estimate, which includes each image's kernel with itself, like the authors' code.
    """
    own, cross = average_kernel(of_NE, of_NE).mean(), average_kernel(of_NE, reference_ME).mean()
    return _SCALE * float(own + average_kernel(reference_ME, reference_ME).mean() - 2 * cross)


def compare_cmmd(
    base: Sequence[Embeddings], aligned: Sequence[Embeddings], reference_ME: Embeddings, resamples: int, seed: int
) -> dict[str, Any]:
    """Return the CMMD of `base` and of `aligned`, and their difference (aligned - base) with its 95 % interval.

    The interval is over captions. It follows from the influence function of CMMD, the mean over a caption's images of
    2000 x (mean kernel with the model's images - mean kernel with the reference).

    Args:
        base: the embeddings of each caption's images, (K, E).
        aligned: like base, of the same captions in the same order.
    """
    values, influence = [], []
    for of_captions in (base, aligned):
        of_NE = np.concatenate(of_captions)
        kernels_N = average_kernel(of_NE, of_NE) - average_kernel(of_NE, reference_ME)
        values.append(compute_cmmd(of_NE, reference_ME))
        influence.append(2 * _SCALE * kernels_N.reshape(len(of_captions), -1).mean(1))
    shifts_C, difference = influence[1] - influence[0], values[1] - values[0]
    low, high = infer_mean(difference + shifts_C - shifts_C.mean(), resamples, seed).interval or (None, None)
    figures = {"base": values[0], "aligned": values[1], "difference": difference, "low": low, "high": high}
    return {"prompts": len(base), **figures}


def list_reference(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders.

    Raises:
        FormatError: there are fewer than two.
    """
    files = [file for file in walk_files(folder) if is_image_name(file)] if folder.is_dir() else []
    if len(files) < 2:
        raise FormatError(f"evaluation.reference: {folder}: isn't a folder with two images or more")
    return files


def _compute_both(of: Mapping[str, Embeddings]) -> tuple[float, float]:
    return compute_diversity(of["base"]), compute_diversity(of["aligned"])


def _embed_captions(
    context: Context, embedder: ImageEmbedder, captions: Sequence[Caption], tables: Sequence[str]
) -> EmbeddedCaptions:
    wanted, count = {caption.key for caption in captions}, context.recipe.evaluation.per_caption
    drawn = (c for table in tables for c in context.run.read(table, Candidate) if c.caption_key in wanted)
    embeddings: dict[str, dict[str, list[Embeddings]]] = {}
    for batch in iterate_batches(drawn, context.recipe.evaluation.batch):
        embedded = np.concatenate(list(_embed(embedder, (decode_image(c.image) for c in batch), len(batch))))
        for each, embedding_E in zip(batch, embedded, strict=True):
            embeddings.setdefault(each.caption_key, {}).setdefault(each.generator, []).append(embedding_E)
    return {
        caption.key: {model: np.stack(rows) for model, rows in of.items()}
        for caption in captions
        if (of := embeddings.get(caption.key)) and all(len(of.get(model, ())) == count for model in ("base", "aligned"))
    }


def _embed(embedder: ImageEmbedder, images: Iterable[Any], size: int) -> Iterator[Embeddings]:
    for batch in iterate_batches(images, size):
        yield embedder.embed_images(batch).double().numpy()


def _read_reference(files: Sequence[Path]) -> Iterator[Any]:
    for file in files:
        try:
            yield decode_image(file.read_bytes())
        except (OSError, BrokenImageError) as failure:
            raise FormatError(f"evaluation.reference: {file}: {failure}") from failure

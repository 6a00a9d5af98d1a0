"""The data that a training method needs: encoded once, and kept in the run folder for a resume."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from agfsync import catalog
from agfsync.engine.batch_fitting import load_batch_fit
from agfsync.errors import RunError
from agfsync.files.images import decode_image
from agfsync.files.tensors import TensorSpool
from agfsync.recipe import Training
from agfsync.records import Caption, Pair
from agfsync.scorers import Scorer
from agfsync.stages.context import Context, digest_generator, read_captions_to_draw
from agfsync.stages.scored import read_scored_captions
from agfsync.stages.spending import Account, list_scorer_arguments
from agfsync.store.streams import iterate_batches
from agfsync.training import Conditioning, DiffusionModel, release_encoders
from agfsync.training.batches import LATENTS, NOISE, EncodedPairs, RatedImages
from agfsync.training.methods.rated import RatedMethod
from agfsync.training.objective import Method
from agfsync.training.prompts import PromptData
from agfsync.training.rewards import Rewards

_STAGE = "training"
ENCODED_AT_ONCE = 32
"""the most images or prompts in a batch, which is at most `training.batch / training.accumulate`"""

TrainingData = EncodedPairs | RatedImages | PromptData


@dataclass(frozen=True, slots=True)
class _EncodedImages:
    """Candidates in the order of drawing: their rows by key, latents (I, C, H, W), conditioning, captions and seeds."""

    rows: Mapping[str, int]
    latents_ICHW: Tensor
    image_conditioning: Conditioning
    captions: Sequence[str]
    seeds: Sequence[int]


@dataclass(frozen=True, slots=True)
class LoadedData:
    """The data of a training, and notes such as the number of captions without an image, by category."""

    data: TrainingData
    notes: Mapping[str, Any] = field(default_factory=dict)


def load_training_data(
    context: Context, model: DiffusionModel, method: Method, accounts: Mapping[str, Account]
) -> LoadedData:
    """Return the data that `method` trains on; afterwards the model's encoders are released.

    Raises:
        RunError: there are no pairs, or no images that the method trains on.
    """
    try:
        return _load_data(context, model, method, accounts)
    finally:
        release_encoders(model)


def _load_data(context: Context, model: DiffusionModel, method: Method, accounts: Mapping[str, Account]) -> LoadedData:
    if method.needs == "captions":
        return LoadedData(_load_prompts(context, model, accounts))
    cached = load_cached_data(context, method)
    if method.needs == "pairs":
        return LoadedData(cached or _encode_pairs(context, model))
    return _encode_rated(context, model, cast(RatedMethod, method), cached)


def load_cached_data(context: Context, method: Method) -> Any:
    """Return the encoded images in the run folder; None if there are none with the stage's digest."""
    kind = EncodedPairs if method.needs == "pairs" else RatedImages
    return kind.load(locate_cache(context), context.digest)


def locate_cache(context: Context) -> Path:
    """Return the path of the encoded images."""
    return context.run.path / _STAGE / "images.safetensors"


def count_images_at_once(training: Training) -> int:
    """Return the number of images to encode at a time: at most the pairs of one accumulation step."""
    return min(ENCODED_AT_ONCE, max(1, training.batch // training.accumulate))


def count_prompts_at_once(training: Training) -> int:
    """Return the number of prompts to encode at a time: fewer if gradients are accumulated to save memory."""
    return ENCODED_AT_ONCE if training.accumulate == 1 else count_images_at_once(training)


def _open_spool(context: Context) -> TensorSpool:
    """Return a spool on disk for encoded tensors, which may exceed the memory."""
    return TensorSpool(context.run.path / _STAGE)


def _load_prompts(context: Context, model: DiffusionModel, accounts: Mapping[str, Account]) -> PromptData:
    recipe = context.recipe
    captions = list(read_captions_to_draw(context, "train"))
    prompts = [each.caption.text for each in captions]
    return PromptData(
        prompts,
        [each.questions for each in captions],
        _encode_prompts(context, model, prompts),
        _encode_prompts(context, model, [recipe.model.sampling.negative_prompt]),
        make_rewards(context, recipe.reward_weights, accounts),
    )


def make_rewards(context: Context, weights: Mapping[str, float], accounts: Mapping[str, Account]) -> Rewards:
    """Return the rewards by the scorers of `weights`, which are loaded when the first image is scored."""

    def load(name: str) -> Scorer:
        context.progress.say(f"{_STAGE}: loading {name}")
        settings = context.recipe.scorers[name]
        scorer: Scorer = catalog.build("scorers", list_scorer_arguments(settings, accounts.get(name)))
        return scorer

    return Rewards(weights, load)


def _encode_pairs(context: Context, model: DiffusionModel) -> EncodedPairs:
    """Encode the images and the captions of the pairs."""
    pairs = list(context.run.read("pairs", Pair))
    if not pairs:
        raise RunError(f"{context.run.path} has no pairs to train on: see pairs.choose and captions.count")
    texts = _read_texts(context)
    images = _encode_images(context, model, {key for pair in pairs for key in (pair.winner_key, pair.loser_key)})
    prompts = {text: row for row, text in enumerate(dict.fromkeys(texts[pair.caption_key] for pair in pairs))}
    conditioning = _encode_with_empty(context, model, prompts)
    encoded = EncodedPairs(
        images.latents_ICHW,
        conditioning,
        winner_P=torch.tensor([images.rows[pair.winner_key] for pair in pairs]),
        loser_P=torch.tensor([images.rows[pair.loser_key] for pair in pairs]),
        prompt_P=torch.tensor([prompts[texts[pair.caption_key]] for pair in pairs]),
        image_conditioning=images.image_conditioning,
        margin_P=torch.tensor([float(pair.margin) for pair in pairs]),
        noise_ICHW=_draw_noise(context, model, images, conditioning),
    )
    # The cache is memory-mapped too; the spool's files are deleted along with their tensors.
    return encoded.save(locate_cache(context), context.digest)


def _encode_rated(
    context: Context, model: DiffusionModel, method: RatedMethod, cached: RatedImages | None
) -> LoadedData:
    """Rate the candidates of each caption, and encode those that the method trains on."""
    recipe = context.recipe
    categories = {caption.key: caption.category for caption in context.run.read("captions", Caption)}
    ratings: dict[str, float] = {}
    unrated: Counter[str] = Counter()
    for scored in read_scored_captions(context.run, recipe.candidate_scores, recipe.pairs.share):
        rated = method.rate(scored.values)
        ratings |= rated
        if not rated:
            unrated[categories[scored.caption_key]] += 1
    if not ratings:
        raise RunError(
            f"{context.run.path} has no candidate to train on: training.method {recipe.training.method.type} left out "
            f"all of {unrated.total()} captions"
        )
    notes = {"captions_without_image": dict(unrated)}
    if cached is not None:
        return LoadedData(cached, notes)
    texts = _read_texts(context)
    images = _encode_images(context, model, set(ratings))
    prompts = {text: row for row, text in enumerate(dict.fromkeys(texts[caption] for caption in images.captions))}
    conditioning = _encode_with_empty(context, model, prompts)
    encoded = RatedImages(
        images.latents_ICHW,
        conditioning,
        prompt_I=torch.tensor([prompts[texts[caption]] for caption in images.captions]),
        rating_I=torch.tensor([ratings[key] for key in images.rows]),
        image_conditioning=images.image_conditioning,
        noise_ICHW=_draw_noise(context, model, images, conditioning),
    )
    return LoadedData(encoded.save(locate_cache(context), context.digest), notes)


def _read_texts(context: Context) -> dict[str, str]:
    return {caption.key: caption.text for caption in context.run.read("captions", Caption)}


def _draw_noise(context: Context, model: Any, images: _EncodedImages, conditioning: Conditioning) -> Tensor | None:
    """Redraw the starting noise of every image, if the training uses it."""
    if context.recipe.training.noise != "tracked":
        return None
    spool = _open_spool(context)
    for seeds in iterate_batches(images.seeds, ENCODED_AT_ONCE):
        spool.append({NOISE: model.draw_starting_noise(seeds, conditioning)})
    return spool.finish()[NOISE]


def _encode_images(context: Context, model: DiffusionModel, wanted: set[str]) -> _EncodedImages:
    """Encode the candidates `wanted`, on the CPU."""
    title, at_once = f"{_STAGE}: encoding", count_images_at_once(context.recipe.training)
    source = digest_generator(context.recipe.model)
    fit = load_batch_fit(context.run.path, title, source, at_once, context.progress)
    kept: list[Mapping[str, Any]] = []

    def encode(images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {LATENTS: model.encode_images(images), **model.image_conditioning(images)}

    columns = ["key", "caption_key", "seed", "image"]
    candidates = (row for row in context.run.rows("candidates", columns) if row["key"] in wanted)
    spool = _open_spool(context)
    with context.progress.stage(title, len(wanted), "images") as task:
        for rows in iterate_batches(candidates, at_once):
            kept += [{name: row[name] for name in columns[:-1]} for row in rows]
            for tensors in fit.batches([decode_image(row["image"]["bytes"]) for row in rows], encode):
                spool.append(tensors)
                task.advance(len(tensors[LATENTS]))
    encoded = spool.finish()
    release_encoders(model)  # the VAE: the text encoders are next
    rows_by_key = {row["key"]: place for place, row in enumerate(kept)}
    captions, seeds = ([row[name] for row in kept] for name in ("caption_key", "seed"))
    return _EncodedImages(rows_by_key, encoded.pop(LATENTS), encoded, captions, seeds)


def _encode_with_empty(context: Context, model: DiffusionModel, prompts: Mapping[str, int]) -> Conditioning:
    """Return the conditioning of `prompts`, and of the empty prompt in the last row if captions are dropped."""
    empty = [""] if context.recipe.training.caption_dropout else []
    return _encode_prompts(context, model, [*prompts, *empty])


def _encode_prompts(context: Context, model: DiffusionModel, prompts: Sequence[str]) -> Conditioning:
    """Return each prompt's conditioning, on the CPU."""
    spool = _open_spool(context)
    for texts in iterate_batches(prompts, count_prompts_at_once(context.recipe.training)):
        spool.append(model.encode_prompts(texts))
    return spool.finish()

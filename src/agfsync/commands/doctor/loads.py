"""Estimates of drawing, training and judging with a model: memory, operations, and bytes on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf, nan
from typing import Any

import torch
from torch import Tensor, nn

from agfsync import catalog
from agfsync.commands.doctor import machine
from agfsync.commands.doctor.networks import Pipeline
from agfsync.models.architecture import ATTENTION
from agfsync.models.counting import (
    DATALESS,
    SLACK,
    Operations,
    build_network,
    count_bytes,
    count_operations,
    make_dataless,
)
from agfsync.models.dtypes import DTYPES
from agfsync.models.published import Config, UnknownModel, read_config
from agfsync.models.quantization import count_saved_bytes
from agfsync.recipe import ModelSettings, ScorerSettings, Training
from agfsync.recipe.models import TransformerSettings
from agfsync.recipe.online import OnlineSettings
from agfsync.scorers.answering import fill_template
from agfsync.scorers.hpsv3 import IMAGE_TOKENS
from agfsync.scorers.reward_networks.blip_head import MOST_TOKENS as IMAGEREWARD_TOKENS
from agfsync.scorers.vqa import QUESTIONS_AT_ONCE
from agfsync.stages.training_data import count_images_at_once, count_prompts_at_once
from agfsync.training.checkpoints import KEPT
from agfsync.training.lora import adapters_off, add_adapters
from agfsync.training.precision import ROUNDED, autocast, use_trainable_attention
from agfsync.training.reference import MULTIPLIED
from agfsync.training.sharding import list_blocks

_CPU = torch.device("cpu")
DECODING = 1.4
"""factor on the bytes of a VAE's activations, since cuDNN copies a convolution's input and output (on an H100)"""
MOMENTS = {"adamw": 8, "adamw8bit": 2}
"""optimizer -> bytes for each trained weight"""
QUESTION_TOKENS, _TOKEN_CHARACTERS = 17, 4
"""tokens of a question: the paper's have 8 words of at most two tokens; characters of a token of its template"""
VLM_IMAGE_TOKENS, PROMPT_TOKENS, ASKING_TOKENS = 1024, 40, 10
"""tokens of an image of 1024 x 1024 pixels for Qwen3-VL, of a prompt, and of the text around a question"""

Works = list[tuple[Operations, float]]  # operations and their repetitions


@dataclass(frozen=True, slots=True)
class Load:
    """The needs of a model for a batch, or for a whole training: operations, and bytes of memory including weights."""

    works: Works
    memory: float
    pixels: tuple[int, int] = (0, 0)
    """height and width of the images"""
    encoded: float = 0.0
    """bytes of the pairs' latents and conditioning on disk"""
    kept: float = 0.0
    """bytes of the checkpoints and of the trained model"""
    shared: float = 0.0
    """bytes of memory that a sharded training splits over its processes"""

    def estimate_shard_memory(self, processes: int) -> float:
        """Return the bytes of memory in each of `processes` of a sharded training."""
        return self.memory - self.shared * (1 - 1 / processes)

    def estimate_seconds(self, device: str | None) -> float:
        """Return the seconds on `device`; NaN without a device."""
        speed = machine.measure_speed(device) if device else None
        return sum(speed.seconds(work) * times for work, times in self.works) if speed else nan


@cache
def estimate_drawing(settings: ModelSettings, on_cpu: bool, images: int, prompts: int) -> Load:
    """Estimate a batch of `images` of `prompts` different prompts.

    Raises:
        UnknownModel: the generator, or its refiner, is not known.
    """
    # On a CPU the weights stay float32, and autocast rounds the multiplications.
    dtype = torch.float32 if on_cpu else DTYPES[settings.dtype]
    rounded = partial(autocast, _CPU, settings.dtype if on_cpu else "fp32")
    rows = images * (2 if _is_classifier_free(settings) else 1)

    def choose_dtype(name: str, config: Config) -> torch.dtype:
        # Stable Diffusion 1 and 2 have the flag, too, but don't need it.
        is_xl_vae = name == "vae" and settings.type == "stable-diffusion-xl"
        return torch.float32 if is_xl_vae and dtype == torch.float16 and config.get("force_upcast", True) else dtype

    pipeline = Pipeline.build(settings, choose_dtype)
    saved, steps = count_saved_bytes(pipeline.denoiser, settings.quantization), settings.sampling.steps
    weights = pipeline.count_bytes() - saved
    at_once = min(images, pipeline.most_at_once)
    with torch.no_grad():
        read = count_operations(lambda: pipeline.read_prompts(prompts + 1))
        works = [(read, 1.0)]
        with rounded():
            if settings.refining:
                origin = ModelSettings(path=settings.refining.path, revision=settings.refining.revision)
                refiner, steps = Pipeline.build(origin, choose_dtype), min(settings.refining.from_step, steps)
                del refiner.networks["vae"]
                weights += refiner.count_bytes()
                refine = count_operations(refiner.prepare_denoising(rows, pipeline.latent))
                works.append((refine, float(settings.sampling.steps - steps)))
            step = count_operations(pipeline.prepare_denoising(rows))
            works.append((step, float(steps)))
            decode = count_operations(lambda: pipeline.decode(at_once))
    if not on_cpu:
        decode = replace(decode, peak=DECODING * decode.peak)
    works.append((decode, images / at_once))
    memory = weights + max(work.memory for work, _ in works)
    if settings.offload and not on_cpu:
        texts, denoiser = sum(map(count_bytes, pipeline.text_encoders)), count_bytes(pipeline.denoiser) - saved
        turns = ((texts, read), (denoiser, step), (count_bytes(pipeline.vae), decode))
        staying = weights + saved - pipeline.count_bytes()  # a refiner
        memory = staying + max(of_turn + work.memory for of_turn, work in turns)
    return Load(works, memory, pipeline.pixels)


def _is_classifier_free(settings: ModelSettings) -> bool:
    """Return True if each sampling step has a second prediction, without the prompt."""
    none = {"flux": inf, "z-image": 0.0}  # flux has distilled guidance, and z-image's starts at 0
    return settings.sampling.guidance > none.get(settings.type, 1.0)


@dataclass(frozen=True, slots=True)
class Passes:
    """The passes through the denoiser in a training step: `count` with a gradient, each of `rows` rows.

    Before each of them, `references` passes without a gradient have as many rows.
    """

    rows: int
    count: float
    references: int


def count_passes(settings: ModelSettings, training: Training) -> Passes:
    """Return the passes of a training step, in which each image of a pair is a row.

    An online method trains on several rows for each image that it draws; with guidance each has an unprompted half.
    """
    part = count_part(training)
    if not isinstance(training.method, OnlineSettings):
        return Passes(2 * part, float(training.accumulate), 1)
    method: Any = training.method
    sampled = set_sampling(settings, training)
    rows = training.batch * method.group * method.count_rows(sampled.sampling.steps)
    return Passes(part * (2 if _is_classifier_free(sampled) else 1), rows / part, method.count_references())


def count_part(training: Training) -> int:
    """Return the number of pairs or images in a part of a training step."""
    return max(1, -(-training.batch // training.accumulate))


def set_sampling(settings: ModelSettings, training: Training) -> ModelSettings:
    """Return the generator's settings with the sampling and the precision of an online method."""
    method: Any = training.method
    guidance = settings.sampling.guidance if method.guidance is None else method.guidance
    changes = {"steps": method.steps or settings.sampling.steps, "guidance": guidance}
    sampling = settings.sampling.model_copy(update=changes)
    return settings.model_copy(update={"sampling": sampling, "dtype": training.precision})


def estimate_training(settings: ModelSettings, training: Training, on_cpu: bool, pairs: int) -> Load:
    """Estimate the whole training of a generator's denoiser: encoding images, then prompts, then the steps.

    In memory are the denoiser and the VAE, then the denoiser and the text encoders, then the denoiser alone. An online
    method has no images to encode; it draws some in each step, for which the VAE stays in memory.

    Raises:
        UnknownModel: the generator is not known.
    """
    online: Any = training.method if isinstance(training.method, OnlineSettings) else None
    is_whole = isinstance(settings, TransformerSettings) or settings.quantization is not None
    is_rounded = is_whole and training.lora is not None and not on_cpu
    dtype = DTYPES[training.precision] if is_rounded else torch.float32
    pipeline = Pipeline.build(settings, lambda *_: dtype)
    vae, denoiser = pipeline.vae, pipeline.denoiser
    saved = count_saved_bytes(denoiser, settings.quantization)
    encoded, texts = min(count_images_at_once(training), pipeline.most_at_once), count_prompts_at_once(training)
    for network in pipeline.networks.values():
        network.requires_grad_(False)
    with torch.no_grad():
        encode = count_operations(lambda: pipeline.encode(encoded))
        read = count_operations(lambda: pipeline.read_prompts(texts))
    reading = sum(map(count_bytes, pipeline.text_encoders)) + read.memory
    encoding = count_bytes(denoiser) - saved + max(count_bytes(vae) + encode.memory, reading)
    copy = _make_trainable(denoiser, settings, training)
    frozen = 0.0 if online and not online.kl else copy
    trained = sum(each.numel() for each in denoiser.parameters() if each.requires_grad)
    if training.fsdp:
        _drop_gradients(denoiser)
    passes = count_passes(settings, training)
    call = pipeline.prepare_denoising(passes.rows)

    def take_step() -> None:
        """Predict with the reference and with the network, and backpropagate through the latter."""
        with torch.no_grad(), adapters_off(denoiser), autocast(_CPU, training.precision):
            for _ in range(passes.references):
                call()
        with autocast(_CPU, training.precision):
            predicted = call()
        predicted.float().square().mean().backward()

    with use_trainable_attention(_CPU if on_cpu else torch.device("cuda")):
        step = count_operations(take_step)
    held = count_bytes(denoiser) - saved + frozen
    copies = int(training.ema is not None) + (online.weight_copies if online else 0)
    state = trained * (MOMENTS[training.optimizer] + 4.0 * copies)
    # With accumulation, the activations of one part are kept in addition to the summed gradients.
    gradients = 4.0 * trained if training.accumulate > 1 or training.fsdp else 0.0
    if training.fsdp:
        # The accelerator holds shards of the network, except for one gathered block and the next.
        encoding -= 0 if on_cpu else count_bytes(denoiser)
        step.peak += 2 * max(map(count_bytes, list_blocks(denoiser)), default=count_bytes(denoiser)) / SLACK
    update = Operations(moved=trained * (20.0 + 2 * MOMENTS[training.optimizer]))
    latents = 0 if online else 2 * torch.Size(pipeline.latent).numel()
    works: Works = [(read, pairs / texts), (step, training.steps * passes.count), (update, float(training.steps))]
    working = step.memory + gradients
    if online:
        drawn = estimate_drawing(set_sampling(settings, training), on_cpu, count_part(training), 1)
        times = training.steps * training.batch * online.group / count_part(training)
        works += [(work, count * times) for work, count in drawn.works[1:]]
        encoding = count_bytes(denoiser) - saved + reading
        working = count_bytes(vae) + max(working, drawn.works[-1][0].memory)
    else:
        works.append((encode, 2 * pairs / encoded))
    return Load(
        works=works,
        memory=max(encoding, held + working + state),
        # Each process has all buffers of the network and of the copy.
        shared=held - 2 * (count_bytes(denoiser) - 4.0 * trained) + gradients + state if training.fsdp else 0.0,
        encoded=4.0 * pairs * (latents + pipeline.count_conditioning()),
        kept=(KEPT + 1) * (4.0 * trained + state) + (8.0 * trained if training.lora else pipeline.count_bytes()),
    )


def _make_trainable(network: Any, settings: ModelSettings, training: Training) -> float:
    """Make the denoiser trainable; return the bytes of the frozen copy of it that full fine-tuning needs."""
    if training.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    if (lora := training.lora) is not None:
        add_adapters(network, lora.rank, lora.rank, 0, _find_adapter_targets(settings))
        make_dataless(network)
        _round_frozen_layers(network, training.precision)
        return 0.0
    network.requires_grad_(True)
    rounded = [m for m in network.modules() if isinstance(m, MULTIPLIED)] if training.precision in ROUNDED else []
    return count_bytes(network) - sum(map(count_bytes, rounded)) / 2


def _drop_gradients(network: nn.Module) -> None:
    """Free each gradient once it is accumulated: afterwards a process keeps only its shard of it."""

    def drop(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop)


def _round_frozen_layers(network: Any, precision: str) -> None:
    """Like `round_frozen_layers`, but for weights without data, whose dtype can't be changed in place."""
    for layer in network.modules() if precision in ROUNDED else ():
        if isinstance(layer, MULTIPLIED) and not any(p.requires_grad for p in layer.parameters()):
            for name, weights in layer.named_parameters(recurse=False):
                with DATALESS:
                    rounded = torch.empty(weights.shape, dtype=ROUNDED[precision])
                layer._parameters[name] = nn.Parameter(rounded, requires_grad=False)


def _find_adapter_targets(settings: ModelSettings) -> Sequence[str]:
    """Return the layers that a LoRA adapts in the type's architecture."""
    described = (*getattr(catalog.find("models", settings.type), "args", ()), None)[0]
    found: Sequence[str] = getattr(getattr(described, "architecture", described), "adapter_targets", ATTENTION)
    return found


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """A batch of images to judge: their number, the number of different prompts, and the questions on each image."""

    images: int
    prompts: float
    questions: float


@cache
def estimate_judging(settings: ScorerSettings, batch: ImageBatch) -> Load:
    """Estimate the scoring of a batch of images by one judge.

    Raises:
        UnknownModel: the judge's type or model is unknown.
    """
    if settings.type not in JUDGES:
        raise UnknownModel(f"what a {settings.type} scorer takes isn't known")
    config = read_config(settings.path, settings.revision)
    with torch.no_grad():
        networks, works = JUDGES[settings.type](config, batch, DTYPES[settings.dtype])
    return Load(works, sum(map(count_bytes, networks)) + max(work.memory for work, _ in works))


def _judge_by_clip(config: Config, batch: ImageBatch, dtype: torch.dtype) -> tuple[list[nn.Module], Works]:
    """CLIP and SigLIP: each image and each different prompt once."""
    from agfsync.scorers.backbone import FAMILIES

    model: Any = _build_judge(FAMILIES, {"model_type": "clip", **config}, dtype)
    tokens = _make_tokens(1, model.config.text_config.max_position_embeddings)
    see = count_operations(lambda: model.vision_model(_make_pixels(model.config.vision_config, batch.images, dtype)))
    return [model], [(see, 1.0), (count_operations(lambda: model.text_model(tokens)), batch.prompts)]


def _judge_by_vqa(config: Config, batch: ImageBatch, dtype: torch.dtype) -> tuple[list[nn.Module], Works]:
    """BLIP-2 or BLIP: an image's features once, then an encoding and a first token for each question."""
    from transformers import Blip2ForConditionalGeneration, BlipForQuestionAnswering

    from agfsync.scorers.vqa import _Blip, _Blip2

    kinds = {"blip-2": Blip2ForConditionalGeneration, "blip": BlipForQuestionAnswering}
    model: Any = _build_judge(kinds, config, dtype)
    reader: Any = (_Blip2 if config["model_type"] == "blip-2" else _Blip)(model)
    questions = max(1, min(QUESTIONS_AT_ONCE, round(batch.images * batch.questions)))
    length = QUESTION_TOKENS + len(fill_template(reader.template, "")) // _TOKEN_CHARACTERS
    vision, asked = model.config.vision_config, _make_tokens(questions, length)
    with DATALESS:
        features = reader.encode(_make_pixels(vision, 1, dtype))
        shown = features.expand(questions, *features.shape[1:])
    see = count_operations(lambda: reader.encode(_make_pixels(vision, batch.images, dtype)))
    inputs = (shown, asked, torch.ones_like(asked), asked[:, :0])
    ask = count_operations(lambda: reader.logits(*inputs))
    return [model], [(see, 1.0), (ask, batch.images * batch.questions / questions)]


def _judge_by_imagereward(config: Config, batch: ImageBatch, dtype: torch.dtype) -> tuple[list[nn.Module], Works]:
    """BLIP's vision tower, and its text encoder, which attends to the image's features."""
    from transformers import BlipConfig, BlipTextModel, BlipVisionModel

    both: Any = BlipConfig.from_dict(dict(config))
    vision = build_network(BlipVisionModel, both.vision_config.to_dict(), dtype)
    text = build_network(BlipTextModel, both.text_config.to_dict(), dtype)
    with DATALESS:
        pixels = _make_pixels(both.vision_config, batch.images, dtype)
        features, tokens = vision(pixels).last_hidden_state, _make_tokens(batch.images, IMAGEREWARD_TOKENS)
    read = count_operations(lambda: text(input_ids=tokens, encoder_hidden_states=features))
    return [vision, text], [(count_operations(lambda: vision(pixels)), 1.0), (read, 1.0)]


def _judge_by_decoder(
    config: Config,
    batch: ImageBatch,
    dtype: torch.dtype,
    *,
    words: int,
    image_tokens: int = VLM_IMAGE_TOKENS,
    replied: int = 0,
    at_once: int = 1,
) -> tuple[list[nn.Module], Works]:
    """Estimate a vision-language model: its linear layers for each token of image and text, without attention products.

    Args:
        words: tokens of the text on an image, over all its questions.
        image_tokens: tokens of an image.
        replied: tokens of a reply; each of them reads all weights.
        at_once: images that the model reads together.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    try:
        settings: Any = AutoConfig.for_model(**config)
        kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(settings)]
    except (KeyError, ValueError) as failure:
        raise UnknownModel(f"a {config.get('model_type')} model isn't known") from failure
    model = build_network(kind, config, dtype)
    layers = {name: each.weight for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    seeing = sum(each.numel() for name, each in layers.items() if "vis" in name)
    reading = sum(each.numel() for name, each in layers.items() if "vis" not in name and "lm_head" not in name)
    merged = getattr(settings.vision_config, "spatial_merge_size", 1) ** 2
    tokens = image_tokens * (merged * seeing + reading) + (words + replied) * reading
    held = 4.0 * dtype.itemsize * (image_tokens + words) * settings.get_text_config().intermediate_size
    moved = count_bytes(model) * (1.0 + replied)
    look = Operations({dtype: 2.0 * at_once * tokens}, moved=moved, peak=at_once * held)
    return [model], [(look, batch.images / at_once)]


def _judge_by_vlm(config: Config, batch: ImageBatch, dtype: torch.dtype) -> tuple[list[nn.Module], Works]:
    """Estimate each image with all its questions, which follow it in the decoder."""
    return _judge_by_decoder(config, batch, dtype, words=round(batch.questions * (QUESTION_TOKENS + ASKING_TOKENS)))


def _judge_by_hpsv3(config: Config, batch: ImageBatch, dtype: torch.dtype) -> tuple[list[nn.Module], Works]:
    """Estimate a batch of small images, each with the instructions and its prompt."""
    words = 560 + PROMPT_TOKENS
    return _judge_by_decoder(config, batch, dtype, words=words, image_tokens=IMAGE_TOKENS, at_once=batch.images)


def _build_judge(kinds: Mapping[str, Any], config: Config, dtype: torch.dtype) -> nn.Module:
    family = str(config.get("model_type"))
    if family not in kinds:
        raise UnknownModel(f"a {family} model isn't known")
    return build_network(kinds[family], config, dtype)


def _make_pixels(vision: Any, images: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(images, 3, vision.image_size, vision.image_size, dtype=dtype)


def _make_tokens(rows: int, length: int) -> Tensor:
    with DATALESS:
        return torch.zeros(rows, length, dtype=torch.int64)


CLIP_FAMILY = ("clip", "aesthetic", "pickscore", "hpsv2", "hpsv2.1")
"""types that share a model and its embeddings if their settings are equal"""
JUDGES: Mapping[str, Callable[..., tuple[list[nn.Module], Works]]] = {
    **dict.fromkeys(CLIP_FAMILY, _judge_by_clip),
    "vqa": _judge_by_vqa,
    "imagereward": _judge_by_imagereward,
    "vlm": _judge_by_vlm,
    "vqascore": partial(_judge_by_decoder, words=2 * PROMPT_TOKENS),
    "hpsv3": _judge_by_hpsv3,
    "unifiedreward": partial(_judge_by_decoder, words=180 + PROMPT_TOKENS, replied=60),
}
"""types of the catalog whose networks are known"""

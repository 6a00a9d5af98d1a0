"""Checks of a pipeline's configuration before an image is drawn: the only list of supported keys.

A key is either applied, mostly by diffusers' networks, or refused with a message of one line: because it needs inputs
other than text, or because diffusers' own pipeline can't draw with it.

Legend: C latent channels.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agfsync.errors import ModelError, model_errors
from agfsync.models.architecture import size_in_latents
from agfsync.models.files import CONFIG, INDEX
from agfsync.models.sampling import find_schedule_obstacle, make_scheduler

SCHEDULER = "scheduler/scheduler_config.json"
VAES = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL")
"""supported VAEs: they decode latents deterministically"""
UNETS = ("UNet2DConditionModel",)
ENCODER_PROJECTIONS = (None, "text_proj")
"""the values of `encoder_hid_dim_type` that need only text"""
TEXT_EMBEDDINGS = {"stable-diffusion": (None, "text"), "stable-diffusion-xl": ("text_time",)}
"""the supported values of `addition_embed_type`, by the type of the model"""
_SIZES = 6
"""how many time ids SDXL takes (an image's sizes and crop); its refiner takes five"""
CLASS_EMBEDDINGS = ("timestep", "identity", "projection", "simple_projection")
"""the values of `class_embed_type` that need a class; diffusers ignores others"""
LEARNED = ("learned", "learned_range")
"""the values of a scheduler's `variance_type` for which the network also predicts a variance"""
CONFIGURED = ("vae", "unet", "transformer", "text_encoder", "scheduler")
"""prefixes of the names of the parts that have a configuration file"""
REFINER_TYPE = "the refiner of stable-diffusion-xl"
REFINED = ("stable-diffusion-xl",)
"""the types that may have a refiner"""
CROSS_ATTENTION = ("CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D")
"""the blocks of Stable Diffusion 1.x and 2.x that have cross-attention: down, middle, up"""
STEERED = ("stable-diffusion",)
"""the types with a sampler that training-free methods can steer"""
IMAGE_PROCESSOR = "Processor"
"""suffix of the classes that process images and texts; only the tokenizer of such a part is loaded"""
FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, slots=True)
class FlowType:
    """A type that predicts a flow: its pipeline in diffusers, and the classes of its parts."""

    pipeline: str
    patch: int = 1
    """how many latents of the VAE are one token of the network"""
    vaes: Sequence[str] = VAES
    schedulers: Sequence[str] = (FLOW_SCHEDULER,)
    chooses_attention: bool = True
    """False if diffusers' network has no choice of attention backends"""
    masks_text: bool = False
    """True if its attention takes a mask for prompts of different lengths"""


FLOWS = {
    "stable-diffusion-3": FlowType("StableDiffusion3Pipeline", chooses_attention=False),
    "flux": FlowType("FluxPipeline", 4),
    "flux2": FlowType("Flux2Pipeline", 4, ("AutoencoderKLFlux2",)),
    "flux2-klein": FlowType("Flux2KleinPipeline", 4, ("AutoencoderKLFlux2",)),
    "qwen-image": FlowType("QwenImagePipeline", 4, ("AutoencoderKLQwenImage",), masks_text=True),
    "z-image": FlowType("ZImagePipeline", masks_text=True),
    "sana": FlowType("SanaPipeline", 1, ("AutoencoderDC",), (FLOW_SCHEDULER, "DPMSolverMultistepScheduler"), False),
}
PIPELINES = {
    "stable-diffusion": "StableDiffusionPipeline",
    "stable-diffusion-xl": "StableDiffusionXLPipeline",
    **{name: flow.pipeline for name, flow in FLOWS.items()},
}


@dataclass(frozen=True, slots=True)
class PipelinePart:
    """A part of a pipeline: its class, and its configuration including the defaults of the class."""

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Return the value of `key`; None if it is missing."""
        return self.config.get(key)


PipelineParts = Mapping[str, PipelinePart]
"""Name in the pipeline -> part; parts that the pipeline was saved without are missing."""


def parts_of(pipeline: Any) -> PipelineParts:
    """Return the parts of a loaded pipeline."""
    found = {name: part for name, part in pipeline.components.items() if part is not None}
    return {name: PipelinePart(type(part).__name__, _config_of(part)) for name, part in found.items()}


def _config_of(part: Any) -> Mapping[str, Any]:
    config = getattr(part, "config", None)
    if config is None:
        return {}
    return dict(config) if isinstance(config, Mapping) else dict(config.to_dict())


def read_parts(read: Callable[[str], Mapping[str, Any] | None]) -> PipelineParts:
    """Return the parts of a pipeline, from its configuration files; none if one of the files isn't available.

    `read` returns a file by its name, or None if it isn't available.
    """
    index = read(INDEX) or {}
    listed = {name: each for name, each in index.items() if isinstance(each, list) and len(each) == 2}
    parts: dict[str, PipelinePart] = {}
    for name, (library, kind) in listed.items():
        if not kind:
            continue
        config = read(SCHEDULER if name == "scheduler" else f"{name}/{CONFIG}")
        if config is None and name.startswith(CONFIGURED):
            return {}
        parts[name] = PipelinePart(str(kind), {**_find_defaults(library, kind), **(config or {})})
    return parts


def _find_defaults(library: str, kind: str) -> dict[str, Any]:
    """Return the defaults of a class of diffusers or transformers, for keys that are missing in a file."""
    # An image processor has no defaults, and requires torchvision on access.
    found = None if kind.endswith(IMAGE_PROCESSOR) else find_class(library, kind)
    if found is None:
        return {}
    if library == "transformers":
        made_of = getattr(found, "config_class", None)
        return dict(made_of().to_dict()) if made_of is not None else {}
    parameters = inspect.signature(found.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def find_class(library: str, kind: str) -> Any:
    """Return the class `kind` of diffusers or transformers; None if there is no such class."""
    import diffusers
    import transformers

    return getattr({"diffusers": diffusers, "transformers": transformers}.get(library), kind, None)


def check_choices(
    type_: str, scheduler: str = "model", refiner: str | None = None, attention: str | None = None
) -> None:
    """Check that models of the type `type_` support this scheduler, this refiner and a choice of attention.

    Raises:
        ModelError: they don't.
    """
    if type_ in FLOWS and scheduler != "model":
        raise ModelError(
            f"a model of the type {type_} draws with the scheduler that it was saved with: "
            f"set its scheduler to model, not {scheduler}"
        )
    if refiner is not None and type_ not in REFINED:
        raise ModelError(f"a model of the type {type_} has no refiner: leave out {refiner}")
    choosing = [name for name, flow in FLOWS.items() if flow.chooses_attention]
    if attention is not None and type_ not in choosing:
        raise ModelError(
            f"a model of the type {type_} has no choice of attention in diffusers, as {', '.join(choosing)} have: "
            f"leave out attention {attention}"
        )


def check_parts(type_: str, parts: PipelineParts, clip_skip: int | None = None) -> None:
    """Check that every key of a pipeline's configuration is supported for models of the type `type_`.

    Raises:
        ModelError: a key isn't supported; the message names the part, the key and its value.
    """
    for fault in _find_faults(type_, parts, clip_skip):
        raise ModelError(f"this model can't be drawn with as {type_}: {fault}")


def check_files(
    type_: str,
    read: Callable[[str], Mapping[str, Any] | None],
    *,
    steps: int,
    scheduler: str = "model",
    clip_skip: int | None = None,
    sized: bool = False,
) -> str | None:
    """Check from its configuration files alone that a model can draw; return why it can't be trained, or None.

    `sized` is True if the recipe gives height and width.

    Raises:
        ModelError: the model can't draw.
    """
    parts, found = read_parts(read), (read(INDEX) or {}).get("_class_name")
    if not parts:
        return None
    if type_ in PIPELINES and found != PIPELINES[type_]:
        raise ModelError(f"the model is a {found}: the type {type_} needs a {PIPELINES[type_]}")
    check_parts(type_, parts, clip_skip)
    if type_ not in TEXT_EMBEDDINGS:
        return None
    if not sized and size_in_latents(parts["unet"].get("sample_size")) is None:
        raise ModelError("the generator's network doesn't say the size it was made for: set height and width")
    listed = (read(INDEX) or {}).get("scheduler") or [None, None]
    kind = find_class(str(listed[0]), str(listed[1]))
    if kind is None:
        raise ModelError(f"the model's scheduler is a {listed[1]}, which diffusers doesn't have")
    with model_errors(f"the model's scheduler, a {listed[1]}, can't be made"):
        saved = kind.from_config(dict(read(SCHEDULER) or {}))
    return find_training_obstacle(parts, make_scheduler(saved, scheduler, steps, *count_channels(parts)))


def find_training_obstacle(parts: PipelineParts, scheduler: Any) -> str | None:
    """Return the reason why a model can't be trained with its `scheduler`; None if it can."""
    entering, leaving = count_channels(parts)
    if entering != leaving:
        return (
            f"its network predicts a variance as well ({leaving} channels for {entering}), which Eq. 8 has no term for"
        )
    return find_schedule_obstacle(scheduler)


def find_steering_obstacle(type_: str, parts: PipelineParts) -> str | None:
    """Return the reason why training-free methods can't steer a model of the type `type_`; None if they can."""
    if type_ not in STEERED:
        return f"training-free methods steer the cross-attention of {', '.join(STEERED)} only, not of {type_}"
    unet = parts.get("unet")
    if unet is None:
        return None
    blocks = (*(unet.get("down_block_types") or ()), *(unet.get("up_block_types") or ()), unet.get("mid_block_type"))
    unknown = [kind for kind in blocks if kind and "Cross" in kind and kind not in CROSS_ATTENTION]
    if unknown:
        return f"its UNet has a {unknown[0]}, whose cross-attention no training-free method knows"
    if not set(blocks) & set(CROSS_ATTENTION):
        return "its UNet has no cross-attention"
    if (kind := unet.get("encoder_hid_dim_type")) is not None:
        return f"its UNet has encoder_hid_dim_type {kind}, so that its attention reads another text than its encoder's"
    return None


def count_channels(parts: PipelineParts) -> tuple[int, int]:
    """Return the numbers of channels that a UNet takes and predicts."""
    return int(parts["unet"].get("in_channels")), int(parts["unet"].get("out_channels"))


def limit_tokens(pipeline: Any) -> None:
    """Limit each tokenizer to its encoder's number of positions, if its `model_max_length` is larger.

    A tokenizer that was saved without that key has 1e30.
    """
    for tokenizer, encoder in _pair_tokenizers(pipeline):
        places = getattr(encoder.config, "max_position_embeddings", None)
        if isinstance(places, int) and tokenizer.model_max_length > places:
            tokenizer.model_max_length = places


def _pair_tokenizers(pipeline: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each tokenizer with its encoder, paired as in diffusers' pipelines."""
    both = [
        [each for name in (kind, f"{kind}_2") if (each := getattr(pipeline, name, None)) is not None]
        for kind in ("tokenizer", "text_encoder")
    ]
    yield from zip(*both, strict=False)


def _find_faults(type_: str, parts: PipelineParts, clip_skip: int | None) -> Iterator[str]:
    """Yield the unsupported settings, the most important first."""
    if type_ in FLOWS:
        yield from _find_missing_parts(parts, "vae", "transformer", "scheduler")
        yield from _find_vae_faults(parts["vae"], FLOWS[type_].vaes)
        yield from _find_flow_faults(parts, FLOWS[type_])
        return
    is_refiner, is_xl = type_ == REFINER_TYPE, type_ != "stable-diffusion"
    second = "text_encoder_2" if is_xl else "text_encoder"
    yield from _find_missing_parts(parts, "vae", "unet", "scheduler", second)
    yield from _find_missing_tokenizers(parts, is_xl)
    yield from _find_vae_faults(parts["vae"])
    yield from _find_unet_faults(parts, TEXT_EMBEDDINGS.get(type_, ("text_time",)))
    yield from _find_text_faults(parts, is_xl)
    if is_xl:
        yield from _find_size_faults(parts, _SIZES - is_refiner)
    if is_refiner and parts["unet"].get("time_cond_proj_dim") is not None:
        yield "its UNet has time_cond_proj_dim: a refiner takes no guidance"
    yield from _find_clip_skip_faults(parts, clip_skip, is_xl)


def _find_missing_parts(parts: PipelineParts, *names: str) -> Iterator[str]:
    for name in names:
        if name not in parts:
            yield f"it has no {name}"


def _find_missing_tokenizers(parts: PipelineParts, is_xl: bool) -> Iterator[str]:
    """Yield a fault for each missing tokenizer; SDXL's first encoder may be missing, with or without its tokenizer."""
    if not is_xl:
        yield from _find_missing_parts(parts, "tokenizer")
    elif "text_encoder" in parts:
        yield from _find_missing_parts(parts, "tokenizer", "tokenizer_2")
    elif not {"tokenizer", "tokenizer_2"} & parts.keys():
        yield "it has no tokenizer_2"


def _find_vae_faults(vae: PipelinePart, known: Sequence[str] = VAES) -> Iterator[str]:
    if vae.kind not in known:
        yield f"its VAE is a {vae.kind}: only {', '.join(known)} {'are' if len(known) > 1 else 'is'} understood"
    for key in ("in_channels", "out_channels", "input_channels"):
        if key in vae.config and vae.get(key) != 3:
            yield f"its VAE has {key} {vae.get(key)}: images have 3"
    scale = vae.get("scaling_factor")
    if "scaling_factor" in vae.config and (not isinstance(scale, int | float) or not scale > 0):
        yield f"its VAE has scaling_factor {scale}: a number above 0 is needed"


def _find_unet_faults(parts: PipelineParts, embeddings: tuple[str | None, ...]) -> Iterator[str]:
    unet, scheduler = parts["unet"], parts["scheduler"]
    if unet.kind not in UNETS:
        yield f"its UNet is a {unet.kind}: only {', '.join(UNETS)} is understood"
        return
    latent, entering, leaving = parts["vae"].get("latent_channels"), unet.get("in_channels"), unet.get("out_channels")
    if entering != latent:
        yield (
            f"its UNet has in_channels {entering} and the VAE {latent} latent channels: the others would be an image "
            f"(inpainting, upscaling, editing), and there is only a text"
        )
    varied = scheduler.get("variance_type") in LEARNED
    if leaving != (2 * latent if varied else latent):
        yield f"its UNet has out_channels {leaving} and the VAE {latent} latent channels"
    if (kind := unet.get("class_embed_type")) in CLASS_EMBEDDINGS:
        yield f"its UNet has class_embed_type {kind}: it needs a class besides the text"
    elif kind is None and unet.get("num_class_embeds") is not None:
        yield f"its UNet has num_class_embeds {unet.get('num_class_embeds')}: it needs a class besides the text"
    if (kind := unet.get("addition_embed_type")) not in embeddings:
        wanted = " or ".join(map(str, embeddings))
        yield f"its UNet has addition_embed_type {kind}: {wanted} is understood, others need more than a text"
    if (kind := unet.get("encoder_hid_dim_type")) not in ENCODER_PROJECTIONS:
        yield f"its UNet has encoder_hid_dim_type {kind}: it needs an image besides the text"


def _find_text_faults(parts: PipelineParts, is_xl: bool) -> Iterator[str]:
    """Yield the faults of the text encoders; their widths must add up to the UNet's."""
    if not is_xl and parts["text_encoder"].kind.endswith("WithProjection"):
        yield f"its text_encoder is a {parts['text_encoder'].kind}: one without a projection is needed"
    encoders = [name for name in ("text_encoder", "text_encoder_2") if name in parts]
    widths = [parts[name].get("hidden_size") for name in (encoders if is_xl else encoders[:1])]
    unet = parts["unet"]
    key = "cross_attention_dim" if unet.get("encoder_hid_dim") is None else "encoder_hid_dim"
    wanted = unet.get(key)
    asked = set(wanted) if isinstance(wanted, list | tuple) else {wanted}
    if all(isinstance(each, int) for each in (*widths, *asked)) and asked != {sum(widths)}:
        yield f"its UNet has {key} {wanted} and the text encoders' hidden_size is {' + '.join(map(str, widths))}"


def _find_size_faults(parts: PipelineParts, count: int) -> Iterator[str]:
    """Yield a fault if the UNet takes other inputs than the pooled embedding and `count` time ids."""
    unet, pooled = parts["unet"], parts["text_encoder_2"].get("projection_dim")
    each, wanted = unet.get("addition_time_embed_dim"), unet.get("projection_class_embeddings_input_dim")
    if not isinstance(each, int) or pooled + count * each != wanted:
        yield (
            f"its UNet has projection_class_embeddings_input_dim {wanted}, and takes projection_dim {pooled} of "
            f"text_encoder_2 and {count} times addition_time_embed_dim {each}"
        )


def _find_clip_skip_faults(parts: PipelineParts, clip_skip: int | None, is_xl: bool) -> Iterator[str]:
    for name in ("text_encoder", "text_encoder_2"):
        layers = parts[name].get("num_hidden_layers") if name in parts else None
        # SDXL already reads the last layer but one without clip_skip.
        most = layers - is_xl if isinstance(layers, int) else None
        if clip_skip and most is not None and clip_skip > most:
            yield f"clip_skip {clip_skip} leaves nothing of its {name}, which has {layers} layers: {most} at most"


def _find_flow_faults(parts: PipelineParts, flow: FlowType) -> Iterator[str]:
    vae, scheduler = parts["vae"], parts["scheduler"]
    latent, entering = vae.get("latent_channels") or vae.get("z_dim"), parts["transformer"].get("in_channels")
    if entering != latent * flow.patch:
        yield (
            f"its transformer has in_channels {entering} and the VAE {latent} latent channels: the others would be an "
            f"image, and there is only a text"
        )
    if scheduler.kind not in flow.schedulers:
        yield f"its scheduler is a {scheduler.kind}: a {' or '.join(flow.schedulers)} is needed"
    elif scheduler.kind != FLOW_SCHEDULER and not scheduler.get("use_flow_sigmas"):
        yield f"its scheduler, a {scheduler.kind}, has no use_flow_sigmas: it is made for diffusion, not for a flow"

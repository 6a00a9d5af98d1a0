"""The settings of the diffusion models, and of how they sample."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from agfsync.recipe.base import DtypeName, Positive, QuantizationName, Section


class SamplingLora(Section):
    """A LoRA for drawing, such as LCM's. It isn't trained."""

    path: str
    """a .safetensors file, a folder with one in it, or a hub id"""
    file: str | None = None
    """which of a folder's or hub id's files; default: pytorch_lora_weights.safetensors, else the only one"""
    strength: float = 1.0
    partial: bool = False
    """draw even if only some of its modules fit the model; the number of others is reported"""


class RefinerSettings(Section):
    """A second model for the last steps of drawing (stable-diffusion-xl). It isn't trained."""

    path: str = "stabilityai/stable-diffusion-xl-refiner-1.0"
    revision: str | None = None
    from_step: Positive = 40
    """the first step of the refiner; the paper's is 40 of 50"""


class PartSettings(Section):
    """A network of a pipeline from another source. In a recipe `vae: PATH` is short for `vae: {path: PATH}`."""

    path: str
    """a folder, a hub id, or a .safetensors file"""
    revision: str | None = None


def _expand_part(tree: Any) -> Any:
    return {"path": tree} if isinstance(tree, str) else tree


Part = Annotated[PartSettings | None, BeforeValidator(_expand_part)]


class Sampling(Section):
    """The settings of drawing."""

    steps: Positive = 50
    guidance: float = Field(default=7.5, ge=0)
    """scale of classifier-free guidance. For flux and flux2 it is the distilled guidance, usually 3.5 and 4; schnell
    has none and takes 1. For z-image 0 is no guidance, as in diffusers"""
    negative_prompt: str = ""
    """the prompt that guidance moves away from"""
    height: Positive | None = None
    width: Positive | None = None
    scheduler: Literal["model", "ddim", "ddpm", "dpm++", "euler", "lcm"] = "model"
    """model: the scheduler that the model was saved with"""


class ModelSettings(Section):
    """The diffusion model that is aligned, and how it samples."""

    type: str = "stable-diffusion"
    path: str = "embedded:generator"
    """a folder, a hub id, a .safetensors file, or embedded:NAME"""
    revision: str | None = None
    variant: str | None = None
    """the variant of the weights, such as fp16. Default: weights without a variant, or the only variant"""
    vae: Part = None
    """replaces the model's own, or the one that a single file lacks"""
    loras: tuple[SamplingLora, ...] = ()
    """added to the model's weights, for drawing only"""
    dtype: DtypeName = "auto"
    device: str = "auto"
    attention: str | None = None
    """one of diffusers' attention backends, such as _native_cudnn, flash, flash_hub, sage or xformers (flux, flux2,
    flux2-klein, qwen-image, z-image). Training uses it too, except for sage's, which have no gradient. Default: torch's
    own choice"""
    compile: bool = False
    """torch.compile the network for drawing: the first images take minutes longer, the others less time"""
    quantization: QuantizationName | None = None
    """store the linear layers of the denoiser in 4 bits (nf4, fp4: package bitsandbytes) or 8 (int8, fp8:
    torchao), as the frozen base of a LoRA too: pip install 'agfsync[quantization]'. Default: in dtype"""
    offload: bool = False
    """when drawing, keep only one of text encoders, denoiser and VAE on the accelerator at a time, the others in the
    machine's memory. It doesn't affect the images"""
    sampling: Sampling = Sampling()

    @property
    def parts(self) -> dict[str, PartSettings]:
        """The networks from another source, by their name in the pipeline."""
        named = {name: getattr(self, name, None) for name in ("vae", "unet", "transformer")}
        return {name: part for name, part in named.items() if isinstance(part, PartSettings)}

    @property
    def is_attention_for_drawing(self) -> bool:
        """True if the attention backend has no gradient, so that training uses torch's own choice."""
        return "sage" in (self.attention or "")

    @property
    def configuration(self) -> str | None:
        """The source of a single file's configuration, for types that load single files."""
        return getattr(self, "config", None)

    @property
    def refining(self) -> RefinerSettings | None:
        """The refiner, for types that have one."""
        return getattr(self, "refiner", None)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the model's class: these settings, with the sampling's merged in."""
        plain = self.model_dump()
        return {**plain.pop("sampling"), **plain}

    def defaults(self) -> set[str]:
        """Return the names of the arguments that have their default, which a class may lack."""
        changed: dict[str, Any] = self.model_dump(exclude_defaults=True)
        return set(self.arguments()) - set(changed) - set(changed.get("sampling", {}))


class StableDiffusionSettings(ModelSettings):
    """The model type `stable-diffusion`."""

    config: str | None = None
    """for a single file: a folder or hub id of a pipeline with its configuration and tokenizers. Default: those of the
    known model with the same layout, fetched from the hub; for SD 2.x that is 2.1's at 768 pixels"""
    unet: Part = None
    """replaces the model's own"""
    clip_skip: Positive | None = None
    """layers of the text encoder to skip, as diffusers counts them: 1 reads the last but one
    (stable-diffusion) or the last but two (stable-diffusion-xl). What other programs call clip skip 2 is 1 here"""


class StableDiffusionXLSettings(StableDiffusionSettings):
    """The model type `stable-diffusion-xl`."""

    refiner: RefinerSettings | None = None


class TransformerSettings(ModelSettings):
    """The model types that predict a flow: `stable-diffusion-3`, `flux`, `flux2`, `qwen-image` and others."""

    transformer: Part = None
    """replaces the model's own"""


class T5Sampling(Sampling):
    """The settings of drawing with a model that reads prompts with a T5, in addition to its CLIPs."""

    max_sequence_length: Positive | None = None
    """the most tokens of T5's prompt. Default: that of diffusers' pipeline"""


class T5TransformerSettings(TransformerSettings):
    """The model types `stable-diffusion-3` and `flux`."""

    sampling: T5Sampling = T5Sampling()

"""The section `training` of a recipe."""

from typing import Literal

from pydantic import Field, model_validator

from agfsync.recipe.base import DtypeName, Positive, Section, Share
from agfsync.recipe.methods import DpoSettings
from agfsync.recipe.types import (
    MethodOfType,
)


class LoraSettings(Section):
    """A LoRA that is trained instead of the whole denoiser."""

    rank: Positive = 16
    alpha: float | None = None
    """default: the rank, so that all programs apply the LoRA with the same strength"""


class Watch(Section):
    """A judge that nothing trains on, measured on held-out captions while the model trains.

    The images are drawn with the current network, from the evaluation's seeds, in training.precision and without a
    refiner. Measuring doesn't affect the trained weights.
    """

    by: str
    """a scorer that the method doesn't train on"""
    every: Positive = 25
    """steps between two measurements; the base before the first step and the last step are also measured"""
    captions: int = Field(default=64, ge=2)
    """the number of held-out captions, the first by their keys, so that a larger number contains a smaller one"""
    stop: bool = False
    """end the training when the judge falls below its best mean by more than 1.645 standard errors of the difference
    on the same captions, while what the method maximises (its reward, else its implicit accuracy, else minus its
    loss) is no lower than it was then. The result is the best measured step's weights. That step is chosen on captions
    of the evaluation set held-out, so this judge's gain there is a little too high"""

    @property
    def metric(self) -> str:
        """The name of the judge's mean among the metrics of a training."""
        return f"watched_{self.by}"


class Training(Section):
    """Stage 6: alignment on the pairs (Eq. 8)."""

    method: MethodOfType = DpoSettings()
    lora: LoraSettings | None = None
    """absent: the whole denoiser is trained"""
    seed: int | None = Field(default=None, ge=0)
    """seed of the training's order, noise and initial LoRA weights; default: the run's seed"""
    steps: Positive = 1000
    batch: Positive = 128
    """pairs in a step, over all processes"""
    learning_rate: float = Field(default=5e-7, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    """steps over which the learning rate rises to its full value"""
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    precision: DtypeName = "auto"
    """the number format of the networks' computation; the trained weights stay fp32. fp16 scales the loss, and needs an
    accelerator"""
    checkpoint_every: Positive = 50
    """steps"""
    accumulate: Positive = 1
    """gradient accumulation: the number of parts into which a step's pairs are split. More parts need less memory, for
    the same result; the number rises automatically if memory runs out, and several processes share the parts"""
    gradient_checkpointing: bool = False
    """compute activations twice and keep few: less memory, more time, the same result"""
    fsdp: bool = False
    """shard the weights, gradients and moments of the whole network over several processes (torch's FSDP2), which
    needs less memory in each; without effect in one process"""
    compile: bool = False
    """torch.compile the trained network: the first step takes minutes longer, the others less time"""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its moments in a quarter of the memory; it needs the package bitsandbytes"""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """decay of the weights' moving average, such as 0.9999; with it the average is the result"""
    caption_dropout: Share = 0.0
    """share of a step's pairs that are trained without their caption, for winner and loser alike"""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """experiment trackers for each step's metrics, in addition to the run's own log; each needs its package"""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """weigh each pair by its timestep, by min-SNR with this gamma (its paper's: 5); absent: all alike, as in DPO"""
    loss_space: Literal["model", "epsilon"] = "model"
    """the errors in Eq. 8: of the network's prediction, or of the noise, as in the paper; they differ for models that
    predict v, whose errors are the noise's times 1 / alpha-bar. With min_snr_gamma both are the same"""
    noise: Literal["independent", "tracked"] = "independent"
    """the noise that is added to an image in training: new in each step, and the same for winner and loser; or tracked,
    the noise that the image was drawn from, which follows from its seed (as in PNAPO, arXiv:2605.09433)"""
    times: Literal["uniform", "logit-normal"] | None = None
    """the distribution of a flow model's training times: uniform, or logit-normal, which favours the middle (Flow-DPO
    by flow_grpo and Flow-Factory). Default: that of diffusers' training script, logit-normal for stable-diffusion-3 and
    uniform for the others"""
    shift: float | None = Field(default=None, gt=0)
    """moves a flow model's training times t towards noise, to shift t / (1 + (shift - 1) t). Default: as the model's
    scheduler does in drawing; 1: not at all"""
    watch: Watch | None = None
    """absent: no judge is measured during the training"""

    @property
    def stopping_watch(self) -> Watch | None:
        """The watch that may stop the training; any other watch doesn't affect results."""
        return self.watch if self.watch is not None and self.watch.stop else None

    @property
    def uses(self) -> tuple[str, ...]:
        """The abilities of a model that the training needs; the recipe is refused for a model without them."""
        return self.method.uses, *(("tracked noise",) if self.noise == "tracked" else ())

    @model_validator(mode="after")
    def _no_empty_part(self) -> "Training":
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate splits the {self.batch} pairs of training.batch into {self.accumulate} parts")
        return self

    @model_validator(mode="after")
    def _can_be_sharded(self) -> "Training":
        """Refuse settings that don't work with `fsdp`."""
        obstacles = {
            "a LoRA, whose network is frozen: leave out lora, or fsdp": self.lora is not None,
            f"the method {self.method.type}: take one that learns from pairs or scores": (
                self.method.needs not in ("pairs", "scores")
            ),
            "the optimizer adamw8bit: set it to adamw": self.optimizer == "adamw8bit",
            "fp16: set precision to bf16 or fp32": self.precision == "fp16",
            "compiled blocks: leave out compile": self.compile,
            "a watch, which draws in the first process alone: leave it out": self.watch is not None,
        }
        for obstacle in (obstacle for obstacle, applies in obstacles.items() if self.fsdp and applies):
            raise ValueError(f"fsdp doesn't support {obstacle}")
        return self

    @model_validator(mode="after")
    def _has_images_for_its_options(self) -> "Training":
        """Refuse options on the images of pairs or candidates for a method that doesn't train on them."""
        if self.method.needs in ("captions", "nothing"):
            for name in ("caption_dropout", "min_snr_gamma", "loss_space", "noise"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect on the method {self.method.type}: leave it out")
        return self

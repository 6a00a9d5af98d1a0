"""The section `training` of a recipe."""

from typing import Literal

from pydantic import Field, model_validator

from agfsync.recipe.base import DtypeName, Positive, Section, Share
from agfsync.recipe.methods import DpoSettings
from agfsync.recipe.types import (
    MethodOfType,
)


class LoraSettings(Section):
    """A LoRA that is trained in place of the whole denoiser."""

    rank: Positive = 16
    alpha: float | None = None
    """default: the rank, so that every program reads the file with the same strength"""


class Watch(Section):
    """A judge that nothing trains on, measured on held-out captions while the model trains.

    The images are drawn with the network as it then is, from the evaluation's seeds, in training.precision and without
    a refiner. Watching changes no trained weight.
    """

    by: str
    """a scorer that the method doesn't learn from"""
    every: Positive = 25
    """steps between two measurements; the base before the first step and the last step are also measured"""
    captions: int = Field(default=64, ge=2)
    """the first so many held-out captions by their keys, so that more of them contain the fewer"""
    stop: bool = False
    """end the training when the judge falls below its best mean by more than 1.645 standard errors of the difference
    on the same captions, while what the method raises (its reward, else its implicit accuracy, else minus its loss) is
    no lower than it was then. The result is the best measured step's weights. That step is chosen on captions of the
    evaluation set held-out, so this judge's gain there is a little too high"""

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
    """of the training's order, noise and first LoRA weights; default: the run's seed"""
    steps: Positive = 1000
    batch: Positive = 128
    """pairs a step, of all processes together"""
    learning_rate: float = Field(default=5e-7, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    """steps over which the learning rate rises to its full value"""
    weight_decay: float = Field(default=0.01, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    precision: DtypeName = "auto"
    """in which numbers the networks multiply; the trained weights stay fp32. fp16 scales its loss, and needs an
    accelerator"""
    checkpoint_every: Positive = 50
    """steps"""
    accumulate: Positive = 1
    """parts in which a step's pairs go through the networks: more of them need less memory, for the same result; there
    are more by themselves where memory runs out, and several processes share them"""
    gradient_checkpointing: bool = False
    """compute activations twice and keep few: less memory, more time, the same result"""
    fsdp: bool = False
    """several processes share the weights, gradients and moments of the whole network, each with its part (torch's
    FSDP2): less memory in each; one process trains as without"""
    compile: bool = False
    """torch.compile the network that is trained: the first step takes minutes longer, the others less time"""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps its moments in a quarter of the memory; it needs the package bitsandbytes"""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """decay of the weights' moving average, such as 0.9999; with it the average is the result"""
    caption_dropout: Share = 0.0
    """share of the pairs of a step that are trained without their caption, winner and loser alike"""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """where each step's figures go in addition to the run's own log; each is a package to install"""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """weigh each pair by its timestep, by min-SNR with this gamma (its paper's: 5); absent: all alike, as in DPO"""
    loss_space: Literal["model", "epsilon"] = "model"
    """whose errors Eq. 8 takes: of what the network predicts, or of the noise, as in the paper; they differ for models
    that predict v, whose errors are the noise's times 1 / alpha-bar. With min_snr_gamma both are the same"""
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
        """The watch that may end the training; one that may not affects no result."""
        return self.watch if self.watch is not None and self.watch.stop else None

    @property
    def uses(self) -> tuple[str, ...]:
        """The uses that the training makes of the model, for the check that it can."""
        return self.method.uses, *(("tracked noise",) if self.noise == "tracked" else ())

    @model_validator(mode="after")
    def _no_empty_part(self) -> "Training":
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate splits the {self.batch} pairs of training.batch into {self.accumulate} parts")
        return self

    @model_validator(mode="after")
    def _can_be_sharded(self) -> "Training":
        """Refuse what a training with `fsdp` can't do."""
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
        for what in (what for what, is_there in obstacles.items() if self.fsdp and is_there):
            raise ValueError(f"fsdp isn't there for {what}")
        return self

    @model_validator(mode="after")
    def _has_images_for_its_options(self) -> "Training":
        """Refuse options about the images of a pair or candidate for a method that has none."""
        if self.method.needs in ("captions", "nothing"):
            for name in ("caption_dropout", "min_snr_gamma", "loss_space", "noise"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect on the method {self.method.type}: leave it out")
        return self

"""The settings of each type of method that draws images in training and trains on their rewards."""

from abc import abstractmethod
from math import ceil, floor
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agfsync.recipe.base import Positive, Share
from agfsync.recipe.methods import MethodSettings


class RewardGradientSettings(MethodSettings):
    """The method type `reward-gradient`: the gradient of the judges' rewards, through the image, into the network.

    `loss: refl` (the default) is ReFL, `loss: draft` DRaFT-K, which with `guidance` and `kl` is DRaFT+. Scorers that
    have a gradient: clip, aesthetic, pickscore, hpsv2, hpsv2.1, hpsv3, imagereward. A reward is (score - mean) /
    deviation by `standard`; without that an imagereward or hpsv3 is its own standardised reward, another score is
    (score - 50) / 25 in refl, and 0..100 as it is in draft.
    """

    family: ClassVar[str] = "reward gradient"
    summary: ClassVar[str] = "Follow the judges' gradient through the image into the network: ReFL, DRaFT-K."
    paper: ClassVar[str] = "ReFL, arXiv:2304.05977; DRaFT, arXiv:2309.17400"
    needs: ClassVar[str] = "captions"
    uses: ClassVar[Literal["training", "sampling", "gradients"]] = "gradients"
    reward: dict[str, float]
    """scorers and the weights of their rewards"""
    loss: Literal["refl", "draft"] = "refl"
    """refl: scale x relu(margin - reward) at one random late step; draft: -scale x reward through the last steps"""
    steps: Positive | None = None
    """sampling steps. Default: 40 (refl), 50 (draft)"""
    window: tuple[Share, Share] | None = None
    """refl: the step with a gradient is one of those that end in this share of the sampling, drawn for each batch.
    Default: [0.75, 1], the steps 31 to 40 of 40"""
    last: Positive | None = None
    """draft: the number of last steps that the gradient goes through, each of which takes memory. Default: 1"""
    guidance: float | None = Field(default=None, ge=0)
    """classifier-free guidance, in steps with and without gradient; 1: none. Default: 1 (refl), 7.5 (draft, DRaFT+)"""
    margin: float | None = None
    """refl: images with a reward above this have no gradient. Default: 2"""
    scale: float | None = Field(default=None, gt=0)
    """scale of the loss, relative to `kl` and training.max_gradient_norm. Default: 0.001 (refl), 1 (draft)"""
    kl: float | None = Field(default=None, ge=0)
    """weight of the mean squared difference to the base's predictions. Default: 0 (refl), 1 (draft, as DRaFT+)"""
    standard: dict[str, tuple[float, Annotated[float, Field(gt=0)]]] = Field(default={})
    """mean and deviation of a scorer's scores, such as those of the base's images: clip: [27, 3]"""

    @model_validator(mode="before")
    @classmethod
    def _fill_by_loss(cls, tree: Any) -> Any:
        """Fill in missing settings with the published ones of the loss."""
        if not isinstance(tree, dict):
            return tree
        published = PUBLISHED.get(tree.get("loss", "refl"), {})
        return tree | {name: value for name, value in published.items() if tree.get(name) is None}

    @model_validator(mode="after")
    def _fits_the_loss(self) -> Self:
        published = PUBLISHED[self.loss]
        for other, settings in PUBLISHED.items():
            for name in settings:
                if name not in published and getattr(self, name) is not None:
                    raise ValueError(f"{name} belongs to loss: {other}, not to {self.loss}: leave it out")
        if not any(self.reward.values()):
            raise ValueError("reward names nothing to follow: give at least one scorer a weight")
        if unknown := sorted(set(self.standard) - set(self.reward)):
            raise ValueError(f"standard names {', '.join(unknown)}, which reward doesn't name")
        steps = self.steps or 0
        if self.last is not None and self.last > steps:
            raise ValueError(f"last is {self.last}, of {steps} steps: take at most as many")
        if self.window and not any(self.window[0] < step / steps <= self.window[1] for step in range(1, steps + 1)):
            raise ValueError(f"window {list(self.window)} holds the end of none of {steps} steps: make it wider")
        return self


PUBLISHED: dict[str, dict[str, Any]] = {
    "refl": {"steps": 40, "window": (0.75, 1.0), "guidance": 1.0, "margin": 2.0, "scale": 1e-3, "kl": 0.0},
    "draft": {"steps": 50, "last": 1, "guidance": 7.5, "scale": 1.0, "kl": 1.0},
}
"""The settings of the method reward-gradient by its loss, from ReFL's script and DRaFT+."""


class OnlineSettings(MethodSettings):
    """The method types that draw images in training and train on their rewards."""

    needs: ClassVar[str] = "captions"
    uses: ClassVar[Literal["training", "sampling", "gradients"]] = "sampling"
    family: ClassVar[str] = "online"
    reward: dict[str, float] | None = Field(default=None, min_length=1)
    """the scorers whose weighted sum is the reward of an image; default: those of pairs.choose"""
    group: Positive = 8
    """images of each prompt; training.batch counts prompts"""
    steps: Positive | None = None
    """sampling steps in training; default: the model's sampling.steps"""
    advantage_limit: float = Field(default=5.0, gt=0)
    """standardised rewards are clipped to this absolute value"""
    updates: Positive = 1
    """optimizer steps on the images of a step, each on a share of them"""
    weight_copies: ClassVar[int] = 0
    """copies of the trained weights that the method keeps"""

    @abstractmethod
    def count_rows(self, steps: int) -> int:
        """Return the number of rows that the network is trained on for each image drawn in `steps` sampling steps."""
        ...

    @abstractmethod
    def count_references(self) -> int:
        """Return the number of predictions without a gradient for each of these rows."""
        ...


class PolicySettings(OnlineSettings):
    """The method type `policy-gradient`: DDPO, DPOK, PPO and Flow-GRPO."""

    summary: ClassVar[str] = "Draw while training, and make images with a high reward likelier."
    paper: ClassVar[str] = "DDPO, arXiv:2305.13301; DPOK, arXiv:2305.16381; Flow-GRPO, arXiv:2505.05470"
    loss: Literal["ddpo", "dpok", "ppo", "grpo"] = "ddpo"
    """ddpo: rewards standardised by the prompt's last ones; ppo: by the step's; grpo: minus the group's mean, over the
    step's deviation; dpok: minus a learned value"""
    guidance: float | None = Field(default=None, ge=0)
    """in drawing and in training; default: the model's sampling.guidance"""
    eta: float = Field(default=1.0, gt=0)
    """the strength of the noise in the sampling steps"""
    stochastic_step: Literal["sde", "cps"] = "sde"
    """how a flow model's steps get their noise: Flow-GRPO's SDE (eta 0.7 for SD 3.5, 0.9 for FLUX.1, 1.2 for
    Qwen-Image), or the coefficient-preserving step (eta 0.8), which adds no more than the time has; a diffusion model
    has DDIM's"""
    window: Positive | None = None
    """the number of consecutive steps that have noise and are trained; others have none (Flow-GRPO-Fast, MixGRPO: 2 or
    3). Absent: all"""
    window_within: tuple[Share, Share] = (0.0, 0.5)
    """the range of steps, as shares, that contains the window; its start is drawn for each training step"""
    timesteps: float = Field(default=1.0, gt=0, le=1)
    """share of an image's steps that are trained, drawn for each image"""
    step_weights: Literal["variance", "equal"] = "variance"
    """variance: a step counts by the variance of its noise; equal: all alike, as in DDPO's and Flow-GRPO's code, where
    of few steps the last one, which hardly changes the image, makes up most of the gradient"""
    clip: float = Field(default=1e-4, gt=0)
    """a step's probability ratio counts within 1 - clip..1 + clip"""
    kl: float = Field(default=0.0, ge=0)
    """weight of the distance to the base; DPOK's 0.01 to its 10 for the reward is 0.001 here"""
    epochs: Positive = 1
    """passes over the images of a step"""
    buffer: Positive = 32
    """ddpo: the number of rewards kept for each prompt"""
    buffer_minimum: Positive = 16
    """ddpo: a prompt with fewer is standardised by the step's rewards"""
    value_learning_rate: float = Field(default=1e-4, gt=0)
    """dpok: learning rate of the value network"""
    value_updates: Positive = 1
    """dpok: updates of the value network on the images of a step"""

    def count_rows(self, steps: int) -> int:
        """Return the number of trained sampling steps of an image."""
        return self.epochs * max(1, round(self.timesteps * (self.window or steps)))

    def count_references(self) -> int:
        """Return 1, the base's prediction, if there is a penalty for the distance to it."""
        return int(self.kl > 0)

    @model_validator(mode="after")
    def _window_has_room(self) -> Self:
        (lowest, highest), steps = self.window_within, self.steps
        if self.window and steps and floor(highest * steps) - ceil(lowest * steps) < self.window:
            raise ValueError(
                f"window {self.window} has no room in the share {list(self.window_within)} of {steps} steps: "
                f"make it smaller, or window_within wider"
            )
        return self


class CleanImageSettings(OnlineSettings):
    """The options that `awm` and `nft` share: they need clean images and rewards only."""

    guidance: float = Field(default=1.0, ge=0)
    """in drawing and in training; the published runs have none"""
    noisings: Positive | None = None
    """times that each image is noised and trained on in a step; default: the number of sampling steps"""
    kl: float = Field(default=1e-4, ge=0)
    """weight of the squared distance to the base's prediction"""

    def count_rows(self, steps: int) -> int:
        """Return the number of noise levels at which an image is trained."""
        return self.noisings or steps

    def count_references(self) -> int:
        """Return 1 for the prediction of the network that drew the image, and 1 for the base's if it is penalised."""
        return 1 + int(self.kl > 0)


class AwmSettings(CleanImageSettings):
    """The method type `awm`: the model's own loss, weighted by the advantages."""

    summary: ClassVar[str] = "Draw while training; the model's own loss, weighted by advantage."
    paper: ClassVar[str] = "AWM, arXiv:2509.25050"
    clip: float = Field(default=0.2, gt=0)
    """the ratio exp(old error - error) counts within 1 - clip..1 + clip"""


class NftSettings(CleanImageSettings):
    """The method type `nft`: DiffusionNFT."""

    summary: ClassVar[str] = "Draw while training; towards images with a high reward, away from others."
    paper: ClassVar[str] = "DiffusionNFT, arXiv:2509.16117"
    weight_copies: ClassVar[int] = 1
    beta: float = Field(default=1.0, gt=0)
    """smaller is faster and less stable; its authors take 0.1 for several rewards"""
    decay_rate: float = Field(default=1e-3, ge=0)
    """in update t, the sampling network keeps the share min(decay_rate t, decay_limit) of its weights"""
    decay_limit: float = Field(default=0.5, ge=0, lt=1)
    """the largest share that it keeps"""

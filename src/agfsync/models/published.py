"""Configurations of models: in a folder, in the cache, on the hub, or as published for the shipped recipes' models."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from agfsync.models.files import CONFIG, ModelFiles
from agfsync.models.hub import SAFE

Config = Mapping[str, Any]


class UnknownModel(Exception):
    """The configuration of a model cannot be had, or it is none that is known here; says so in few words."""


@cache
def load_published() -> Mapping[str, Mapping[str, Mapping[str, Config]]]:
    """Return published configuration files by name: of `models` by hub id, and of the model types `types`."""
    found: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))
    return found


def read_config(model: str, revision: str | None = None, name: str = CONFIG, type_: str = "") -> Config:
    """Return the configuration file `name` of a model; `type_` is the type of a model that may be a single file.

    Raises:
        UnknownModel: there is none. ModelError: there is no such embedded model.
    """
    if (found := ModelFiles.from_path(model, revision).read(name)) is not None:
        return found
    published = load_published()
    known = published["models"].get(model) or (published["types"].get(type_, {}) if model.endswith(SAFE) else {})
    if name not in known:
        raise UnknownModel(f"{model}: its configuration isn't at hand")
    return known[name]

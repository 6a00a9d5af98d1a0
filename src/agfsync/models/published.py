"""Configurations of models: from a folder, the cache or the hub, else a copy shipped with this package."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from agfsync.models.files import CONFIG, ModelFiles
from agfsync.models.hub import SAFE

Config = Mapping[str, Any]


class UnknownModel(Exception):
    """The configuration of a model isn't available or isn't supported; the message says so in few words."""


@cache
def load_published() -> Mapping[str, Mapping[str, Mapping[str, Config]]]:
    """Return the shipped configuration files by name: for "models" by hub id, and for "types" by model type."""
    found: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("published.yaml").read_text(encoding="utf-8"))
    return found


def read_config(model: str, revision: str | None = None, name: str = CONFIG, type_: str = "") -> Config:
    """Return the configuration file `name` of a model; for a single file, that of its type `type_`.

    Raises:
        UnknownModel: it isn't available. ModelError: there is no such embedded model.
    """
    if (found := ModelFiles.from_path(model, revision).read(name)) is not None:
        return found
    published = load_published()
    known = published["models"].get(model) or (published["types"].get(type_, {}) if model.endswith(SAFE) else {})
    if name not in known:
        raise UnknownModel(f"{model}: its configuration isn't at hand")
    return known[name]

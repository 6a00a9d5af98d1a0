"""One network of a pipeline, such as its UNet or VAE: found, loaded, and checked weight by weight.

A part from another model (the keys `vae`, `unet` and `transformer`) is a folder or hub id with `config.json`, there or
in the subfolder with the part's name, or a single file with the original names of the weights or diffusers'.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
from diffusers import ModelMixin
from huggingface_hub import snapshot_download

from agfsync.errors import ModelError
from agfsync.models import hub
from agfsync.models.files import CONFIG, choose_variant, find_variants
from agfsync.models.hub_errors import loading_errors
from agfsync.models.pretrained import check_weights, fingerprint_model, loading_arguments
from agfsync.models.single_file import fill_network, load_file_tensors, select_tensors

ALIKE = (
    "latent_channels",
    "in_channels",
    "cross_attention_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
)
"""The keys of a part's configuration that must match the replaced part: they concern its inputs and outputs."""


@dataclass(frozen=True, slots=True)
class PartSource:
    """The source of a part: a folder, a hub id (at `revision`), or a single .safetensors file."""

    model: str
    revision: str | None = None

    @classmethod
    def from_settings(cls, settings: str | Mapping[str, Any]) -> Self:
        """Return the source from its value in a recipe."""
        return cls(settings) if isinstance(settings, str) else cls(settings["path"], settings.get("revision"))


def load_part(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype, name: str) -> Any:
    """Return the network of the class `kind` in `folder`, with every weight from its files.

    Raises:
        ModelError: it can't be loaded, or its weights don't fit the network.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{name} isn't there: its folder has no {CONFIG}")
    with loading_errors(name):
        network, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            variant=choose_variant([path.name for path in folder.glob("*")], variant, name),
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    check_weights(network, name, report["missing_keys"], mismatched, report["unexpected_keys"])
    return network


def sketch_encoder(kind: Any, folder: Path, dtype: torch.dtype, name: str) -> Any:
    """Return a network of the transformers class `kind` without weights (on the meta device), configured by `folder`.

    Raises:
        ModelError: there is no configuration, or not one of such a network.
    """
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{name} isn't there: its folder has no {CONFIG}")
    with loading_errors(name), torch.device("meta"):
        return kind(kind.config_class.from_pretrained(folder, local_files_only=True)).to(dtype)


def load_own_part(
    name: str, kind: Any, origin: PartSource, base: Path, prefixes: Collection[str], dtype: torch.dtype
) -> Any:
    """Return the network at `origin` that replaces the part `name` of a pipeline.

    `kind` is the class of the replaced part, and `base` the folder of its configuration, which a single file uses.
    `prefixes` are the prefixes of the part's weights in a single file of a whole pipeline.

    Raises:
        ModelError: there is no such network, it is incomplete, or it doesn't fit the other parts.
    """
    label = f"{origin.model} ({name})"
    if Path(origin.model).is_file():
        tensors = load_file_tensors(origin.model)
        return fill_network(kind, base, select_tensors(tensors, prefixes) or tensors, prefixes, dtype, label)
    with loading_errors(label):
        folder = part_folder(name, origin)
        settings = kind.load_config(str(folder), local_files_only=True)
        found = getattr(diffusers, str(settings.get("_class_name")), None)
        if not (isinstance(found, type) and issubclass(found, ModelMixin)):
            raise ModelError(f"{label} is a {settings.get('_class_name')}: a {kind.__name__} is needed")
        if (base / CONFIG).is_file():
            _check_fits(label, settings, kind.load_config(str(base), local_files_only=True))
    return load_part(found, folder, None, dtype, label)


def _check_fits(label: str, own: Mapping[str, Any], replaced: Mapping[str, Any]) -> None:
    for key in ALIKE:
        if key in own and key in replaced and own[key] != replaced[key]:
            raise ModelError(
                f"{label} is made for another kind of model: its {key} is {own[key]}, and that of the model's own is "
                f"{replaced[key]}"
            )


def part_folder(name: str, origin: PartSource) -> Path:
    """Return the local folder with the part `name` of `origin`, fetched from the hub if necessary.

    Raises:
        ModelError: there is no such folder or model, or no such part in it.
    """
    loading_arguments(origin.model, origin.revision)
    if Path(origin.model).is_dir():
        places = [Path(origin.model) / name, Path(origin.model)]
        found = next((place for place in places if (place / CONFIG).is_file()), None)
        if found is None:
            raise ModelError(f"{origin.model} holds no {name}: there is no {CONFIG} in it, nor in its folder {name}")
        return found
    return _fetch_part(name, origin)


def _fetch_part(name: str, origin: PartSource) -> Path:
    files = hub.list_files(origin.model, origin.revision)
    if not files and hub.find_snapshot(origin.model, origin.revision) is None:
        fault = hub.ask_hub(origin.model, origin.revision).fault
        raise ModelError(f"{origin.model} isn't on this machine, and can't be fetched: {fault}")
    prefix = next((prefix for prefix in (f"{name}/", "") if f"{prefix}{CONFIG}" in files), None)
    if prefix is None:
        raise ModelError(f"{origin.model} holds no {name}: there is no {name}/{CONFIG}, and no {CONFIG}")
    names = [file.removeprefix(prefix) for file in files if file.startswith(prefix)]
    variant = choose_variant(names, None, origin.model)
    used = [each for each in names if each.endswith(".json") or find_variants([each]) == {variant}]
    snapshot = snapshot_download(
        origin.model, revision=origin.revision or hub.MAIN, allow_patterns=[f"{prefix}{each}" for each in used]
    )
    return Path(snapshot) / prefix


def part_fingerprint(name: str, origin: PartSource) -> str:
    """Return the fingerprint of the part `name` of `origin`, equal on every machine (see `fingerprint_model`)."""
    if Path(origin.model).exists():
        place = Path(origin.model)
        return fingerprint_model(str(place if place.is_file() else part_folder(name, origin)), None)
    commit = hub.cached_commit(origin.model, origin.revision) or origin.revision or hub.MAIN
    return f"{origin.model}@{commit[:12]}"

"""Pipelines and LoRAs of diffusers, from a folder, the hub or a single file: safetensors only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from safetensors import safe_open

from agfsync.errors import ModelError
from agfsync.generators import LORA_FILE
from agfsync.generators.architecture import Architecture
from agfsync.generators.lora_files import check_suffix, lora_file, read_changes
from agfsync.generators.lora_names import targets
from agfsync.generators.loras import Lora, find_misfits
from agfsync.pretrained import explained, fingerprint, quiet, source


def load_pipeline(
    architecture: Architecture, model: str, revision: str | None, config: str | None, dtype: torch.dtype
) -> Any:
    """The pipeline at `model`, a folder, hub id or single file; frozen and, but for the VAE, in `dtype`.

    A single file holds neither configuration nor tokenizers. They are those of the pipeline `config`, a folder or hub
    id; without it diffusers tells by the weights which of the known models' to fetch from the hub, once.

    Raises:
        ModelError: there is none, or it is of another kind.
    """
    with explained(model), quietly():
        if Path(model).is_file():
            pipeline = _from_file(architecture, model, config, dtype)
        else:
            pipeline = _from_folder(architecture, model, revision, dtype)
        pipeline.vae.to(architecture.vae_dtype(pipeline.vae, dtype))
    for network in pipeline.components.values():
        if isinstance(network, torch.nn.Module):
            network.requires_grad_(False).eval()
    return pipeline


def _from_folder(architecture: Architecture, model: str, revision: str | None, dtype: torch.dtype) -> Any:
    where, kind = source(model, revision), architecture.pipeline
    index = kind.load_config(model, **where)
    found = index.get("_class_name")
    if found != kind.__name__:
        raise ModelError(f"{model} is a {found}: the type {architecture.name} needs a {kind.__name__}")
    # diffusers wants to be told again of what a pipeline was saved without, such as Stable Diffusion 3's T5.
    absent = {name: None for name, part in index.items() if part == [None, None]}
    parts = {**absent, **architecture.extras}
    return kind.from_pretrained(model, dtype=dtype, use_safetensors=True, **parts, **where)


def _from_file(architecture: Architecture, model: str, config: str | None, dtype: torch.dtype) -> Any:
    _check_file(architecture, model)
    where = {"local_files_only": True} if config and Path(config).is_dir() else {}
    try:
        return architecture.pipeline.from_single_file(model, config=config, dtype=dtype, **architecture.extras, **where)
    except OSError as failure:
        raise ModelError(
            f"{model} holds weights alone, and their configuration and tokenizers can't be had from "
            f"{config or 'the hub'}: name a folder of such a pipeline as candidates.generator.config"
        ) from failure


def _check_file(architecture: Architecture, model: str) -> None:
    check_suffix(Path(model))
    if architecture.marker is None:
        raise ModelError(f"{model} is a single file: the type {architecture.name} takes a folder or a hub id")
    with safe_open(model, framework="pt") as file:
        if not any(name.startswith(architecture.marker) for name in file.keys()):  # noqa: SIM118
            raise ModelError(
                f"{model} holds no model of the type {architecture.name}: it has no {architecture.marker}*"
            )


def weights_of(
    architecture: Architecture,
    model: str,
    revision: str | None,
    config: str | None = None,
    adapter: Path | None = None,
    loras: Sequence[Lora] = (),
) -> tuple[Any, ...]:
    """What names the weights of a generator on every machine: all that they were loaded from, by its content."""
    base = (fingerprint(model, revision, "model_index.json"), adapter and fingerprint(str(adapter), None))
    added = [(fingerprint(str(lora_file(lora["path"], lora.get("file"))), None), lora["strength"]) for lora in loras]
    return architecture.name, *base, config, added


def add_adapter(pipeline: Any, folder: Path) -> None:
    """Puts the LoRA in `folder` on the pipeline's network.

    Raises:
        ModelError: there is none, or it fits another.
    """
    with explained(str(folder)), quietly():
        if not (folder / LORA_FILE).is_file():
            raise ModelError(f"no adapter at {folder}: there is no {LORA_FILE}")
        changes = read_changes(folder / LORA_FILE)
        misfits = find_misfits(pipeline.components, targets(pipeline.components), changes)
        if misfits:
            some = ", ".join(f"{name} ({reason})" for name, reason in list(misfits.items())[:3])
            raise ModelError(
                f"the adapter {folder} is of another model: {len(misfits)} of its {len(changes)} modules don't fit, "
                f"such as {some}"
            )
        pipeline.load_lora_weights(folder, weight_name=LORA_FILE, local_files_only=True, use_safetensors=True)


@contextmanager
def quietly() -> Iterator[None]:
    """diffusers, too, has bars of its own, and warns of a LoRA that leaves the text encoder as it is."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

"""Load diffusers pipelines and LoRAs from a folder, the hub or a single file: safetensors only."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDIMScheduler
from diffusers.loaders.single_file_utils import fetch_diffusers_config
from diffusers.utils import logging
from huggingface_hub import snapshot_download
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models import EXCHANGED, LORA_FILE, hub
from agfsync.models.architecture import Architecture
from agfsync.models.configuration import IMAGE_PROCESSOR
from agfsync.models.encoders import Encoders
from agfsync.models.files import CONFIG, find_variants
from agfsync.models.hub_errors import loading_errors
from agfsync.models.lora_files import lora_file, read_changes
from agfsync.models.lora_names import find_targets
from agfsync.models.loras import Lora, find_misfits
from agfsync.models.parts import PartSource, load_own_part, load_part, part_fingerprint, sketch_encoder
from agfsync.models.pretrained import (
    find_file,
    fingerprint_model,
    load_tokenizer,
    loading_arguments,
    silence_transformers,
)
from agfsync.models.single_file import (
    check_left_over,
    fill_network,
    load_file_tensors,
    read_prediction,
    select_tensors,
)

LIBRARIES = ("diffusers", "transformers")
LEFT_OUT = ("image_encoder", "feature_extractor")
"""The parts of pipelines for image prompts, which this package doesn't use."""
CONFIGURATION = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
"""The files of a pipeline other than its weights."""


@dataclass(frozen=True, slots=True)
class PipelineSource:
    """The sources of a pipeline's weights.

    `model` is a folder, a hub id at `revision`, or a single file; a single file takes the configuration and the
    tokenizers of `config`. `variant` is the variant of a folder's or hub id's weights, such as "fp16". `parts` are the
    sources of the parts that come from another model.
    """

    model: str
    revision: str | None = None
    config: str | None = None
    variant: str | None = None
    parts: Mapping[str, PartSource] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, model: str, *, revision: str | None, config: str | None = None, **more: Any) -> Self:
        """Return the source of a model from its settings; `more` are its `variant` and its parts, or None for each."""
        variant = more.pop("variant", None)
        parts = {name: PartSource.from_settings(each) for name, each in more.items() if each}
        return cls(model, revision, config, variant, parts)


def load_pipeline(architecture: Architecture, origin: PipelineSource, dtype: torch.dtype) -> Any:
    """Return the pipeline at `origin`, frozen and in `dtype`; the VAE may have another dtype.

    Every weight of its networks comes from the files, and every weight in the files is used. A single file has neither
    configuration nor tokenizers: they come from the pipeline `origin.config`, a folder or hub id. Without it, diffusers
    recognises the model by its weights, and they are fetched from the hub once.

    Raises:
        ModelError: there is no such pipeline, or it is incomplete or of another kind.
    """
    return load_with_encoders(architecture, origin, dtype)[0]


def load_with_encoders(
    architecture: Architecture, origin: PipelineSource, dtype: torch.dtype, *, lazy: bool = False
) -> tuple[Any, Encoders]:
    """Return the pipeline at `origin`, as `load_pipeline` does, and its text encoders and VAE, which can be released.

    With `lazy`, the weights of text encoders are loaded when they are required, except those of a single file.
    """
    model = origin.model
    with loading_errors(model), silence_libraries():
        is_file = Path(model).is_file()
        tensors = _file_tensors(architecture, origin) if is_file else {}
        folder = _find_configuration(origin, tensors) if is_file else _find_folder(architecture, origin)
        index = _read_index(architecture, folder, (origin.config or model) if is_file else model)
        reader = _PartReader(architecture, origin, folder, _find_classes(architecture, index), dtype)
        networks = reader.read_all(tensors, lazy=lazy)
        # diffusers needs an explicit None for each part that the pipeline was saved without, such as SD 3's T5.
        absent = {name: None for name, part in index.items() if part == [None, None] or name in LEFT_OUT}
        tokenizers = _read_tokenizers(index, folder)
        given = {**absent, **architecture.extras, **networks, **dict.fromkeys(tokenizers)}
        pipeline = architecture.pipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, **given)
        pipeline.register_modules(**tokenizers)
        _set_prediction(pipeline, _read_scheduler_settings(origin))
    return pipeline, Encoders(pipeline, reader.read)


def _find_folder(architecture: Architecture, origin: PipelineSource) -> Path:
    """Return the folder of the pipeline, fetched from the hub if necessary."""
    model, where, kind = origin.model, loading_arguments(origin.model, origin.revision), architecture.pipeline
    # The class is checked first, so that nothing is fetched for another kind of model.
    index = kind.load_config(model, **where)
    _check_class(architecture, model, index)
    if Path(model).is_dir():
        return Path(model)
    left_out = dict.fromkeys((*LEFT_OUT, *architecture.extras, *origin.parts))

    def fetch(variant: str | None) -> Path:
        return Path(kind.download(model, variant=variant, use_safetensors=True, **left_out, **where))

    try:
        folder = fetch(origin.variant)
    except OSError:
        there = find_variants({Path(file).name for file in hub.ask_hub(model, origin.revision).files})
        if origin.variant or len(there) != 1 or None in there:
            raise
        folder = fetch(*there)
    _fetch_replaced(origin, index)
    return folder


def _fetch_replaced(origin: PipelineSource, index: Mapping[str, Any]) -> None:
    """Fetch the configurations of the replaced parts of a hub model, which its download leaves out.

    A replacement from a single file needs it; for others it is only used, if available, to check that they fit.
    """
    for name, part in origin.parts.items():
        if not (index.get(name) or [None])[0]:
            continue
        if Path(part.model).is_file():
            find_file(origin.model, f"{name}/{CONFIG}", origin.revision)
        else:
            hub.fetch_file(origin.model, f"{name}/{CONFIG}", origin.revision)


def _find_configuration(origin: PipelineSource, tensors: Mapping[str, Tensor]) -> Path:
    """Return the folder with the configuration of the pipeline in a single file."""
    if origin.config and Path(origin.config).is_dir():
        return Path(origin.config)
    try:
        config = origin.config or fetch_diffusers_config(tensors)["pretrained_model_name_or_path"]
        return Path(snapshot_download(config, allow_patterns=CONFIGURATION))
    except OSError as failure:
        raise ModelError(
            f"{origin.model} holds weights alone, and their configuration and tokenizers can't be had from "
            f"{origin.config or 'the hub'}: name a folder of such a pipeline as model.config"
        ) from failure


def _read_index(architecture: Architecture, folder: Path, model: str) -> dict[str, Any]:
    """Return the library and class of each part of a pipeline."""
    index: dict[str, Any] = architecture.pipeline.load_config(str(folder), local_files_only=True)
    _check_class(architecture, model, index)
    return index


def _check_class(architecture: Architecture, model: str, index: Mapping[str, Any]) -> None:
    found, kind = index.get("_class_name"), architecture.pipeline
    if found != kind.__name__:
        raise ModelError(f"{model} is a {found}: the type {architecture.name} needs a {kind.__name__}")


@dataclass(frozen=True, slots=True)
class _PartReader:
    """Loads the networks of the pipeline at `origin`; `kinds` are their classes, by the names of the parts."""

    architecture: Architecture
    origin: PipelineSource
    folder: Path
    kinds: Mapping[str, Any]
    dtype: torch.dtype

    def read_all(self, tensors: Mapping[str, Tensor], *, lazy: bool) -> dict[str, Any]:
        """Return all networks. With `lazy`, the text encoders from a folder have no weights yet."""
        origin, kinds = self.origin, self.kinds
        for name in origin.parts.keys() - kinds.keys():
            raise ModelError(f"{origin.model} has no {name} that another could take the place of: leave out {name}")
        if tensors:
            known = [prefix for name in kinds for prefix in self.architecture.prefixes.get(name, ())]
            check_left_over(origin.model, tensors.keys(), known, self.architecture.pipeline.__name__)
        _check_variant(origin, [self.folder / name for name in kinds.keys() - origin.parts.keys()])
        sketched = {name for name in kinds if lazy and not tensors and name not in EXCHANGED}
        return {name: self._sketch(name) if name in sketched else self.read(name, tensors) for name in kinds}

    def read(self, name: str, tensors: Mapping[str, Tensor] | None = None) -> Any:
        """Return the network `name`, frozen. `tensors` are those of a single file; without them the file is read."""
        origin, kind = self.origin, self.kinds[name]
        label, prefixes = f"{origin.model} ({name})", self.architecture.prefixes.get(name, ())
        with silence_libraries():
            if name in origin.parts:
                network = load_own_part(name, kind, origin.parts[name], self.folder / name, prefixes, self.dtype)
            elif Path(origin.model).is_file():
                own = select_tensors(tensors or _file_tensors(self.architecture, origin), prefixes)
                if not own:
                    raise ModelError(_describe_missing(origin.model, name, prefixes))
                network = fill_network(kind, self.folder / name, own, prefixes, self.dtype, label)
            else:
                network = load_part(kind, self.folder / name, origin.variant, self.dtype, label)
            if name == "vae":
                network.to(self.architecture.vae_dtype(network, self.dtype))
        return network.requires_grad_(False).eval()

    def _sketch(self, name: str) -> Any:
        network = sketch_encoder(self.kinds[name], self.folder / name, self.dtype, f"{self.origin.model} ({name})")
        return network.requires_grad_(False).eval()


def _check_variant(origin: PipelineSource, folders: Sequence[Path]) -> None:
    """Check that at least one part has weights of the variant; the others may have weights without a variant."""
    if origin.variant is None:
        return
    if Path(origin.model).is_file():
        raise ModelError(f"{origin.model} is a single file, which has no variants: leave out variant {origin.variant}")
    there = {each for folder in folders for each in find_variants([path.name for path in folder.glob("*")])}
    if origin.variant not in there:
        names = ", ".join(sorted(str(each) for each in there - {None})) or "none"
        raise ModelError(f"{origin.model} has no weights of the variant {origin.variant}: of variants it has {names}")


def _describe_missing(model: str, name: str, prefixes: Sequence[str]) -> str:
    there = " or ".join(f"{prefix}*" for prefix in prefixes)
    remedy = f"name one as model.{name}" if name in EXCHANGED else "take a file that has one"
    return f"{model} holds no {name}, which would be {there}: {remedy}"


def _find_classes(architecture: Architecture, index: Mapping[str, Any]) -> dict[str, Any]:
    """Return the classes of the networks to load, by the names of the parts."""
    kinds = {}
    for name, part in index.items():
        if name in LEFT_OUT or name in architecture.extras or not isinstance(part, list) or part[0] not in LIBRARIES:
            continue
        kind = getattr(import_module(part[0]), part[1], None)
        if isinstance(kind, type) and issubclass(kind, torch.nn.Module):
            kinds[name] = kind
    return kinds


def _read_tokenizers(index: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the tokenizers of image-and-text processors (FLUX.2 dev): the processors themselves need torchvision."""
    processors = [
        name for name, part in index.items() if isinstance(part, list) and str(part[1]).endswith(IMAGE_PROCESSOR)
    ]
    return {name: load_tokenizer(str(folder / name), None) for name in processors if name not in LEFT_OUT}


def _file_tensors(architecture: Architecture, origin: PipelineSource) -> dict[str, Tensor]:
    """Return the tensors of a single file of this architecture."""
    model, marker = origin.model, architecture.marker
    if marker is None:
        raise ModelError(f"{model} is a single file: the type {architecture.name} takes a folder or a hub id")
    tensors = load_file_tensors(model)
    if not any(name.startswith(marker) for name in tensors):
        raise ModelError(f"{model} holds no model of the type {architecture.name}: it has no {marker}*")
    return tensors


def _read_scheduler_settings(origin: PipelineSource) -> dict[str, Any]:
    """Return the scheduler settings in the single file of the pipeline, or of the network that replaces its own."""
    settings = read_prediction(origin.model) if Path(origin.model).is_file() else {}
    part = next((origin.parts[name] for name in ("unet", "transformer") if name in origin.parts), None)
    if part is not None and Path(part.model).is_file():
        settings |= read_prediction(part.model)
    return settings


def _set_prediction(pipeline: Any, settings: Mapping[str, Any]) -> None:
    """Replace the pipeline's scheduler by one with these `settings`."""
    if not settings:
        return
    scheduler = pipeline.scheduler
    # With this key, `from_config` would drop what the pipeline has corrected as a default of the class.
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    known = all(key in scheduler.config for key in settings)
    # PNDM can't begin at pure noise; DDIM's steps are otherwise the same.
    kind = type(scheduler) if known else DDIMScheduler
    more = {} if known else {"clip_sample": False}
    pipeline.register_modules(scheduler=kind.from_config({**config, **more, **settings}))


def describe_weights(
    architecture: Architecture, origin: PipelineSource, adapter: Path | None = None, loras: Sequence[Lora] = ()
) -> tuple[Any, ...]:
    """Return the identity of a model's weights, equal on every machine: the content of all their sources."""
    model, revision = origin.model, origin.revision
    base = (fingerprint_model(model, revision, "model_index.json"), adapter and fingerprint_model(str(adapter), None))
    added = [
        (fingerprint_model(str(lora_file(lora["path"], lora.get("file"))), None), lora["strength"]) for lora in loras
    ]
    parts = {name: part_fingerprint(name, part) for name, part in sorted(origin.parts.items())}
    # Only included if set, so that the identities of earlier images don't change.
    later = {name: value for name, value in (("variant", origin.variant), ("parts", parts)) if value}
    return architecture.name, *base, origin.config, added, *([later] if later else [])


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Save a whole pipeline, with the current weights of its networks, as safetensors."""
    for part in pipeline.components.values():
        fast = getattr(part, "backend_tokenizer", None)
        if fast is not None:
            # The settings of its last call aren't saved: a resumed training may never have called it.
            fast.no_truncation()
            fast.no_padding()
    with silence_libraries():
        pipeline.save_pretrained(folder, safe_serialization=True)


def add_adapter(pipeline: Any, folder: Path) -> None:
    """Add the LoRA in `folder` to the pipeline's network.

    Raises:
        ModelError: there is none, or it doesn't fit the network.
    """
    with loading_errors(str(folder)), silence_libraries():
        if not (folder / LORA_FILE).is_file():
            raise ModelError(f"no adapter at {folder}: there is no {LORA_FILE}")
        changes = read_changes(folder / LORA_FILE)
        misfits = find_misfits(pipeline.components, find_targets(pipeline.components), changes)
        if misfits:
            some = ", ".join(f"{name} ({reason})" for name, reason in list(misfits.items())[:3])
            raise ModelError(
                f"the adapter {folder} is of another model: {len(misfits)} of its {len(changes)} modules don't fit, "
                f"such as {some}"
            )
        pipeline.load_lora_weights(folder, weight_name=LORA_FILE, local_files_only=True, use_safetensors=True)


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Silence the progress bars, messages and warnings of diffusers, transformers and the hub's client."""
    bars, verbosity, of_hub = logging.is_progress_bar_enabled(), logging.get_verbosity(), hub_logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        with silence_transformers():
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(of_hub)
        if bars:
            logging.enable_progress_bar()

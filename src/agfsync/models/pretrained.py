"""Pretrained weights: found in a folder or on the hub, loaded as safetensors only, and identified by their content."""

import hashlib
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import logging
from transformers.utils.hub import extract_commit_hash

from agfsync.errors import ModelError
from agfsync.models import hub
from agfsync.models.dtypes import torch_dtype
from agfsync.models.files import CONFIG, find_only_weights
from agfsync.models.hub_errors import loading_errors

NAMED_BY = ("*.json", "*.safetensors", "*.txt", "*.model")
"""The files that affect what a model computes: its configuration, weights and vocabulary."""
UNUSED = re.compile(
    r"(^|\.)position_ids$"  # a buffer with the positions, which older versions saved
    r"|(^|\.)logit_(scale|bias)$"  # of a contrastive loss
)
"""Weights without effect in any network, which a file may have in addition to its network's own."""
OF_ANOTHER_PART = re.compile(
    r"^(text|visual)_projection\.weight$|^vision_model\."  # of a CLIP from which only the text tower is loaded
    r"|^lm_head\.weight$"  # of a T5 from which only the encoder is loaded
)
"""Weights that a file may have if its network has no such part at all."""
HEAD = re.compile(r"^(predictor|mlp\.layers|layers\.\d+)\.")
"""The weights of a scorer's head, which may be in one file with its CLIP."""
COMPILED = "_orig_mod."
"""The prefix of the weights of a compiled model."""
OPTIONAL = ("num2words", "sentencepiece", "protobuf", "torchvision", "torchaudio", "librosa")
"""Packages that some processors of transformers need."""
_NAMED = 3
"""the most weights in one message"""


def torch_device(name: str) -> torch.device:
    """Return the device `name`; "auto" is the accelerator if there is one, else the CPU.

    Raises:
        ModelError: this machine, or the installed torch, has no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not there.get(device.type, True):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise ModelError(f"no device '{name}': there is {found}; auto takes the first")
    return device


def load_model(kind: Any, model: str, revision: str | None, dtype: str, device: str) -> Any:
    """Load the model of the transformers class `kind`, in evaluation mode on its device.

    Raises:
        ModelError: there is no such model, or its files don't have every weight of a `kind`.
    """
    with loading_errors(model), silence_transformers():
        loaded, report = kind.from_pretrained(
            model,
            dtype=torch_dtype(dtype, torch_device(device)),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            **loading_arguments(model, revision),
        )
    return _check_report(loaded, report, model).to(torch_device(device)).eval()


def fill_model(
    kind: Any, config: Any, tensors: Mapping[str, Tensor], name: str, dtype: str, device: str, **settings: Any
) -> Any:
    """Return a model of the transformers class `kind` with the weights `tensors`, set up as by `load_model`.

    `name` names the tensors in messages. The class takes `settings` in addition to `config`.

    Raises:
        ModelError: the tensors don't have every weight of a `kind` with this `config`.
    """
    with loading_errors(name), silence_transformers():
        made, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=torch_dtype(dtype, torch_device(device)),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    return _check_report(made, report, name).to(torch_device(device)).eval()


def load_config(model: str, revision: str | None) -> Any:
    """Load the configuration of `model`, of any class of transformers."""
    with loading_errors(model), silence_transformers():
        if not Path(model).is_dir():
            find_file(model, CONFIG, revision)  # Without it, transformers goes on and fails later, at the `model_type`.
        return AutoConfig.from_pretrained(model, trust_remote_code=False, **loading_arguments(model, revision))


def load_tensors(place: str, revision: str | None = None) -> dict[str, Tensor]:
    """Load the tensors of a safetensors file, or of a folder or hub id with one, on the CPU.

    Raises:
        ModelError: there is no safetensors file.
    """
    path = Path(place)
    if path.is_file() and path.suffix != ".safetensors":
        raise ModelError(f"{place} isn't a safetensors file: other kinds of weights can run code and aren't read")
    file = path if path.is_file() else _find_tensors(place, revision)
    with loading_errors(place):
        return load_file(file)


def _find_tensors(place: str, revision: str | None) -> Path:
    """Return model.safetensors of a folder or hub id, else its only safetensors file."""
    try:
        return find_file(place, "model.safetensors", revision)
    except ModelError:
        names = [each.name for each in Path(place).glob("*")]
        if hub.is_hub_id(place):
            names = hub.list_files(place, revision)
        if (only := find_only_weights(names)) is None:
            raise
    return find_file(place, only, revision)


def load_tokenizer(model: str, revision: str | None) -> Any:
    """Load the tokenizer of `model`."""
    with loading_errors(model), silence_transformers():
        return AutoTokenizer.from_pretrained(model, trust_remote_code=False, **loading_arguments(model, revision))


def load_image_processor(model: str, revision: str | None) -> Any:
    """Load the image processor of `model` on Pillow: torchvision resizes differently, and may not be installed."""
    with loading_errors(model), silence_transformers():
        return AutoImageProcessor.from_pretrained(
            model, backend="pil", trust_remote_code=False, **loading_arguments(model, revision)
        )


def load_processor(model: str, revision: str | None) -> Any:
    """Load the processor of a vision-language model, with images on Pillow and without its video processor.

    The video processor needs torchvision, and no videos are used here.

    Raises:
        ModelError: transformers has no processor of images and texts for `model`, or lacks a package for it.
    """
    kind = load_config(model, revision).model_type
    with loading_errors(model), silence_transformers():
        if not (name := PROCESSOR_MAPPING_NAMES.get(kind)):
            raise ModelError(f"{model} is a {kind} model, which transformers gives no processor of images and texts")
        try:
            found = _without_videos(getattr(transformers, name))
            without = {"video_processor": None} if "video_processor" in signature(found.__init__).parameters else {}
            return found.from_pretrained(model, backend="pil", **without, **loading_arguments(model, revision))
        except ImportError as failure:
            lacking = next((each for each in OPTIONAL if each in str(failure).lower()), None)
            if lacking is None:
                raise
            raise ModelError(f"{model} needs the package {lacking}: pip install {lacking}") from failure


def _without_videos(processor: Any) -> Any:
    """Return a subclass of `processor` without the attributes for videos."""
    parts = [part for part in processor.get_attributes() if "video" not in part]
    return type(processor.__name__, (processor,), {"get_attributes": classmethod(lambda cls: parts)})


def find_file(model: str, name: str, revision: str | None) -> Path:
    """Return the local path of the file `name` of `model`, fetched from the hub if necessary."""
    where = loading_arguments(model, revision)
    if Path(model).is_dir():
        if not (path := Path(model) / name).is_file():
            raise ModelError(f"can't load the model {model}: the folder has no file {name}")
        return path
    with loading_errors(model), silence_transformers():
        try:
            return Path(hf_hub_download(model, name, **where))
        except HfHubHTTPError:
            # The hub refuses, but the file may have been fetched before.
            if isinstance(cached := try_to_load_from_cache(model, name, **where), str):
                return Path(cached)
            raise


def load_settings(place: str) -> dict[str, Any]:
    """Load `config.json` of a folder or hub id; empty if there is none, or if `place` is a file."""
    if Path(place).is_file():
        return {}
    with loading_errors(place), silence_transformers():
        found = _config_file(place)
        settings = {} if found is None else json.loads(found.read_text(encoding="utf-8"))
    return settings if isinstance(settings, dict) else {}


def _config_file(place: str) -> Path | None:
    """Return the path of a model's config.json; None if it has none, or neither the hub nor the cache has it."""
    where = loading_arguments(place, None)
    if Path(place).is_dir():
        return path if (path := Path(place) / CONFIG).is_file() else None
    try:
        return Path(hf_hub_download(place, CONFIG, **where))
    except EntryNotFoundError as failure:
        if isinstance(failure.__cause__, HfHubHTTPError):
            raise
        return None


def _check_report(model: Any, report: Mapping[str, Any], name: str) -> Any:
    """Return `model` if the loading's `report` lists no weight as missing or unused."""
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    unexpected = [key for key in report["unexpected_keys"] if not HEAD.search(key)]
    check_weights(model, name, report["missing_keys"], mismatched, unexpected)
    return model


def check_weights(
    network: nn.Module,
    name: str,
    missing: Collection[str] = (),
    mismatched: Collection[str] = (),
    unexpected: Collection[str] = (),
) -> None:
    """Check that loading `name` filled all weights of `network`, and that unused weights have no effect on it.

    The libraries initialise missing weights at random or leave them on the device "meta", and skip unknown ones.

    Raises:
        ModelError: keys are missing, mismatched in shape, or unexpected.
    """
    tensors = chain(network.named_parameters(), network.named_buffers())
    unfilled = {*missing, *(key for key, tensor in tensors if tensor.is_meta)} - set(mismatched)
    parts = dict(network.named_children())
    unplaced = {
        key
        for key in unexpected
        if not UNUSED.search(key) and (key.split(".")[0] in parts or not OF_ANOTHER_PART.search(key))
    }
    if unfilled or mismatched or unplaced:
        raise ModelError(describe_misfit(name, type(network).__name__, unfilled, mismatched, unplaced))


def describe_misfit(
    name: str,
    kind: str,
    missing: Collection[str] = (),
    mismatched: Collection[str] = (),
    unexpected: Collection[str] = (),
) -> str:
    """Return the message that the weights of `name` don't fit a `kind`, with the names of some of them."""
    faults = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:_NAMED])}{', ...' if len(keys) > _NAMED else ''})"
        for keys, what in (
            (set(missing), "of its weights are missing"),
            (set(mismatched), "have another shape"),
            (set(unexpected), "have no place in it"),
        )
        if keys
    ]
    hint = f": the weights of a compiled model were saved; take {COMPILED} off their names"
    is_compiled = any(COMPILED in key for key in unexpected)
    return f"{name} has no weights that fit a {kind}: {'; '.join(faults)}{hint if is_compiled else ''}"


def fingerprint_model(model: str, revision: str | None, index: str = "config.json") -> str:
    """Return a model's identity, equal on every machine: a folder's or file's name and content, or a hub id's commit.

    The commit is read from the path of the cached file `index`, which every model of its kind has.
    """
    folder = Path(model)
    if folder.is_file():
        with folder.open("rb") as file:
            return f"{folder.name}@{hashlib.file_digest(file, 'blake2b').hexdigest()[:12]}"
    if not folder.is_dir():
        commit = extract_commit_hash(str(find_file(model, index, revision)), None)
        return f"{model}@{(commit or revision or 'main')[:12]}"
    content = hashlib.blake2b(digest_size=6)
    for path in sorted(path for pattern in NAMED_BY for path in folder.rglob(pattern)):
        with path.open("rb") as file:
            content.update(str(path.relative_to(folder)).encode() + hashlib.file_digest(file, "blake2b").digest())
    return f"{folder.name}@{content.hexdigest()}"


def loading_arguments(model: str, revision: str | None) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for `model`; for a folder they prevent any access to the network.

    Raises:
        ModelError: `model` is written as a path, and there is no such folder.
    """
    is_folder = Path(model).is_dir()
    if not is_folder and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise ModelError(f"no model at {model}: there is no such folder")
    return {"local_files_only": True} if is_folder else {"revision": revision or "main"}


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Silence the progress bars and tables of transformers, and the libraries' warnings."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

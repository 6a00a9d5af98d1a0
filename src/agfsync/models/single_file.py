"""Single files: a whole pipeline, or one of its networks, with the original names of the weights.

diffusers converts the names. Its loaders leave missing weights on the device "meta" and drop unknown ones, so the
weights are loaded here, and all of them are accounted for.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.loaders.single_file_utils import SD_2_TEXT_ENCODER_KEYS_TO_IGNORE, convert_open_clip_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from agfsync.errors import ModelError
from agfsync.models.hub_errors import loading_errors
from agfsync.models.pretrained import check_weights

_SUFFIX = ".safetensors"
TEXT_MODEL = "text_model."
LEFT_OVER = re.compile(
    r"^model_ema\."  # a second copy of the UNet
    r"|^(alphas|betas|sqrt_|log_one_minus_|posterior_|lvlb_|logvar|denoiser\.|scale_factor$|global_step$)"  # constants
    r"|^(v_pred|ztsnr)$"  # read by `read_prediction`
    r"|(^|\.)(loss|model_ema)\."  # of the VAE's training
    r"|(^|\.)attn_mask$"  # a constant of open_clip
    r"|(^|\.)position_ids$|(^|\.)logit_scale$|^conditioner\.embedders\.0\..*text_projection"  # unused by a text encoder
)
"""Tensors of a single file that belong to no part of a pipeline."""
MARKERS = {"stable-diffusion": "cond_stage_model.", "stable-diffusion-xl": "conditioner.embedders."}
"""The prefixes of the text encoders' weights in a single file of a whole pipeline, by its type."""
PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
SAID = ("modelspec.prediction_type", "modelspec.predict_key")
"""Keys of a header with the kind of prediction: of kohya's sd-scripts and Stability's ModelSpec; of ComfyUI."""


def check_suffix(path: Path) -> Path:
    """Return `path` if it has the suffix of safetensors files.

    Raises:
        ModelError: it has another suffix.
    """
    if path.suffix.casefold() != _SUFFIX:
        raise ModelError(f"{path} is no {_SUFFIX} file: other kinds can run code when they are read, and never are")
    return path


def load_file_tensors(path: str) -> dict[str, Tensor]:
    """Return the tensors of the file, on the CPU.

    Raises:
        ModelError: it is not a safetensors file, or is damaged.
    """
    check_suffix(Path(path))
    with loading_errors(path):
        return load_file(path)


def find_type(path: str) -> str:
    """Return the catalog's type of the pipeline in the file `path`, by the names of its text encoders' weights.

    Raises:
        ModelError: it is not a safetensors file, or has no whole pipeline of a type that single files support.
    """
    check_suffix(Path(path))
    with loading_errors(path), safe_open(path, framework="pt") as file:
        names = list(file.keys())
    for type_, marker in MARKERS.items():
        if any(name.startswith(marker) for name in names):
            return type_
    raise ModelError(f"{path} holds no whole model of the types {' and '.join(MARKERS)}: it has none of their weights")


def select_tensors(tensors: Mapping[str, Tensor], prefixes: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with one of `prefixes`."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(tuple(prefixes))}


def check_left_over(model: str, names: Collection[str], of_parts: Collection[str], kind: str) -> None:
    """Check that each tensor in a file belongs to a part (its name has a prefix in `of_parts`), or is in `LEFT_OVER`.

    Raises:
        ModelError: some don't, and would be left out.
    """
    rest = sorted(name for name in names if not name.startswith(tuple(of_parts)) and not LEFT_OVER.search(name))
    if rest:
        raise ModelError(
            f"{model} holds {len(rest)} weights that no part of a {kind} takes ({', '.join(rest[:3])}"
            f"{', ...' if len(rest) > 3 else ''}): it is another kind of model, or its names were changed"
        )


def read_prediction(path: str) -> dict[str, Any]:
    """Return the scheduler settings that a single file gives for its network; empty if it gives none.

    The presence of the tensors `v_pred` and `ztsnr`, whatever their values, is a marker for ComfyUI and AUTOMATIC1111.
    In the header, `modelspec.prediction_type` and `modelspec.predict_key` are "v" or "epsilon".

    Raises:
        ModelError: the header has another value.
    """
    with loading_errors(path), safe_open(path, framework="pt") as file:
        names, header = set(file.keys()), file.metadata() or {}
    said = next((header[key] for key in SAID if header.get(key)), None)
    if said is not None and said.lower() not in PREDICTIONS:
        raise ModelError(f"{path} says that its network predicts '{said}': v and epsilon are understood")
    settings: dict[str, Any] = {}
    if "v_pred" in names:
        settings["prediction_type"] = "v_prediction"
    elif said is not None:
        settings["prediction_type"] = PREDICTIONS[said.lower()]
    return settings | ({"rescale_betas_zero_snr": True} if "ztsnr" in names else {})


def fill_network(
    kind: Any, folder: Path, tensors: Mapping[str, Tensor], prefixes: Collection[str], dtype: torch.dtype, name: str
) -> Any:
    """Return a network of the class `kind`, with the configuration in `folder` and the weights in a file's `tensors`.

    Raises:
        ModelError: weights are missing, have another shape, or are left over.
    """
    with loading_errors(name):
        network = _make_empty(kind, folder)
        there = network.state_dict()
        named, unused = _rename_tensors(network, tensors, prefixes)
        fitting = {
            key: tensor.contiguous()
            for key, tensor in named.items()
            if key in there and tensor.shape == there[key].shape
        }
        mismatched = [key for key in named if key in there and key not in fitting]
        network.load_state_dict(fitting, strict=False, assign=True)
    check_weights(network, name, mismatched=mismatched, unexpected=[*(named.keys() - there.keys()), *unused])
    with loading_errors(name):
        return network.to(dtype).eval()


def _make_empty(kind: Any, folder: Path) -> Any:
    """Return the network without weights, on the device "meta"."""
    with init_empty_weights():
        if issubclass(kind, PreTrainedModel):
            return kind(kind.config_class.from_pretrained(folder, local_files_only=True))
        return kind.from_config(kind.load_config(str(folder), local_files_only=True))


def _rename_tensors(
    network: Any, tensors: Mapping[str, Tensor], prefixes: Collection[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by the network's names, and the names of the tensors that the conversion drops."""
    own = network.state_dict().keys()
    if 2 * len(own & tensors.keys()) >= len(own):
        named = dict(tensors)
        fix = getattr(network, "_fix_state_dict_keys_on_load", None)
        if fix is not None:
            fix(named)  # diffusers' names before 0.17
        return named, []
    convert = _encoder_conversion if isinstance(network, PreTrainedModel) else _network_conversion
    return _convert_and_account(convert(network, prefixes), tensors)


def _convert_and_account(
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the converted tensors, and the names of the tensors that `convert` ignores.

    Another conversion finds them: its tensors hold their own index, expanded so that they take no memory.
    """
    numbers = {
        name: torch.tensor(float(number)).expand([*tensor.shape[:1], *[1] * (tensor.dim() - 1)])
        for number, (name, tensor) in enumerate(tensors.items())
    }
    taken = {int(number) for tensor in convert(numbers).values() for number in tensor.unique()}
    unused = [name for number, name in enumerate(tensors) if number not in taken and not LEFT_OVER.search(name)]
    return convert(dict(tensors)), [name for name in unused if name not in SD_2_TEXT_ENCODER_KEYS_TO_IGNORE]


def _network_conversion(network: Any, prefixes: Collection[str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Return diffusers' own conversion for a UNet, VAE or transformer."""
    classes = [base.__name__ for base in type(network).__mro__]
    name = next((name for name in classes if name in SINGLE_FILE_LOADABLE_CLASSES), None)
    if name is None:
        raise ModelError(f"a {classes[0]} can't be read from a single file: name a folder or hub id")
    convert = SINGLE_FILE_LOADABLE_CLASSES[name]["checkpoint_mapping_fn"]
    (prefix, *_) = prefixes

    def convert_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = any(key.startswith(tuple(prefixes)) for key in tensors)
        # The UNet's conversion expects its prefix, which may be missing in a file with only a UNet.
        named = tensors if whole or name == "AutoencoderKL" else {prefix + key: t for key, t in tensors.items()}
        return {key: t for key, t in convert(named, config=network.config).items() if t is not None}

    return convert_tensors


def _encoder_conversion(network: Any, prefixes: Collection[str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Return the conversion for a CLIP text encoder, from transformers' or open_clip's names."""
    flat = not hasattr(network, "text_model")

    def convert_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        (prefix,) = [each for each in prefixes if any(key.startswith(each) for key in tensors)][:1]
        named = (
            convert_open_clip_checkpoint(network, tensors, prefix=prefix)
            if prefix.endswith(".model.")
            else {_strip_prefix(key, prefix): tensor for key, tensor in tensors.items()}
        )
        return {key.removeprefix(TEXT_MODEL) if flat else key: tensor for key, tensor in named.items()}

    return convert_tensors


def _strip_prefix(key: str, prefix: str) -> str:
    """Return the key without the file's prefix; keys outside the text model keep it, and so count as unexpected."""
    plain = key.removeprefix(prefix)
    known = plain.startswith((TEXT_MODEL, "text_projection", "logit_scale"))
    return plain if known else key

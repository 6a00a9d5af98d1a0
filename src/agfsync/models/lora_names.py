"""The names of a pipeline's weights in LoRA files.

A file names a module of the network by its path in diffusers or in the model's original code (CompVis' and Stability's
UNets, FLUX and Stable Diffusion 3's transformers), with dots or, as in kohya's scripts, with underscores, after a
prefix for the part of the pipeline. The original code fuses some modules into one: such a name means several modules
of diffusers, with their rows concatenated.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

_DENOISERS = ("unet", "transformer")
DOTTED = ("", "diffusion_model.", "model.diffusion_model.", "base_model.model.")
"""prefixes of a network's path, in addition to its name in the pipeline: none, ComfyUI's, the original's, peft's"""
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")
"""prefixes of a network's path with underscores: kohya's, OneTrainer's, LyCORIS'"""


@dataclass(frozen=True, slots=True)
class Target:
    """The modules that a name refers to, by their paths, in the order of their rows.

    If `swapped`, the original has the second half of the rows first (scale and shift of a final modulation).
    """

    part: str
    paths: tuple[str, ...]
    swapped: bool = False


def find_targets(parts: Mapping[str, Any]) -> dict[str, Target]:
    """Return the modules that each known name refers to, in a pipeline's `parts` (as in `pipeline.components`)."""
    networks = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    found: dict[str, Target] = {}
    for part, network in networks.items():
        paths = [path for path, module in network.named_modules() if getattr(module, "weight", None) is not None]
        if part in _DENOISERS:
            found |= _name_network(part, paths)
        elif part.startswith("text_encoder"):
            found |= _text_encoder(part, paths)
    return found


def _name_network(part: str, paths: list[str]) -> dict[str, Target]:
    known = {path: Target(part, (path,)) for path in paths}
    aliases = {**_name_originals(part, paths), **known}
    dotted = {
        f"{prefix}{alias}": target
        for prefix in (f"{part}.", f"{part}.base_model.model.", *DOTTED)
        for alias, target in aliases.items()
    }
    flat = {f"{prefix}{_flatten_path(alias)}": target for prefix in FLAT for alias, target in aliases.items()}
    return dotted | flat


def _text_encoder(part: str, paths: list[str]) -> dict[str, Target]:
    """Return a text encoder's names, with and without the level `text_model`, which transformers 5 has dropped."""
    number = part.removeprefix("text_encoder").removeprefix("_") or "1"
    flat = [f"lora_te{number}_", *(["lora_te_"] if number == "1" else [])]
    found: dict[str, Target] = {}
    for path in paths:
        short = path.removeprefix("text_model.")
        for alias in (short, f"text_model.{short}"):
            found |= {f"{prefix}{name}": Target(part, (path,)) for prefix, name in _spell_prefixes(part, flat, alias)}
    return found


def _spell_prefixes(part: str, flat: list[str], alias: str) -> list[tuple[str, str]]:
    return [
        (f"{part}.", alias),
        (f"{part}.base_model.model.", alias),
        *((prefix, _flatten_path(alias)) for prefix in flat),
    ]


def _flatten_path(path: str) -> str:
    return path.replace(".", "_")


def _name_originals(part: str, paths: list[str]) -> dict[str, Target]:
    """Return the names in the original code: a UNet's, or those of FLUX or Stable Diffusion 3."""
    if part == "unet":
        return {name: Target(part, (path,)) for name, path in _original_unet(paths)}
    named: dict[str, list[str]] = {}
    there = set(paths)
    context_last = max((int(path.split(".")[1]) for path in paths if path.startswith("transformer_blocks.")), default=0)
    is_flux = any(path.startswith("single_transformer_blocks.") for path in paths)
    for name, theirs in _list_flux_names(paths) if is_flux else _list_sd3_names(paths):
        if there.issuperset(theirs):
            named[name] = list(theirs)
    last = f"joint_blocks.{context_last}.context_block.adaLN_modulation.1"
    return {
        name: Target(part, tuple(theirs), swapped=name in ("final_layer.adaLN_modulation.1", last))
        for name, theirs in named.items()
    }


_UNET = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _original_unet(paths: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (CompVis' name, path): numbered blocks, each with its resnet, attention and down- or upsampler."""
    blocks = {theirs: ours for ours, theirs in _UNET.items()}
    for side, count, original in (("down_blocks", 1, "input_blocks"), ("up_blocks", 0, "output_blocks")):
        for block in range(_count_modules(paths, side)):
            here = f"{side}.{block}"
            for layer in range(_count_modules(paths, f"{here}.resnets")):
                blocks[f"{here}.resnets.{layer}"] = f"{original}.{count}.0"
                blocks[f"{here}.attentions.{layer}"] = f"{original}.{count}.1"
                count += 1
            if side == "down_blocks" and _count_modules(paths, f"{here}.downsamplers"):
                blocks[f"{here}.downsamplers.0.conv"] = f"{original}.{count}.0.op"
                count += 1
            place = 2 if _count_modules(paths, f"{here}.attentions") else 1
            blocks[f"{here}.upsamplers.0.conv"] = f"{original}.{count - 1}.{place}.conv"
    for path in paths:
        for depth in range(path.count(".") + 1, 0, -1):
            head = ".".join(path.split(".")[:depth])
            if head in blocks:
                rest = path[len(head) + 1 :]
                yield ".".join(filter(None, (blocks[head], RESNET.get(rest, rest)))), path
                break


def _count_modules(paths: list[str], under: str) -> int:
    """Return the number of numbered modules below a path."""
    steps = under.count(".") + 1
    return max((int(path.split(".")[steps]) + 1 for path in paths if path.startswith(f"{under}.")), default=0)


QKV = ("to_q", "to_k", "to_v")
ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
FLUX = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
FLUX_DOUBLE = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": [f"attn.{name}" for name in QKV],
    "txt_attn.qkv": [f"attn.{name}" for name in ADDED_QKV],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
    # XLabs' names in its LoRAs:
    "processor.qkv_lora1": [f"attn.{name}" for name in QKV],
    "processor.qkv_lora2": [f"attn.{name}" for name in ADDED_QKV],
    "processor.proj_lora1": ["attn.to_out.0"],
    "processor.proj_lora2": ["attn.to_add_out"],
}
FLUX_SINGLE = {
    "modulation.lin": ["norm.linear"],
    "linear1": [*(f"attn.{name}" for name in QKV), "proj_mlp"],
    "linear2": ["proj_out"],
    "processor.qkv_lora": [f"attn.{name}" for name in QKV],
    "processor.proj_lora": ["proj_out"],
}


def _list_flux_names(paths: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (Black Forest Labs' name, paths)."""
    yield from ((name, [theirs]) for name, theirs in FLUX.items())
    for kind, ours, names in (
        ("double_blocks", "transformer_blocks", FLUX_DOUBLE),
        ("single_blocks", "single_transformer_blocks", FLUX_SINGLE),
    ):
        for block in range(_count_modules(paths, ours)):
            for name, theirs in names.items():
                yield f"{kind}.{block}.{name}", [f"{ours}.{block}.{each}" for each in theirs]


SD3 = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
SD3_BLOCK = {
    "x_block.adaLN_modulation.1": ["norm1.linear"],
    "x_block.attn.qkv": [f"attn.{name}" for name in QKV],
    "x_block.attn.proj": ["attn.to_out.0"],
    "x_block.attn2.qkv": [f"attn2.{name}" for name in QKV],
    "x_block.attn2.proj": ["attn2.to_out.0"],
    "x_block.mlp.fc1": ["ff.net.0.proj"],
    "x_block.mlp.fc2": ["ff.net.2"],
    "context_block.adaLN_modulation.1": ["norm1_context.linear"],
    "context_block.attn.qkv": [f"attn.{name}" for name in ADDED_QKV],
    "context_block.attn.proj": ["attn.to_add_out"],
    "context_block.mlp.fc1": ["ff_context.net.0.proj"],
    "context_block.mlp.fc2": ["ff_context.net.2"],
}


def _list_sd3_names(paths: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (Stability's name, paths)."""
    yield from ((name, [theirs]) for name, theirs in SD3.items())
    for block in range(_count_modules(paths, "transformer_blocks")):
        for name, theirs in SD3_BLOCK.items():
            yield f"joint_blocks.{block}.{name}", [f"transformer_blocks.{block}.{each}" for each in theirs]

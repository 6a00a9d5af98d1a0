"""Every name of the original code against the converters of diffusers."""

import copy
from typing import Any

import pytest
import tiny_diffusion
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file
from single_file import write_single_file
from torch import nn

from agfsync.models.lora_names import Target, find_targets


def joined(network: nn.Module, target: Target) -> torch.Tensor:
    rows = torch.cat([network.get_submodule(path).weight for path in target.paths])  # type: ignore[arg-type]
    return torch.cat(rows.chunk(2)[::-1]) if target.swapped else rows


@pytest.mark.parametrize("make", [tiny_diffusion.pipeline, tiny_diffusion.xl_pipeline])
def test_every_weight_of_a_single_files_unet_has_its_module(make: Any, tmp_path: Any) -> None:
    pipeline = make()
    known = find_targets(pipeline.components)
    prefix, count = "model.diffusion_model.", 0
    for name, tensor in load_file(write_single_file(pipeline, tmp_path / "single.safetensors")).items():
        if name.startswith(prefix) and name.endswith(".weight"):
            path = name.removesuffix(".weight")
            target = known[path]
            flat = known["lora_unet_" + path.removeprefix(prefix).replace(".", "_")]
            assert torch.equal(joined(pipeline.unet, target), tensor) and flat == target, name
            count += 1
    assert count == sum(name.endswith(".weight") for name in pipeline.unet.state_dict())


def test_stable_diffusion_3_by_its_original_names_is_the_model_that_diffusers_reads() -> None:
    transformer = tiny_diffusion.sd3_pipeline().transformer
    known = find_targets({"transformer": transformer})
    original = {"pos_embed": transformer.pos_embed.pos_embed}
    for name, target in known.items():
        if name.startswith("model.diffusion_model.") and target.part == "transformer":
            short = name.removeprefix("model.diffusion_model.")
            if short.startswith(("joint_blocks", "final_layer", "x_embedder", "t_embedder", "y_emb", "context_emb")):
                original[f"{short}.weight"] = joined(transformer, target).detach()
                original[f"{short}.bias"] = torch.zeros(0)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(copy.copy(original))
    state = transformer.state_dict()
    weights = {name: tensor for name, tensor in converted.items() if name.endswith(".weight")}
    assert len(weights) == sum(name.endswith(".weight") and ".norm_" not in name for name in state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.items())


def test_fluxs_original_names_cover_its_weights() -> None:
    transformer = tiny_diffusion.flux_pipeline().transformer
    known = find_targets({"transformer": transformer})
    originals = ("img_in", "txt_in", "time_in", "vector_in", "guidance_in", "double_blocks", "single_blocks", "final")
    covered = [
        path
        for name, target in known.items()
        if name.startswith(originals) and "processor" not in name
        for path in target.paths
    ]
    linear = [path for path, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    assert sorted(covered) == sorted(linear)
    assert known["lora_unet_single_blocks_0_linear1"].paths == tuple(
        f"single_transformer_blocks.0.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    )
    assert known["final_layer.adaLN_modulation.1"].swapped


def test_text_encoders_are_known_by_kohyas_and_by_pefts_names() -> None:
    known = find_targets(tiny_diffusion.xl_pipeline().components)
    path = "encoder.layers.1.mlp.fc1"
    for name in ("lora_te_text_model_", "lora_te1_text_model_", "text_encoder.text_model.", "text_encoder."):
        spelt = path.replace(".", "_") if name.startswith("lora") else path
        assert known[name + spelt] == Target("text_encoder", (path,))
    for name in ("lora_te2_text_model_", "text_encoder_2.text_model.", "text_encoder_2."):
        spelt = path.replace(".", "_") if name.startswith("lora") else path
        assert known[name + spelt] == Target("text_encoder_2", (f"text_model.{path}",))

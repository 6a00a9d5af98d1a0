import torch

from agfsync.training.publish.kohya import convert_to_kohya, describe_lora

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
FLAT = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"


def test_names_as_other_programs_know_them() -> None:
    down, up = torch.ones(2, 8), torch.ones(8, 2)
    named = convert_to_kohya({f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up})
    assert named.keys() == {f"{FLAT}.lora_down.weight", f"{FLAT}.lora_up.weight", f"{FLAT}.alpha"}
    assert named[f"{FLAT}.lora_down.weight"] is down and named[f"{FLAT}.lora_up.weight"] is up
    assert named[f"{FLAT}.alpha"].item() == 2.0 and named[f"{FLAT}.alpha"].shape == ()


def test_says_of_what_model_it_is() -> None:
    assert describe_lora("a", 768, "epsilon", 4)["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert describe_lora("a", 2048, "epsilon", 4)["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert describe_lora("a", 1024, "v_prediction", 4)["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    spec = describe_lora("a", None, "v_prediction", 4)
    assert spec["modelspec.architecture"] == "stable-diffusion/lora" and spec["modelspec.prediction_type"] == "v"
    assert all(isinstance(value, str) for value in spec.values())

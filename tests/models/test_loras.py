"""LoRAs on whole pipelines: as diffusers and peft apply them, and never silently in part."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_diffusion
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.models.lora_names import find_targets
from agfsync.models.loras import fuse_loras

CASES = Path(__file__).parents[3] / "shared" / "cases" / "loras"
TO_Q = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
Pipelines = Mapping[str, Callable[[], Any]]
PIPELINES: Pipelines = {
    "sd": tiny_diffusion.pipeline,
    "xl": tiny_diffusion.xl_pipeline,
    "flux": tiny_diffusion.flux_pipeline,
}
MADE: dict[str, Any] = {}


def pipeline(kind: str) -> Any:
    """The networks of a pipeline that a LoRA may change, copied from one that is made once."""
    if kind not in MADE:
        MADE[kind] = PIPELINES[kind]()
    parts = {
        name: part for name, part in MADE[kind].components.items() if isinstance(part, nn.Module) and name != "vae"
    }
    copies = {name: copy.deepcopy(part) for name, part in parts.items()}
    return SimpleNamespace(components=copies, **copies)


def weights(made: Any) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor.clone()
        for part, network in made.components.items()
        if isinstance(network, nn.Module) and part != "vae"
        for name, tensor in network.state_dict().items()
    }


def changed(before: Mapping[str, Tensor], made: Any) -> dict[str, Tensor]:
    """What was added, by the weight's name."""
    return {
        name: tensor - before[name] for name, tensor in weights(made).items() if not torch.equal(tensor, before[name])
    }


def kohya(paths: Mapping[str, tuple[int, int]], rank: int = 2, alpha: float | None = 3.0) -> dict[str, Tensor]:
    """A random LoRA of the modules at `paths` with their outputs and inputs, small as trained ones are."""
    source, made = torch.Generator().manual_seed(5), {}
    for path, (outputs, inputs) in paths.items():
        made[f"{path}.lora_down.weight"] = torch.randn(rank, inputs, generator=source)
        made[f"{path}.lora_up.weight"] = 0.1 * torch.randn(outputs, rank, generator=source)
        if alpha is not None:
            made[f"{path}.alpha"] = torch.tensor(alpha)
    return made


def lora(path: Path, **settings: Any) -> dict[str, Any]:
    return {"path": str(path), "strength": 1.0, **settings}


def unet_modules(made: Any, flat: bool = True) -> dict[str, tuple[int, int]]:
    """The UNet's projections by kohya's names, with their sizes."""
    return {
        f"lora_unet_{name.replace('.', '_')}": (module.out_features, module.in_features)
        for name, module in made.unet.named_modules()
        if isinstance(module, nn.Linear) and "attn" in name
    }


KOHYA_TE = {
    f"text_model_encoder_layers_0_{name}": shape
    for name, shape in {
        "mlp_fc1": (2, 1),
        "mlp_fc2": (1, 2),
        "self_attn_q_proj": (1, 1),
        "self_attn_out_proj": (1, 1),
    }.items()
}


def text_modules(prefix: str, width: int) -> dict[str, tuple[int, int]]:
    return {f"{prefix}{name}": (o * width, i * width) for name, (o, i) in KOHYA_TE.items()}


@pytest.mark.parametrize("kind", ["sd", "xl"])
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_a_kohya_lora_of_unet_and_encoders_is_added_as_diffusers_adds_it(
    kind: str, alpha: float | None, tmp_path: Path
) -> None:
    ours, theirs = pipeline(kind), PIPELINES[kind]()
    modules = unet_modules(ours)
    # Transformers 5 names CLIP's modules otherwise, and diffusers 0.42 then finds them in SDXL's second encoder alone.
    if kind == "xl":
        modules |= text_modules("lora_te2_", 8)
    save_file(kohya(modules, alpha=alpha), tmp_path / "lora.safetensors")
    before = weights(ours)
    assert fuse_loras(ours, [lora(tmp_path, strength=0.7)]) == []
    theirs.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    theirs.fuse_lora(components=list(theirs.get_list_adapters()), lora_scale=0.7)
    theirs.unload_lora_weights()
    expected = changed(before, theirs)
    found = changed(before, ours)
    assert found.keys() == expected.keys() and len(found) == len(modules)
    for name, delta in found.items():
        torch.testing.assert_close(delta, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("sd", {"text_encoder": ("lora_te_", 16)}),
        ("xl", {"text_encoder": ("lora_te1_", 16), "text_encoder_2": ("lora_te2_", 8)}),
        ("flux", {"text_encoder": ("lora_te1_", 16)}),
    ],
)
def test_text_encoders_are_changed_by_up_times_down(kind: str, parts: Any, tmp_path: Path) -> None:
    made = pipeline(kind)
    modules = {name: shape for prefix, width in parts.values() for name, shape in text_modules(prefix, width).items()}
    tensors = kohya(modules, rank=2, alpha=3.0)
    save_file(tensors, tmp_path / "lora.safetensors")
    before = weights(made)
    fuse_loras(made, [lora(tmp_path)])
    found = changed(before, made)
    assert len(found) == len(modules)
    known = find_targets(made.components)
    for name in modules:
        target = known[name]
        expected = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"] * 1.5
        torch.testing.assert_close(found[f"{target.part}.{target.paths[0]}.weight"], expected, atol=1e-5, rtol=1e-4)


def test_fluxs_fused_projections_are_changed_row_by_row(tmp_path: Path) -> None:
    modules = {"lora_unet_double_blocks_0_img_attn_qkv": (96, 32), "lora_unet_double_blocks_0_txt_mlp_0": (128, 32)}
    single = {"lora_unet_single_blocks_0_linear1": (96 + 128, 32), "lora_unet_final_layer_adaLN_modulation_1": (64, 32)}
    tensors = kohya(modules | single)
    save_file(tensors, tmp_path / "lora.safetensors")
    made = pipeline("flux")
    before = weights(made)
    fuse_loras(made, [lora(tmp_path)])
    found, known = changed(before, made), find_targets(made.components)
    assert len(found) == 3 + 1 + 4 + 1
    for name in modules | single:
        rows = torch.cat([found[f"transformer.{path}.weight"] for path in known[name].paths])
        expected = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"] * 1.5
        if name.endswith("adaLN_modulation_1"):
            expected = torch.cat(expected.chunk(2)[::-1])
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-4)


def test_xlabs_names_are_what_diffusers_makes_of_them(tmp_path: Path) -> None:
    shapes = {"double_blocks.0.processor.qkv_lora1": (96, 32), "double_blocks.0.processor.qkv_lora2": (96, 32)}
    shapes |= {"double_blocks.0.processor.proj_lora1": (32, 32), "double_blocks.0.processor.proj_lora2": (32, 32)}
    shapes |= {"single_blocks.0.processor.qkv_lora": (96, 32), "single_blocks.0.processor.proj_lora": (32, 160)}
    tensors = {name.replace(".lora_", "."): each for name, each in kohya(shapes, alpha=None).items()}
    save_file(tensors, tmp_path / "xlabs.safetensors")
    ours, theirs = pipeline("flux"), PIPELINES["flux"]()
    before = weights(ours)
    fuse_loras(ours, [lora(tmp_path)])
    theirs.load_lora_weights(tmp_path, weight_name="xlabs.safetensors")
    theirs.fuse_lora(components=["transformer"])
    theirs.unload_lora_weights()
    expected = changed(before, theirs)
    found = changed(before, ours)
    assert found.keys() == expected.keys() and len(found) == 3 + 3 + 1 + 1 + 3 + 1
    for name, delta in found.items():
        torch.testing.assert_close(delta, expected[name], atol=1e-5, rtol=1e-4)


def peft_state(network: nn.Module, config: Any) -> tuple[dict[str, Tensor], nn.Module]:
    """A random adapter's weights by peft's names, and `network` with it merged in."""
    torch.manual_seed(3)
    adapted = get_peft_model(network, config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            elif "default" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    state = {name: tensor.clone().contiguous() for name, tensor in get_peft_model_state_dict(adapted).items()}
    return state, adapted.merge_and_unload()


MODULES = ["to_q", "to_out.0", "conv1", "proj_in"]
KINDS = {
    "lora": LoraConfig(r=2, lora_alpha=2, target_modules=MODULES),
    "dora": LoraConfig(r=2, lora_alpha=2, target_modules=MODULES, use_dora=True),
    "loha": LoHaConfig(r=2, alpha=2, target_modules=MODULES),
    "lokr": LoKrConfig(r=2, alpha=2, target_modules=MODULES),
    "lokr-cp": LoKrConfig(r=2, alpha=2, target_modules=MODULES, use_effective_conv2d=True, decompose_both=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("naming", ["peft", "kohya"])
def test_every_kind_changes_a_unet_as_peft_does(kind: str, naming: str, tmp_path: Path) -> None:
    made = pipeline("sd")
    state, merged = peft_state(copy.deepcopy(made.unet), KINDS[kind])
    if naming == "kohya":
        # Peft's magnitudes of a convolution are (1, O, 1, 1), LyCORIS' are (O, 1, 1, 1).
        state = {
            _kohyas(k): t.transpose(0, 1).contiguous() if "magn" in k and t.dim() > 1 else t for k, t in state.items()
        }
    save_file(state, tmp_path / "lora.safetensors")
    before = weights(made)
    assert fuse_loras(made, [lora(tmp_path)]) == []
    assert len(changed(before, made)) > 10
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(made.unet.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)


def _kohyas(key: str) -> str:
    """As LyCORIS writes peft's `key`."""
    path = key.removeprefix("base_model.model.")
    for theirs, ours in ((".lora_A", ".lora_down"), (".lora_B", ".lora_up"), (".lora_magnitude_vector", ".dora_scale")):
        path = path.replace(theirs, ours)
    for suffix in (".lora_down", ".lora_up", ".dora_scale", ".hada_", ".lokr_"):
        if suffix in path:
            name, _, rest = path.partition(suffix)
            tail = suffix + rest
            if suffix == ".dora_scale":
                tail = suffix
            return f"lora_unet_{name.replace('.', '_')}{tail}"
    raise AssertionError(key)


def test_a_dora_of_half_strength_goes_half_the_way(tmp_path: Path) -> None:
    tensors = kohya({f"lora_unet_{TO_Q}": (16, 16)}) | {f"lora_unet_{TO_Q}.dora_scale": torch.rand(16, 1) + 0.5}
    save_file(tensors, tmp_path / "lora.safetensors")
    deltas = []
    for strength in (0.0, 0.5, 1.0):
        made = pipeline("sd")
        before = weights(made)
        fuse_loras(made, [lora(tmp_path, strength=strength)])
        deltas.append(changed(before, made))
    (whole,), (half,) = deltas[2].values(), deltas[1].values()
    assert not deltas[0]
    torch.testing.assert_close(half, whole / 2, atol=1e-6, rtol=1e-4)
    plain = pipeline("sd")
    before = weights(plain)
    save_file({k: v for k, v in tensors.items() if "dora" not in k}, tmp_path / "lora.safetensors")
    fuse_loras(plain, [lora(tmp_path)])
    (without,) = changed(before, plain).values()
    assert (without - whole).abs().max() > 0.01


def test_differences_and_biases_are_added_as_they_are(tmp_path: Path) -> None:
    tensors = {
        "lora_unet_conv_in.diff": torch.full((8, 4, 3, 3), 0.5),
        "lora_unet_conv_in.diff_b": torch.full((8,), 0.25),
        "lora_unet_conv_norm_out.w_norm": torch.full((8,), 2.0),
        "lora_unet_conv_norm_out.b_norm": torch.full((8,), 3.0),
    }
    save_file(tensors, tmp_path / "full.safetensors")
    made = pipeline("sd")
    before = weights(made)
    fuse_loras(made, [lora(tmp_path, strength=2.0)])
    found = {name: float(delta.mean()) for name, delta in changed(before, made).items()}
    assert found == pytest.approx(
        {
            "unet.conv_in.weight": 1,
            "unet.conv_in.bias": 0.5,
            "unet.conv_norm_out.weight": 4,
            "unet.conv_norm_out.bias": 6,
        }
    )


HALF_KNOWN = {
    f"lora_unet_{path}": (16, 16)
    for path in (TO_Q, TO_Q.replace("blocks_0_attn", "blocks_1_attn"), TO_Q.replace("s_1", "s_2"))
}


def test_a_lora_of_which_only_a_part_fits_is_refused_or_counted(tmp_path: Path) -> None:
    """Case 52."""
    save_file(kohya(HALF_KNOWN), tmp_path / "half.safetensors")
    made = pipeline("sd")
    before = weights(made)
    with pytest.raises(ModelError) as caught:
        fuse_loras(made, [lora(tmp_path)])
    assert not changed(before, made)
    for words in (
        f"of the LoRA {tmp_path} 1 of 3 modules fit this model",
        "blocks_1_attn1_to_q (no such module)",
        "partial: true",
    ):
        assert words in str(caught.value)
    (remark,) = fuse_loras(made, [lora(tmp_path, partial=True)])
    assert "1 of 3 modules fit this model and are drawn with; left out: lora_unet_down_blocks_1" in remark
    assert len(changed(before, made)) == 1


def test_a_lora_of_another_model_is_refused_even_in_part(tmp_path: Path) -> None:
    save_file(
        kohya({"lora_unet_double_blocks_0_img_attn_proj": (32, 32), f"lora_unet_{TO_Q}": (32, 32)}),
        tmp_path / "x.safetensors",
    )
    with pytest.raises(
        ModelError, match=r"made for another model: it changes nothing of this one; it has .*no such module"
    ):
        fuse_loras(pipeline("sd"), [lora(tmp_path, partial=True)])


TENSORS = kohya({**unet_modules(tiny_diffusion.pipeline()), **text_modules("lora_te_", 16)})
NAMES = sorted({name.split(".")[0] for name in TENSORS})
SPOILT = ["rename", "drop up", "drop down", "unknown", "reshape", "transpose", "dora"]


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(spoilt=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(SPOILT), max_size=6), partial=st.booleans())
def test_no_lora_is_ever_silently_drawn_in_part(
    spoilt: dict[str, str], partial: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tensors = dict(TENSORS)
    for name, how in spoilt.items():
        up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
        if how == "rename":
            for end in ("lora_up.weight", "lora_down.weight", "alpha"):
                tensors[f"{name}x.{end}"] = tensors.pop(f"{name}.{end}")
        elif how.startswith("drop"):
            del tensors[f"{name}.lora_{how.split()[1]}.weight"]
        elif how == "unknown":
            tensors[f"{name}.oft_blocks"] = torch.ones(1)
        elif how == "reshape":
            tensors[f"{name}.lora_up.weight"] = up[:-1].contiguous()
        elif how == "transpose":
            tensors[f"{name}.lora_up.weight"] = torch.ones(2 * len(up), 2)
            tensors[f"{name}.lora_down.weight"] = down[:, ::2].contiguous()
        else:
            tensors[f"{name}.dora_scale"] = torch.ones(len(up) + 100, 1)
    folder = tmp_path_factory.mktemp("lora")
    save_file(tensors, folder / "lora.safetensors")
    made = pipeline("sd")
    before = weights(made)
    if spoilt and not partial:
        with pytest.raises(ModelError, match=f"{len(NAMES) - len(spoilt)} of {len(NAMES)} modules fit"):
            fuse_loras(made, [lora(folder)])
        assert not changed(before, made)
        return
    remarks = fuse_loras(made, [lora(folder, partial=partial)])
    assert len(remarks) == bool(spoilt)
    assert all(f"{len(NAMES) - len(spoilt)} of {len(NAMES)} modules fit" in remark for remark in remarks)
    assert len(changed(before, made)) == len(NAMES) - len(spoilt)


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
@pytest.mark.parametrize(
    ("file", "kind", "count"),
    [
        ("flux-kohya-full.safetensors", "flux", 7),
        ("folder-other-name", "sd", 1),
        ("sd-kohya-both-full.safetensors", "sd", 7),
        ("sd-kohya-noalpha.safetensors", "sd", 1),
        ("sd-loha.safetensors", "sd", 1),
        ("sd-lokr.safetensors", "sd", 1),
        ("sd-peft-te-old.safetensors", "sd", 2),
        ("sd-peft-unet.safetensors", "sd", 1),
        ("xl-kohya-full.safetensors", "xl", 25),
    ],
)
def test_the_cases_are_applied_as_a_whole(file: str, kind: str, count: int) -> None:
    made = pipeline(kind)
    before = weights(made)
    assert fuse_loras(made, [lora(CASES / file)]) == []
    assert len(changed(before, made)) == count

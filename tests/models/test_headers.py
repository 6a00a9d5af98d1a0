"""Weights that files lack, by their headers."""

import json
from pathlib import Path

import pytest
import tiny_diffusion
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from agfsync.errors import ModelError
from agfsync.models.files import weight_files
from agfsync.models.headers import check_headers
from agfsync.models.parts import load_part

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    tiny_diffusion.pipeline().vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def check(folder: Path, kind: str = "AutoencoderKL", library: str = "diffusers") -> None:
    check_headers(library, kind, json.loads((folder / "config.json").read_text()), folder, "mine (vae)")


def test_whole_parts_pass(tmp_path: Path) -> None:
    for number, pipeline in enumerate(
        (tiny_diffusion.pipeline(), tiny_diffusion.xl_pipeline(), tiny_diffusion.sd3_pipeline())
    ):
        pipeline.save_pretrained(tmp_path / str(number))
        index = json.loads((tmp_path / str(number) / "model_index.json").read_text())
        for name, part in index.items():
            folder = tmp_path / str(number) / name
            if (folder / "config.json").is_file():
                check(folder, part[1], part[0])


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_an_encoders_names_may_have_their_old_prefix_or_none(tmp_path: Path, prefix: str) -> None:
    tiny_diffusion.pipeline().text_encoder.save_pretrained(tmp_path)
    weights = {
        name.removeprefix("text_model."): each for name, each in load_file(tmp_path / "model.safetensors").items()
    }
    save_file({prefix + name: each for name, each in weights.items()}, tmp_path / "model.safetensors")
    check(tmp_path, "CLIPTextModel", "transformers")


def test_old_names_of_a_vaes_attention_are_known(vae: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(vae / FILE)
    for ours, theirs in old.items():
        weights = {name.replace(ours, theirs): each for name, each in weights.items()}
    save_file(weights, vae / FILE)
    check(vae)


def test_each_missing_weight_is_told(vae: Path) -> None:
    weights = load_file(vae / FILE)
    for name in weights:
        save_file({other: each for other, each in weights.items() if other != name}, vae / FILE)
        with pytest.raises(
            ModelError, match=r"mine \(vae\) .* an? AutoencoderKL: 1 of its weights are missing"
        ) as caught:
            check(vae)
        assert name in str(caught.value)


def test_shards_are_read_together_and_other_files_are_not(vae: Path) -> None:
    weights = load_file(vae / FILE)
    (vae / FILE).unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, some in parts.items():
        save_file({name: weights[name] for name in some}, vae / file)
    where = {name: file for file, some in parts.items() for name in some}
    (vae / f"{FILE}.index.json").write_text(json.dumps({"weight_map": where}))
    assert [file.name for file in weight_files(vae, "diffusers")] == list(parts)
    check(vae)
    save_file({names[0]: weights[names[0]]}, vae / "a.safetensors")
    with pytest.raises(ModelError, match="4 of its weights are missing"):
        check(vae)


def test_the_files_of_the_variant_are_read_where_there_are_any(vae: Path) -> None:
    weights = load_file(vae / FILE)
    save_file(dict(list(weights.items())[1:]), vae / "diffusion_pytorch_model.fp16.safetensors")
    config = json.loads((vae / "config.json").read_text())
    for variant in (None, "ema"):
        check_headers("diffusers", "AutoencoderKL", config, vae, "mine (vae)", variant)
    with pytest.raises(ModelError, match="1 of its weights are missing"):
        check_headers("diffusers", "AutoencoderKL", config, vae, "mine (vae)", "fp16")


def test_a_file_by_the_other_librarys_name_is_left_aside(vae: Path) -> None:
    save_file({"stray": torch.ones(1)}, vae / "model.safetensors")
    check(vae)


def test_a_compiled_models_names_are_hinted_at_as_by_the_loading(vae: Path) -> None:
    save_file({f"_orig_mod.{name}": each for name, each in load_file(vae / FILE).items()}, vae / FILE)
    with pytest.raises(ModelError, match="take _orig_mod. off their names") as caught:
        check(vae)
    with pytest.raises(ModelError) as loaded:
        load_part(AutoencoderKL, vae, None, torch.float32, "mine (vae)")
    assert str(caught.value) == str(loaded.value)


def test_a_file_that_cant_be_read_is_said_in_a_line(vae: Path) -> None:
    (vae / FILE).write_bytes(bytes(64))
    with pytest.raises(ModelError, match="can't be read"):
        check(vae)


def test_what_isnt_known_is_left_to_the_loading(vae: Path) -> None:
    check(vae, "NoSuchModel")
    (vae / FILE).rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    assert weight_files(vae, "diffusers") == [] and len(weight_files(vae, "diffusers", "fp16")) == 1
    check(vae)
    assert not torch.cuda.is_initialized()

"""Which file a LoRA is, and what is read of it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from agfsync.errors import ModelError
from agfsync.models import LORA_FILE
from agfsync.models.lora_files import (
    _METADATA,
    PEFT_CONFIG,
    PEFT_FILE,
    choose_file,
    group_changes,
    lora_file,
    read_changes,
)

UP, DOWN = torch.ones(4, 2), torch.ones(2, 3)


def lora(name: str) -> dict[str, Tensor]:
    return {f"{name}.lora_A.weight": DOWN.clone(), f"{name}.lora_B.weight": UP.clone()}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["my_style_v2.safetensors"], "my_style_v2.safetensors"),
        (["MY.SAFETENSORS", "readme.md", ".hidden.safetensors"], "MY.SAFETENSORS"),
        ([LORA_FILE, "a.safetensors", "b.safetensors"], LORA_FILE),
        ([PEFT_FILE, "a.safetensors"], PEFT_FILE),
        (["one.safetensors", "checkpoints/2.safetensors", "checkpoints/1.safetensors"], "one.safetensors"),
        (["weights/one.safetensors"], "weights/one.safetensors"),
    ],
)
def test_the_one_that_is_meant_is_taken(names: list[str], chosen: str) -> None:
    assert choose_file("place", names) == chosen


def test_of_several_one_must_be_named() -> None:
    names = [f"{n}.safetensors" for n in "ab"]
    with pytest.raises(ModelError, match=r"there are 2 LoRAs at place: choose one by `file`: a\.safetensors, b\.safe"):
        choose_file("place", names)
    assert choose_file("place", names, "b.safetensors") == "b.safetensors"
    with pytest.raises(ModelError, match=r"the LoRA place has no file c\.safetensors: it has a\.safetensors, b\.saf"):
        choose_file("place", names, "c.safetensors")
    with pytest.raises(ModelError, match=r"no LoRA at place: it has no \.safetensors file"):
        choose_file("place", ["lora.ckpt"])
    with pytest.raises(ModelError, match=r"0\.safetensors, .* and 12 more$"):
        choose_file("place", [f"{n}.safetensors" for n in range(20)])


def test_a_folders_only_file_is_found_and_a_file_is_itself(tmp_path: Path) -> None:
    save_file(lora("x"), tmp_path / "my_style.safetensors")
    assert lora_file(str(tmp_path)) == lora_file(str(tmp_path / "my_style.safetensors"))
    with pytest.raises(ModelError, match=r"leave out `file`"):
        lora_file(str(tmp_path / "my_style.safetensors"), "other.safetensors")
    with pytest.raises(ModelError, match="no such folder"):
        lora_file(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "spelt",
    [
        ("lora_down.weight", "lora_up.weight"),
        ("lora.down.weight", "lora.up.weight"),
        ("lora_A.weight", "lora_B.weight"),
        ("lora_A.default.weight", "lora_B.default.weight"),
        ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    ],
)
def test_every_spelling_of_a_lora_is_one_change(spelt: tuple[str, str]) -> None:
    down, up = (f"unet.mid.to_q.{each}" for each in spelt)
    (change,) = group_changes({down: DOWN, up: UP, "unet.mid.to_q.alpha": torch.tensor(3.0)})
    assert (change.name, set(change.parts), change.alpha) == ("unet.mid.to_q", {"lora_down", "lora_up"}, 3.0)
    assert len(change.keys) == 3 and not change.unknown


def test_the_layers_of_old_processors_are_those_of_the_attention() -> None:
    keys = [
        f"unet.mid.attn1.processor.{name}_lora.{side}.weight" for name in ("to_q", "to_out") for side in ("down", "up")
    ]
    changes = group_changes({key: DOWN if "down" in key else UP for key in keys})
    assert [change.name for change in changes] == ["unet.mid.attn1.to_out.0", "unet.mid.attn1.to_q"]


def test_every_key_is_in_a_change() -> None:
    keys = [
        "a.oft_blocks",
        "a.lora_down.weight",
        "b",
        "c.bundle_emb.string",
        "d.lora_mid.weight",
        "d.lokr_t2",
        "d.diff_b",
    ]
    changes = group_changes(dict.fromkeys(keys, torch.ones(1)))
    assert sorted(key for change in changes for key in change.keys) == sorted(keys)
    assert sorted(key for change in changes for key in change.unknown) == ["a.oft_blocks", "b", "c.bundle_emb.string"]


def test_pefts_own_folder_has_the_strength_in_its_configuration(tmp_path: Path) -> None:
    save_file(lora("base_model.model.mid.to_q") | lora("base_model.model.mid.to_k"), tmp_path / PEFT_FILE)
    config = {"r": 2, "lora_alpha": 6, "use_rslora": True, "alpha_pattern": {"mid.to_k": 10}}
    (tmp_path / PEFT_CONFIG).write_text(json.dumps(config))
    scales = {
        change.name[-4:]: (change.alpha, change.rank, change.by_root)
        for change in read_changes(lora_file(str(tmp_path)))
    }
    assert scales == {"to_k": (10.0, 2, True), "to_q": (6.0, 2, True)}


def test_diffusers_keeps_pefts_configuration_in_the_header(tmp_path: Path) -> None:
    header = {
        _METADATA: json.dumps({"unet.r": 2, "unet.lora_alpha": 8, "text_encoder.r": 2, "text_encoder.lora_alpha": 1})
    }
    save_file(lora("unet.to_q") | lora("text_encoder.q_proj"), tmp_path / LORA_FILE, metadata=header)
    assert {c.name: c.alpha for c in read_changes(lora_file(str(tmp_path)))} == {
        "unet.to_q": 8,
        "text_encoder.q_proj": 1,
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(bad: float, tmp_path: Path) -> None:
    save_file(lora("x") | {"y.alpha": torch.tensor(bad)}, tmp_path / LORA_FILE)
    with pytest.raises(ModelError, match=r"y\.alpha holds values that are not finite"):
        read_changes(tmp_path / LORA_FILE)


def test_an_empty_or_cut_file_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / LORA_FILE)
    with pytest.raises(ModelError, match="is empty"):
        read_changes(tmp_path / LORA_FILE)
    save_file(lora("x"), tmp_path / LORA_FILE)
    (tmp_path / LORA_FILE).write_bytes((tmp_path / LORA_FILE).read_bytes()[:-5])
    with pytest.raises(ModelError, match="can't load the model"):
        read_changes(tmp_path / LORA_FILE)

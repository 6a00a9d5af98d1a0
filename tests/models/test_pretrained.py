"""Where models are looked for, and what names them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from agfsync.errors import ModelError
from agfsync.models import hub_errors, pretrained

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CLIPTextModel(CLIPTextConfig(**SMALL, vocab_size=8)).save_pretrained(tmp_path / "text")
    return tmp_path / "text"


def test_a_model_comes_ready_to_use(folder: Path) -> None:
    model = pretrained.load_model(CLIPTextModel, str(folder), None, "bf16", "cpu")
    assert model.dtype == torch.bfloat16
    assert not model.training


def test_a_path_without_a_folder_is_not_looked_up_on_the_network(tmp_path: Path) -> None:
    for model in (str(tmp_path / "none"), "./none", "a/b/c"):
        with pytest.raises(ModelError, match="no such folder"):
            pretrained.source(model, None)
    assert pretrained.source("owner/name", "abc") == {"revision": "abc"}
    assert pretrained.source(str(tmp_path), None) == {"local_files_only": True}


def test_weights_of_another_model_are_an_error(folder: Path) -> None:
    config = CLIPVisionConfig(**SMALL, image_size=8, patch_size=4)
    config.save_pretrained(folder)
    with pytest.raises(ModelError, match="CLIPVisionModel"):
        pretrained.load_model(CLIPVisionModel, str(folder), None, "fp32", "cpu")


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: dict(list(tensors.items())[1:]), r"1 of its weights are missing \("),
        (
            lambda tensors: tensors | {"encoder.lora_A.weight": torch.ones(2)},
            r"1 have no place in it \(encoder\.lora_A",
        ),
        (lambda tensors: {f"_orig_mod.{k}": t for k, t in tensors.items()}, "compiled model .* take _orig_mod. off"),
        (lambda tensors: {k: torch.ones(*t.shape, 2) for k, t in tensors.items()}, "have another shape"),
    ],
)
def test_weights_that_are_not_applied_are_an_error(folder: Path, change: Any, told: str) -> None:
    rewrite(folder / "model.safetensors", change)
    with pytest.raises(ModelError, match=f"text has no weights that fit a CLIPTextModel: .*{told}") as caught:
        pretrained.load_model(CLIPTextModel, str(folder), None, "fp32", "cpu")
    assert "\n" not in str(caught.value)


def test_weights_without_effect_may_be_left_over(folder: Path) -> None:
    names = (
        "embeddings.position_ids",
        "logit_scale",
        "logit_bias",
        "text_projection.weight",
        "visual_projection.weight",
    )
    more = {name: torch.ones(2) for name in (*names, "vision_model.a.weight", "predictor.weight", "layers.0.bias")}
    rewrite(folder / "model.safetensors", lambda tensors: tensors | more)
    pretrained.load_model(CLIPTextModel, str(folder), None, "fp32", "cpu")


def test_what_another_part_may_have_is_of_no_effect_only_where_there_is_none() -> None:
    network = torch.nn.ModuleDict({"vision_model": torch.nn.Linear(1, 1)})
    with pytest.raises(ModelError, match=r"vision_model\.more"):
        pretrained.check_weights(network, "it", unexpected=["vision_model.more"])
    pretrained.check_weights(torch.nn.Linear(1, 1), "it", unexpected=["vision_model.more"])


def test_weights_left_on_meta_are_missing() -> None:
    with pytest.raises(
        ModelError, match=r"it has no weights that fit a Linear: 2 of its weights are missing \(bias, wei"
    ):
        pretrained.check_weights(torch.nn.Linear(1, 1, device="meta"), "it")


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    rewrite(folder / "model.safetensors", lambda tensors: tensors | {"logit_scale": torch.ones(1)})
    pretrained.load_model(CLIPTextModel, str(folder), None, "fp32", "cpu")
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_weights_cut_short_are_an_error(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="can't load the model"):
        pretrained.load_model(CLIPTextModel, str(folder), None, "fp32", "cpu")


def test_pickled_weights_are_not_read(folder: Path) -> None:
    model = CLIPTextModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        pretrained.load_model(CLIPTextModel, str(folder), None, "fp32", "cpu")


def test_a_lack_of_memory_is_no_fault_of_the_models() -> None:
    with pytest.raises(torch.OutOfMemoryError), hub_errors.loading_errors("model"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_fingerprint_follows_the_content(folder: Path) -> None:
    before = pretrained.fingerprint(str(folder), None)
    moved = folder.rename(folder.parent / "elsewhere") / ".." / "elsewhere"
    assert before.partition("@")[2] == pretrained.fingerprint(str(moved), None).partition("@")[2]
    (moved / "config.json").write_text("{}")
    assert before.partition("@")[2] != pretrained.fingerprint(str(moved), None).partition("@")[2]


def test_an_explicit_device_is_taken_as_it_is() -> None:
    assert pretrained.torch_device("cpu") == torch.device("cpu")
    assert pretrained.torch_device("auto").type in {"cpu", "cuda", "mps"}


def test_a_device_that_isnt_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("gpu", "cuda:0"):
        with pytest.raises(ModelError, match=f"no device '{name}': there is .*cpu; auto takes the first"):
            pretrained.torch_device(name)

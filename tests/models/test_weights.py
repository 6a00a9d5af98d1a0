"""Which weights are here, and how much would be downloaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agfsync.models import hub
from agfsync.models.weights import WeightQuery, Weights, find_weights

INDEX = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "safety_checker": ["x", "S"]}
PIPELINE = {
    "model_index.json": 1,
    "unet/config.json": 1,
    "unet/diffusion_pytorch_model.safetensors": 100,
    "unet/diffusion_pytorch_model.fp16.safetensors": 50,
    "unet/diffusion_pytorch_model.bin": 100,
    "vae/config.json": 1,
    "vae/diffusion_pytorch_model-00001-of-00002.safetensors": 10,
    "vae/diffusion_pytorch_model-00002-of-00002.safetensors": 10,
    "safety_checker/model.safetensors": 1000,
    "v1-5-pruned.safetensors": 7000,
}


def _pipeline(model: str) -> WeightQuery:
    return WeightQuery(model, role="model")


def test_only_what_is_loaded_would_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ask_hub", lambda *_: hub.HubAnswer("c", PIPELINE))
    found = find_weights(_pipeline("owner/name"))
    assert not found.here and found.to_download == 120
    pickles = {"pytorch_model.bin": 100, "config.json": 1}
    monkeypatch.setattr(hub, "ask_hub", lambda *_: hub.HubAnswer("c", pickles))
    assert "no weights as .safetensors" in find_weights(WeightQuery("owner/name")).fault


def test_a_cached_pipeline_is_here_when_all_of_it_is(hub_cache: Callable[..., str]) -> None:
    without = [name for name in PIPELINE if not name.startswith(("vae/diff", "safety"))]
    hub_cache("owner/name", *without)
    folder = hub.find_snapshot("owner/name")
    assert folder is not None
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    found = find_weights(_pipeline("owner/name"))
    assert not found.here and found.fault == hub.NO_NETWORK
    (folder / "vae" / "diffusion_pytorch_model.safetensors").touch()
    assert find_weights(_pipeline("owner/name")).here


def test_a_shard_that_is_missing_is_noticed(tmp_path: Path) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (tmp_path / shards[0]).touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    query = WeightQuery(str(tmp_path))
    assert not find_weights(query).here
    (tmp_path / shards[1]).touch()
    assert find_weights(query).here


def test_a_file_of_another_kind_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "head.pt").touch()
    found = find_weights(WeightQuery(str(tmp_path / "head.pt"), role="head"))
    assert not found.here and "no .safetensors file" in found.fault
    file = tmp_path / "head.safetensors"
    file.touch()
    assert find_weights(WeightQuery(str(file), role="head")) == Weights(True)


def test_weights_of_half_precision_alone_count(tmp_path: Path) -> None:
    for part, name in (("unet", "diffusion_pytorch_model.fp16"), ("vae", "diffusion_pytorch_model.fp16")):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").touch()
        (tmp_path / part / f"{name}.safetensors").touch()
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    assert find_weights(_pipeline(str(tmp_path))).here


def test_a_replaced_part_is_neither_needed_nor_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "ask_hub", lambda *_: hub.HubAnswer("c", PIPELINE))
    query = WeightQuery("owner/name", role="model", without=("vae",))
    assert find_weights(query).to_download == 100
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").touch()
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").touch()
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    assert not find_weights(_pipeline(str(tmp_path))).here
    assert find_weights(WeightQuery(str(tmp_path), role="model", without=("vae",))).here


def test_the_variants_files_count_where_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ask_hub", lambda *_: hub.HubAnswer("c", PIPELINE))
    query = WeightQuery("owner/name", role="model", variant="fp16")
    assert find_weights(query).to_download == 50 + 20


def test_shards_in_a_parts_folder_are_counted_there(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    stem = "diffusion_pytorch_model"
    shards = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (tmp_path / "unet" / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "unet" / shards[0]).touch()
    query = WeightQuery(str(tmp_path), role="unet")
    assert not find_weights(query).here
    (tmp_path / "unet" / shards[1]).touch()
    assert find_weights(query).here


def test_a_lora_is_the_file_that_would_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def query(model: str, file: str | None = None) -> WeightQuery:
        return WeightQuery(model, role="lora", file=file)

    (tmp_path / "my_style.safetensors").touch()
    assert find_weights(query(str(tmp_path))).here
    (tmp_path / "older.safetensors").touch()
    found = find_weights(query(str(tmp_path)))
    assert not found.here and "choose one by `file`: my_style.safetensors, older.safetensors" in found.fault
    assert find_weights(query(str(tmp_path), "older.safetensors")).here
    files = {"a.safetensors": 30, "b.safetensors": 50, "lora.bin": 1}
    monkeypatch.setattr(hub, "ask_hub", lambda *_: hub.HubAnswer("c", files))
    assert find_weights(query("owner/name", "b.safetensors")).to_download == 50
    assert "choose one by `file`" in find_weights(query("owner/name")).fault


def test_parts_from_elsewhere_are_looked_for(tmp_path: Path) -> None:
    for name in ("unet/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        assert find_weights(WeightQuery(str(folder), role="unet")).here
    assert not find_weights(WeightQuery(str(tmp_path), role="vae")).here

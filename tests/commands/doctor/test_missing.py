"""The doctor looks for every model, and refuses the LoRAs that a run would refuse, without loading the model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from agfsync.catalog import find_place
from agfsync.commands.doctor.missing import find_lora_faults, list_loaded, report_weights
from agfsync.commands.doctor.page import Examination
from agfsync.errors import ModelError
from agfsync.models import hub
from agfsync.models.weights import WeightQuery, find_weights
from agfsync.pipeline.checks import check_generators
from agfsync.recipe import resolve_recipe
from agfsync.recipe.models import SamplingLora, StableDiffusionSettings, TransformerSettings

TO_Q = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


def faults(model: Path, **lora: object) -> list[str]:
    return list(find_lora_faults(StableDiffusionSettings(path=str(model), loras=(SamplingLora.model_validate(lora),))))


def lora(*names: str) -> dict[str, torch.Tensor]:
    ends = {"lora_down.weight": (2, 16), "lora_up.weight": (16, 2)}
    return {f"{name}.{end}": torch.ones(*shape) for name in names for end, shape in ends.items()}


def test_a_lora_that_fits_in_part_is_told(tiny_generator: Path, tmp_path: Path) -> None:
    save_file(lora(TO_Q), tmp_path / "whole.safetensors")
    save_file(lora(TO_Q, f"{TO_Q}x"), tmp_path / "half.safetensors")
    assert faults(tiny_generator, path=str(tmp_path / "whole.safetensors")) == []
    (told,) = faults(tiny_generator, path=str(tmp_path), file="half.safetensors")
    assert "1 of 2 modules fit this model" in told
    assert faults(tiny_generator, path=str(tmp_path), file="half.safetensors", partial=True) == []


def test_a_network_that_isnt_the_models_own_is_left_to_the_loading(tiny_generator: Path, tmp_path: Path) -> None:
    save_file(lora(f"{TO_Q}x"), tmp_path / "lora.safetensors")
    one = (SamplingLora(path=str(tmp_path / "lora.safetensors")),)
    assert len(list(find_lora_faults(StableDiffusionSettings(path=str(tiny_generator), loras=one)))) == 1
    for kind, part in ((StableDiffusionSettings, "unet"), (TransformerSettings, "transformer")):
        settings = kind.model_validate({"path": str(tiny_generator), part: "a/b", "loras": one})
        assert list(find_lora_faults(settings)) == []


def test_a_single_file_without_a_configuration_is_left_to_the_loading(tiny_generator: Path, tmp_path: Path) -> None:
    save_file(lora(f"{TO_Q}x"), tmp_path / "lora.safetensors")
    one = (SamplingLora(path=str(tmp_path / "lora.safetensors")),)
    file = str(tmp_path / "model.safetensors")
    assert list(find_lora_faults(StableDiffusionSettings(path=file, loras=one))) == []
    assert len(list(find_lora_faults(StableDiffusionSettings(path=file, config=str(tiny_generator), loras=one)))) == 1


def test_of_loras_and_models_that_arent_at_hand_nothing_is_told(
    tiny_generator: Path, tmp_path: Path, hub_cache: object
) -> None:
    assert faults(tiny_generator, path="somebody/lora") == []
    assert faults(tmp_path / "nowhere", path=str(tmp_path)) == []
    save_file(lora(TO_Q), tmp_path / "a.safetensors")
    save_file(lora(TO_Q), tmp_path / "b.safetensors")
    assert faults(tiny_generator, path=str(tmp_path)) == []


def test_the_embedded_models_are_here() -> None:
    loaded = list_loaded(resolve_recipe("shapes"))
    assert {query.model for query in loaded} == {
        "embedded:generator", "embedded:vqa", "embedded:clip", "embedded:aesthetic",
    }  # fmt: skip
    assert all(find_weights(replace(query, model=find_place(query.model))).here for query in loaded)


def test_a_hub_model_that_cant_be_had_is_reported_in_the_words_of_the_run(
    hub_cache: object, make_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = {"type": "clip", "path": "some/model", "revision": "v1"}
    recipe = make_recipe(scorers={"clip": clip}, pairs={"choose": {"weights": {"clip": 1.0}}})
    for faulty, says in ((None, "all of it"), (hub.HubAnswer(fault="it is gated"), "it is gated")):
        if faulty:
            monkeypatch.setattr(hub, "ask_hub", lambda *_, answer=faulty: answer)
        report_weights(recipe, found := Examination("mine", "cpu", [], 0.0))
        with pytest.raises(ModelError) as caught:
            check_generators(recipe, ["scores"])
        assert found.missing == [str(caught.value)]
        assert found.missing[0].startswith("can't load the model some/model at v1 (scorers.clip): ")
        assert says in found.missing[0]


def test_every_model_of_a_generator_is_looked_for() -> None:
    more = [
        "model.refiner={from_step: 40}",
        "model.loras=[{path: somebody/lora}]",
        "model.vae=somebody/vae",
        "model.unet={path: some/unet, revision: v2}",
        "model.variant=fp16",
        "candidates.beside={other: {type: stable-diffusion, path: some/other}}",
        "scorers.mine={type: clip, path: some/clip, weights: some/weights}",
    ]
    found = {place: query for query, place in list_loaded(resolve_recipe("sdxl", more)).items()}
    base = found["model"]
    assert (base.role, base.without, base.variant) == ("model", ("vae", "unet"), "fp16")
    assert found["model.refiner"].role == "refiner" and found["model.loras.0"].role == "lora"
    assert found["model.vae"] == WeightQuery("somebody/vae", role="vae")
    assert found["model.unet"] == WeightQuery("some/unet", "v2", "unet")
    assert found["candidates.beside.other"] == WeightQuery("some/other", role="model")
    assert found["scorers.mine.weights"].model == "some/weights" and "scorers.mine" not in found

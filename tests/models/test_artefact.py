"""The description of a trained model."""

from pathlib import Path

import pytest

from agfsync.errors import ModelError
from agfsync.models.artefact import MODEL_FILE, ModelArtefact

BASE = {"type": "stable-diffusion", "path": "owner/base", "revision": "v1", "variant": "fp16", "vae": {"path": "a/b"}}


def test_it_comes_back(tmp_path: Path) -> None:
    made = ModelArtefact("adapters", {"path": "owner/base"}, ("pytorch_lora_weights.safetensors",))
    made.save(tmp_path)
    assert ModelArtefact.load(tmp_path) == made


def test_adapters_are_put_onto_the_base(tmp_path: Path) -> None:
    built = ModelArtefact("adapters", BASE, ("lora.safetensors",)).extend_arguments(BASE, tmp_path)
    assert built == {**BASE, "adapter": tmp_path}


def test_a_pipeline_has_its_own_parts(tmp_path: Path) -> None:
    built = ModelArtefact("pipeline", BASE).extend_arguments(BASE, tmp_path)
    assert built == {"type": "stable-diffusion", "path": str(tmp_path), "revision": None, "variant": None, "vae": None}


def test_steering_is_given_to_the_base(tmp_path: Path) -> None:
    steering = {"type": "syngen", "strength": 20}
    assert ModelArtefact("base", BASE, steering=steering).extend_arguments(BASE, tmp_path)["steering"] == steering


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', '{"format": 2, "kind": "pipeline"}'])
def test_what_is_no_description_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match="no trained model at .*: there is no model.json"):
        ModelArtefact.load(tmp_path)
    (tmp_path / MODEL_FILE).write_text(text)
    with pytest.raises(ModelError, match="model.json (is no description of a model|has format 2)"):
        ModelArtefact.load(tmp_path)

"""A CLIP by open_clip's names is the CLIP that it was."""

from pathlib import Path

import pytest
import torch
from published import as_open_clip
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from agfsync.errors import ModelError
from agfsync.scorers import Item
from agfsync.scorers.backbone import Backbone
from agfsync.scorers.open_clip import in_transformers_names


@pytest.mark.parametrize("prefix", ["", "model."])
def test_every_tensor_comes_back(prefix: str, folders: Path) -> None:
    state = CLIPModel.from_pretrained(folders / "clip").state_dict()
    published = {prefix + name: tensor for name, tensor in as_open_clip(state).items()}
    back = in_transformers_names(published)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_transformers_own_names_are_left_alone(folders: Path) -> None:
    state = load_file(folders / "clip" / "model.safetensors")
    assert in_transformers_names(state).keys() == state.keys()


def test_it_embeds_as_it_did(folders: Path, items: list[Item], tmp_path: Path) -> None:
    state = CLIPModel.from_pretrained(folders / "clip").state_dict()
    save_file(as_open_clip(state), tmp_path / "model.safetensors")
    before = Backbone(str(folders / "clip"), device="cpu")
    for weights in (tmp_path, tmp_path / "model.safetensors"):
        after = Backbone(str(folders / "clip"), device="cpu", weights=str(weights))
        images, prompts = [item.image for item in items], [item.prompt for item in items]
        assert torch.equal(before.embed_images(images), after.embed_images(images))
        assert torch.equal(before.embed_texts(prompts)[0], after.embed_texts(prompts)[0])


def test_weights_that_leave_something_out_or_are_of_another_size_are_an_error(folders: Path, tmp_path: Path) -> None:
    whole = load_file(folders / "hps.safetensors")
    less = {name: tensor for name, tensor in whole.items() if "ln_final" not in name}
    wider = whole | {"visual.proj": torch.zeros(16, 9)}
    for n, state in enumerate((less, wider)):
        save_file(state, tmp_path / f"{n}.safetensors")
        with pytest.raises(ModelError, match=f"{n}.safetensors has no weights that fit"):
            Backbone(str(folders / "clip"), device="cpu", weights=str(tmp_path / f"{n}.safetensors"))

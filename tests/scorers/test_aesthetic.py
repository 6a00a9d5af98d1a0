"""The aesthetic head: LAION's layout, its folder, its range."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.aesthetic import Aesthetic, AestheticHead


def test_the_default_head_has_the_names_and_shapes_of_laions() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in AestheticHead().state_dict().items() if "weight" in name}
    assert shapes == {
        "layers.0.weight": (1024, 768),
        "layers.2.weight": (128, 1024),
        "layers.4.weight": (64, 128),
        "layers.6.weight": (16, 64),
        "layers.7.weight": (1, 16),
    }


def test_it_is_linear_without_an_activation() -> None:
    head = AestheticHead(embedding_dim=4, hidden=(8, 4)).eval()
    x, y = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(head(x) + head(y), head(x + y) + head(torch.zeros(1, 4)), atol=1e-6)


def test_a_head_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    head = AestheticHead(embedding_dim=4, hidden=(8, 4), activation="relu").eval()
    head.save(tmp_path / "head")
    again = AestheticHead.from_folder(tmp_path / "head")
    x = torch.randn(3, 4)
    assert torch.equal(head(x), again(x))
    assert again.config == head.config
    assert not again.training


def test_half_precision_weights_are_read_in_full(tmp_path: Path) -> None:
    AestheticHead(embedding_dim=4, hidden=(8,)).half().save(tmp_path)
    assert {weight.dtype for weight in AestheticHead.from_folder(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(("rating", "value"), [(-3.0, 0.0), (4.25, 42.5), (12.0, 100.0)])
def test_ratings_are_clamped_to_their_scale(
    rating: float, value: float, folders: Path, items: list[Item], tmp_path: Path
) -> None:
    result = _constant(rating, folders, tmp_path).score(items[:1])
    assert result == [Measurement(value)]


def test_what_is_no_number_is_unscored(folders: Path, items: list[Item], tmp_path: Path) -> None:
    assert _constant(float("nan"), folders, tmp_path).score(items[:1]) == [
        Unscored("the head's rating is not a number")
    ]


def test_a_head_of_another_clip_is_refused(folders: Path, tmp_path: Path) -> None:
    AestheticHead(embedding_dim=5, hidden=(2,)).save(tmp_path)
    with pytest.raises(ModelError, match=r"width 5, .* makes 8"):
        Aesthetic(model=str(folders / "clip"), head=str(tmp_path), device="cpu")


def test_no_head_is_an_error(folders: Path) -> None:
    with pytest.raises(ModelError, match="needs a head"):
        Aesthetic(model=str(folders / "clip"), head=None)


def test_a_head_that_lacks_weights_is_an_error(tmp_path: Path) -> None:
    AestheticHead(embedding_dim=4, hidden=(2,)).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({"layers.0.weight": weights["layers.0.weight"]}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=str(tmp_path)):
        AestheticHead.from_folder(tmp_path)


def test_a_head_that_is_no_head_is_an_error(tmp_path: Path) -> None:
    AestheticHead(embedding_dim=4, hidden=(2,)).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"embedding_dim": 4, "hidden": [3]}))
    with pytest.raises(ModelError, match="size mismatch"):
        AestheticHead.from_folder(tmp_path)


def _constant(rating: float, folders: Path, folder: Path) -> Aesthetic:
    """A scorer whose head rates every picture alike."""
    head = AestheticHead(embedding_dim=8, hidden=(2,))
    for weight in head.parameters():
        torch.nn.init.zeros_(weight)
    torch.nn.init.constant_(head.layers[-1].bias, rating)
    head.save(folder)
    return Aesthetic(model=str(folders / "clip"), head=str(folder), device="cpu")

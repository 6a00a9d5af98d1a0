"""The aesthetic scorer: its head and its range."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.backbone import Backbone
from agfsync.scorers.heads import Head


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
    Head(embedding_dim=5, hidden=(2,)).save(tmp_path)
    with pytest.raises(ModelError, match=r"width 5, .* makes 8"):
        Aesthetic(path=str(folders / "clip"), head=str(tmp_path), device="cpu")


def test_no_head_is_an_error(folders: Path) -> None:
    with pytest.raises(ModelError, match="needs a head"):
        Aesthetic(path=str(folders / "clip"), head=None)


@pytest.mark.parametrize(
    "state", [{"weight": (1, 8), "bias": (1,)}, {"layers.0.weight": (1, 8), "layers.0.bias": (1,)}]
)
def test_laions_file_alone_is_a_head(
    state: dict[str, tuple[int, ...]], folders: Path, items: list[Item], tmp_path: Path
) -> None:
    tensors = {name: torch.full(shape, 0.5) for name, shape in state.items()}
    save_file(tensors, tmp_path / "head.safetensors")
    scorer = Aesthetic(path=str(folders / "clip"), head=str(tmp_path / "head.safetensors"), device="cpu")
    sums = Backbone(str(folders / "clip"), device="cpu").embed_images([item.image for item in items]).sum(1)
    values = [result.value for result in scorer.score(items) if isinstance(result, Measurement)]
    assert values == pytest.approx([10 * max(0.5 * float(each) + 0.5, 0) for each in sums], abs=1e-3)


def _constant(rating: float, folders: Path, folder: Path) -> Aesthetic:
    """A scorer whose head rates every image alike."""
    head = Head(embedding_dim=8, hidden=(2,))
    for weight in head.parameters():
        torch.nn.init.zeros_(weight)
    torch.nn.init.constant_(head.layers[-1].bias, rating)
    head.save(folder)
    return Aesthetic(path=str(folders / "clip"), head=str(folder), device="cpu")

"""Heads by the names and numbers under which they are published."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from agfsync.commands.convert import convert_weights
from agfsync.errors import ModelError
from agfsync.scorers.heads import Head

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "heads"
"""LAION's heads, and the embedding that V1 rates nearest to each whole rating."""
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="LAION's heads aren't here")
V2 = {0: (8, 6), 2: (5, 8), 4: (4, 5), 6: (3, 4), 7: (1, 3)}
V2_RELU = {0: (8, 6), 3: (5, 8), 6: (4, 5), 9: (3, 4), 11: (1, 3)}


def _linear(layers: dict[int, tuple[int, int]], prefix: str = "layers.") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"{prefix}{n}.{name}": torch.randn(shape, generator=generator)
        for n, (rows, columns) in layers.items()
        for name, shape in (("weight", (rows, columns)), ("bias", (rows,)))
    }


def test_the_default_head_has_the_names_and_shapes_of_laions() -> None:
    shapes = {name: tuple(weight.shape) for name, weight in Head().state_dict().items() if "weight" in name}
    assert shapes == {
        "layers.0.weight": (1024, 768),
        "layers.2.weight": (128, 1024),
        "layers.4.weight": (64, 128),
        "layers.6.weight": (16, 64),
        "layers.7.weight": (1, 16),
    }


def test_it_is_linear_without_an_activation() -> None:
    head = Head(embedding_dim=4, hidden=(8, 4)).eval()
    x, y = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(head(x) + head(y), head(x + y) + head(torch.zeros(1, 4)), atol=1e-6)


@pytest.mark.parametrize("prefix", ["layers.", "mlp.layers."])
def test_laions_v2_is_read_from_a_file_and_from_a_folder(prefix: str, tmp_path: Path) -> None:
    state = _linear(V2, prefix)
    save_file(state | {"vision_model.encoder.layers.0.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    x = torch.randn(3, 6)
    expected = x
    for n in V2:
        expected = expected @ state[f"{prefix}{n}.weight"].T + state[f"{prefix}{n}.bias"]
    for place in (tmp_path, tmp_path / "model.safetensors"):
        assert torch.allclose(Head.load(place)(x), expected.squeeze(-1), atol=1e-4)


def test_the_numbers_tell_laions_relu_head(tmp_path: Path) -> None:
    save_file(_linear(V2_RELU), tmp_path / "relu.safetensors")
    modules: list[nn.Module] = []
    for n, (rows, columns) in V2_RELU.items():
        modules.append(nn.Linear(columns, rows))
        if n != 11:
            modules += [nn.ReLU(), nn.Dropout(0.2)] if n != 9 else [nn.ReLU()]
    theirs = nn.Sequential(*modules)
    theirs.load_state_dict({n.removeprefix("layers."): t for n, t in _linear(V2_RELU).items()})
    head, x = Head.load(tmp_path / "relu.safetensors"), torch.randn(3, 6)
    assert head.config["activation"] == "relu"
    assert torch.allclose(head(x), theirs.eval()(x).squeeze(-1), atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "predictor."])
def test_laions_v1_is_one_linear_layer(prefix: str, tmp_path: Path) -> None:
    layer = nn.Linear(6, 1)
    save_file({prefix + name: tensor for name, tensor in layer.state_dict().items()}, tmp_path / "v1.safetensors")
    head, x = Head.load(tmp_path / "v1.safetensors"), torch.randn(3, 6)
    assert head.embedding_dim == 6
    assert torch.allclose(head(x), layer(x).squeeze(-1), atol=1e-6)


def test_a_head_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    head = Head(embedding_dim=4, hidden=(8, 4), activation="relu").eval()
    head.save(tmp_path / "head")
    again = Head.load(tmp_path / "head")
    x = torch.randn(3, 4)
    assert torch.equal(head(x), again(x))
    assert again.config == head.config
    assert not again.training


def test_half_precision_weights_are_read_in_full(tmp_path: Path) -> None:
    Head(embedding_dim=4, hidden=(8,)).half().save(tmp_path)
    assert {weight.dtype for weight in Head.load(tmp_path).parameters()} == {torch.float32}


def test_a_head_that_lacks_weights_is_an_error(tmp_path: Path) -> None:
    Head(embedding_dim=4, hidden=(2,)).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for missing in (["layers.0.weight"], ["layers.0.bias"], list(weights)):
        save_file({n: t for n, t in weights.items() if n not in missing}, tmp_path / "part.safetensors")
        with pytest.raises(ModelError, match="part.safetensors: it holds no head, or a part of one"):
            Head.load(tmp_path / "part.safetensors")


def test_layers_that_dont_fit_each_other_are_an_error(tmp_path: Path) -> None:
    save_file(_linear({0: (8, 6), 1: (1, 7)}), tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="size mismatch"):
        Head.load(tmp_path / "odd.safetensors")


def test_a_config_that_says_otherwise_is_an_error(tmp_path: Path) -> None:
    Head(embedding_dim=4, hidden=(2,)).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"embedding_dim": 4, "hidden": [3]}))
    with pytest.raises(ModelError, match=r"config.json says hidden \[3\], the tensors \[2\]"):
        Head.load(tmp_path)


def _embeddings() -> torch.Tensor:
    return torch.cat([torch.from_numpy(np.load(PUBLISHED / f"rating{n}-vit_l_14.npy")).float() for n in range(10)])


@published
def test_laions_v1_as_published_rates_its_embeddings_in_their_order(tmp_path: Path) -> None:
    convert_weights(PUBLISHED / "sa_0_4_vit_l_14_linear.pth", tmp_path / "v1.safetensors")
    with torch.inference_mode():
        ratings = Head.load(tmp_path / "v1.safetensors")(_embeddings()).tolist()
    print("V1 by rating:", " ".join(f"{rating:.2f}" for rating in ratings))
    assert ratings == sorted(ratings)
    assert ratings[0] == pytest.approx(-2.46, abs=0.01) and ratings[-1] == pytest.approx(11.30, abs=0.01)


@published
def test_laions_v2_as_published_is_one_matrix_product(tmp_path: Path) -> None:
    """It was saved on an accelerator, and has no activation: its layers are one matrix."""
    convert_weights(PUBLISHED / "sac+logos+ava1-l14-linearMSE.pth", tmp_path / "v2.safetensors")
    state = {name: tensor.double() for name, tensor in load_file(tmp_path / "v2.safetensors").items()}
    matrix, offset = torch.eye(768, dtype=torch.float64), torch.zeros(768, dtype=torch.float64)
    for n in (0, 2, 4, 6, 7):
        weight, bias = state[f"layers.{n}.weight"], state[f"layers.{n}.bias"]
        matrix, offset = weight @ matrix, weight @ offset + bias
    embeddings = _embeddings()
    with torch.inference_mode():
        ratings = Head.load(tmp_path / "v2.safetensors")(embeddings)
    expected = (embeddings.double() @ matrix.T + offset).squeeze(-1)
    print("V2 by rating:", " ".join(f"{rating:.2f}" for rating in ratings.tolist()))
    torch.testing.assert_close(ratings.double(), expected, atol=1e-4, rtol=1e-5)

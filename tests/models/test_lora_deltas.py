"""The arithmetic of each kind of LoRA, against peft's layers and against loops over single elements."""

from collections.abc import Mapping
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from agfsync.models.lora_deltas import _kind_of, decompose, magnitude_axis, multiply_tucker, scaled_delta


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 31 * sum(shape)))


def matrix(rows: int, columns: int, element: object) -> Tensor:
    return torch.tensor([[float(element(o, i)) for i in range(columns)] for o in range(rows)])  # type: ignore[operator]


def naive(parts: Mapping[str, Tensor]) -> Tensor:
    """The unscaled difference, element by element, of two-dimensional factors."""

    def product_of(left: Tensor, right: Tensor, o: int, i: int) -> float:
        return float(sum(left[o, r] * right[r, i] for r in range(len(right))))

    def factor(name: str) -> Tensor:
        if name in parts:
            return parts[name]
        a, b = parts[f"{name}_a"], parts[f"{name}_b"]
        return matrix(len(a), b.shape[1], lambda o, i: product_of(a, b, o, i))

    if "lora_up" in parts:
        up, down = parts["lora_up"], parts["lora_down"]
        return matrix(len(up), down.shape[1], lambda o, i: product_of(up, down, o, i))
    if "hada_w1_a" in parts:
        w1, w2 = factor("hada_w1"), factor("hada_w2")
        return matrix(*w1.shape, lambda o, i: w1[o, i] * w2[o, i])
    w1, w2 = factor("lokr_w1"), factor("lokr_w2")
    (a, b), (c, d) = w1.shape, w2.shape
    return matrix(a * c, b * d, lambda o, i: w1[o // c, i // d] * w2[o % c, i % d])


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["lora", "loha", "lokr", "lokr a", "lokr b", "lokr ab"]),
    outputs=st.integers(1, 4),
    inputs=st.integers(1, 4),
    rank=st.integers(1, 3),
    alpha=st.none() | st.floats(0.25, 8),
)
def test_each_kind_is_its_formula_element_by_element(
    kind: str, outputs: int, inputs: int, rank: int, alpha: float | None
) -> None:
    if kind == "lora":
        parts = {"lora_up": random(outputs, rank), "lora_down": random(rank, inputs, seed=1)}
    elif kind == "loha":
        parts = {
            f"hada_w{n}_{side}": random(*shape, seed=n)
            for n in (1, 2)
            for side, shape in (("a", (outputs, rank)), ("b", (rank, inputs)))
        }
    else:
        parts = {}
        for n, side in ((1, "a"), (2, "b")):
            if side in kind.partition(" ")[2]:
                parts |= {f"lokr_w{n}_a": random(outputs, rank, seed=n), f"lokr_w{n}_b": random(rank, inputs, seed=-n)}
            else:
                parts[f"lokr_w{n}"] = random(outputs, inputs, seed=n)
    scale = 1.0 if alpha is None or kind == "lokr" else alpha / rank
    torch.testing.assert_close(scaled_delta(parts, alpha), naive(parts) * scale, atol=1e-5, rtol=1e-5)


def test_a_tucker_core_is_multiplied_on_both_sides() -> None:
    core, outputs, inputs = random(2, 3, 3, 3), random(2, 5, seed=1), random(3, 4, seed=2)
    expected = torch.zeros(5, 4, 3, 3)
    for o, n, i, j in product(range(5), range(4), range(2), range(3)):
        expected[o, n] += core[i, j] * outputs[i, o] * inputs[j, n]
    torch.testing.assert_close(multiply_tucker(core, outputs, inputs), expected, atol=1e-5, rtol=1e-5)


def test_locon_with_a_core_is_three_convolutions_in_a_row() -> None:
    down, mid, up = random(2, 4, 1, 1), random(2, 2, 3, 3), random(5, 2, 1, 1)
    x = random(1, 4, 6, 6)
    conv = nn.functional.conv2d
    expected = conv(conv(conv(x, down), mid), up)
    delta = scaled_delta({"lora_down": down, "lora_mid": mid, "lora_up": up}, None)
    torch.testing.assert_close(conv(x, delta.reshape(5, 4, 3, 3)), expected, atol=1e-4, rtol=1e-4)


def test_locon_without_a_core_is_two_convolutions_in_a_row() -> None:
    down, up, x = random(2, 4, 3, 3), random(5, 2, 1, 1), random(1, 4, 6, 6)
    conv = nn.functional.conv2d
    delta = scaled_delta({"lora_down": down, "lora_up": up}, alpha=3.0).reshape(5, 4, 3, 3)
    torch.testing.assert_close(conv(x, delta), conv(conv(x, down), up) * 1.5, atol=1e-4, rtol=1e-4)


PEFT = {
    "lora": LoraConfig(r=2, lora_alpha=5, target_modules=["layer"]),
    "rslora": LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["layer"]),
    "loha": LoHaConfig(r=2, alpha=5, target_modules=["layer"], init_weights=False),
    "loha cp": LoHaConfig(r=2, alpha=5, target_modules=["layer"], init_weights=False, use_effective_conv2d=True),
    "lokr": LoKrConfig(r=2, alpha=5, target_modules=["layer"], init_weights=False),
    "lokr both": LoKrConfig(r=2, alpha=5, target_modules=["layer"], init_weights=False, decompose_both=True),
    "lokr cp": LoKrConfig(r=2, alpha=5, target_modules=["layer"], init_weights=False, use_effective_conv2d=True),
}


@pytest.mark.parametrize("kind", PEFT)
@pytest.mark.parametrize("conv", [False, True])
def test_each_kind_adds_what_pefts_layer_adds(kind: str, conv: bool) -> None:
    torch.manual_seed(0)
    layer: nn.Module = nn.Conv2d(8, 12, 3) if conv else nn.Linear(8, 12)
    network = get_peft_model(nn.ModuleDict({"layer": layer}), PEFT[kind])  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "default" in name:
                parameter.copy_(torch.randn_like(parameter))
    parts = {}
    for key, tensor in get_peft_model_state_dict(network).items():
        name = key.split("layer.")[1].removesuffix(".weight")
        parts[{"lora_A": "lora_down", "lora_B": "lora_up"}.get(name, name)] = tensor
    before = layer.weight.clone() if isinstance(layer, nn.Conv2d | nn.Linear) else torch.empty(0)
    merged = network.merge_and_unload()["layer"]
    rank = 3 if kind == "rslora" else 2
    delta = scaled_delta(parts, 5.0, rank, by_root=kind == "rslora")
    torch.testing.assert_close(before + delta.reshape(before.shape), merged.weight.data, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("conv", [False, True])
def test_a_dora_is_what_peft_makes_of_it(conv: bool) -> None:
    torch.manual_seed(0)
    layer: nn.Conv2d | nn.Linear = nn.Conv2d(8, 12, 3) if conv else nn.Linear(8, 12)
    config = LoraConfig(r=2, lora_alpha=5, use_dora=True, target_modules=["layer"], init_lora_weights=False)
    before = layer.weight.detach().clone()
    network = get_peft_model(nn.ModuleDict({"layer": layer}), config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    state = {key.split("layer.")[1]: tensor for key, tensor in get_peft_model_state_dict(network).items()}
    parts = {"lora_down": state["lora_A.weight"], "lora_up": state["lora_B.weight"]}
    (magnitude,) = (tensor.flatten() for name, tensor in state.items() if "magnitude" in name)
    after = decompose(before + scaled_delta(parts, 5.0).reshape(before.shape), magnitude, 0)
    torch.testing.assert_close(after, network.merge_and_unload()["layer"].weight.data, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_doras_norms_are_those_of_its_magnitudes(axis: int) -> None:
    weight = random(4, 3, 2, 2)
    magnitude = torch.rand(weight.shape[axis]) + 1
    after = decompose(weight, magnitude, axis)
    for n, length in enumerate(magnitude):
        torch.testing.assert_close(after.select(axis, n).norm(), length)
    assert torch.equal(after.sign(), weight.sign())


def test_the_shape_of_doras_magnitudes_tells_their_axis() -> None:
    square, oblong = torch.zeros(4, 4), torch.zeros(4, 3, 2, 2)
    assert [magnitude_axis(torch.ones(*shape), square) for shape in ((4, 1), (1, 4), (4,), (5,))] == [0, 1, 0, None]
    shapes = ((4, 1, 1, 1), (1, 3, 1, 1), (4,), (3,), (1, 4, 1, 1))
    assert [magnitude_axis(torch.ones(*shape), oblong) for shape in shapes] == [0, 1, 0, 1, None]


def test_parts_of_a_kind_are_none() -> None:
    for names in (
        ["lora_up"],
        ["lora_up", "lora_down", "diff"],
        ["lokr_w1"],
        ["lokr_w1", "lokr_w2_a"],
        ["hada_t1"],
        [],
    ):
        assert _kind_of(frozenset(names)) is None
    with pytest.raises(ValueError, match="no kind of LoRA has the tensors lora_up"):
        scaled_delta({"lora_up": torch.ones(1, 1)}, None)

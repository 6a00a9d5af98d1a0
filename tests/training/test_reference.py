"""The reference predicts as the base does, before training and after."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from agfsync.errors import ModelError
from agfsync.models import LORA_FILE
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.models.stable_diffusion_3 import StableDiffusion3
from agfsync.training.batches import EncodedPairs
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import adapter_weights, add_adapters, continue_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.reference import AdaptersBefore, AdaptersOff, FrozenCopy, round_frozen_layers

Nudge = Callable[[nn.Module], None]


def predict(denoiser: StableDiffusion, network: nn.Module, precision: str = "fp32") -> Tensor:
    source = torch.Generator().manual_seed(1)
    noisy, timesteps = torch.randn(3, 4, 8, 8, generator=source), torch.tensor([3, 500, 990])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return denoiser.predict(network, noisy, timesteps, denoiser.encode_prompts(["a", "red", "circle"]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_copy_is_bitwise_the_base_and_stays_there(
    denoiser: StableDiffusion, nudge: Nudge, precision: str
) -> None:
    reference = FrozenCopy(denoiser.network, precision)
    denoiser.network.requires_grad_(True)
    base = predict(denoiser, denoiser.network, precision).detach()
    nudge(denoiser.network)
    assert not torch.equal(predict(denoiser, denoiser.network, precision), base)
    with reference() as frozen:
        assert torch.equal(predict(denoiser, frozen, precision), base)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_off_is_bitwise_the_base(denoiser: StableDiffusion, nudge: Nudge, precision: str) -> None:
    base = predict(denoiser, denoiser.network, precision)
    add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
    reference = AdaptersOff(denoiser.network)
    assert torch.equal(predict(denoiser, denoiser.network, precision), base)
    nudge(denoiser.network)
    assert not torch.equal(predict(denoiser, denoiser.network, precision), base)
    with reference() as frozen:
        predicted = predict(denoiser, frozen, precision)
    assert torch.equal(predicted, base) and not predicted.requires_grad
    assert predict(denoiser, denoiser.network, precision).requires_grad


@pytest.mark.parametrize("family", ["tiny_generator", "tiny_sd3_generator"])
def test_a_saved_lora_is_trained_further_and_stays_the_reference(
    family: str, request: pytest.FixtureRequest, nudge: Nudge, tmp_path: Path
) -> None:
    maker = StableDiffusion if family == "tiny_generator" else StableDiffusion3
    first, second = (maker(str(request.getfixturevalue(family)), device="cpu") for _ in range(2))
    add_adapters(first.network, 2, 3.0, 0, first.adapter_targets)
    nudge(first.network)
    first.save_adapter(adapter_weights(first.network, 2, 3.0), tmp_path)
    add_adapters(second.network, 2, 3.0, 1, second.adapter_targets)
    continue_adapters(second.network, load_file(tmp_path / LORA_FILE), 2, 3.0)
    trained = [parameter for parameter in second.network.parameters() if parameter.requires_grad]
    saved = [parameter.detach().clone() for parameter in first.network.parameters() if parameter.requires_grad]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(trained, saved, strict=True)) and trained
    before = [parameter.detach().clone() for parameter in trained]
    reference = AdaptersBefore(second.network)
    nudge(second.network)
    after = [parameter.detach().clone() for parameter in trained]
    with reference() as frozen:
        assert frozen is second.network
        assert all(torch.equal(a, b) for a, b in zip(trained, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(trained, after, strict=True))
    with pytest.raises(ModelError, match="fits no LoRA of rank 2"):
        continue_adapters(second.network, {"unet.nothing": torch.zeros(1)}, 2, 3.0)


def test_gradients_are_those_without_a_reference_in_between(denoiser: StableDiffusion, nudge: Nudge) -> None:
    add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
    reference = AdaptersBefore(denoiser.network)
    nudge(denoiser.network)
    gradients = []
    for is_asked in (False, True):
        denoiser.network.zero_grad()
        loss = predict(denoiser, denoiser.network).square().mean()
        with reference() as frozen:
            aside = predict(denoiser, frozen) if is_asked else None
        loss.backward()
        gradients.append([p.grad.clone() for p in denoiser.network.parameters() if p.grad is not None])
    assert aside is not None and not aside.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)) and gradients[0]


def test_only_adapters_are_trained(denoiser: StableDiffusion) -> None:
    add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
    trained = [name for name, parameter in denoiser.network.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained} == {"to_q", "to_k", "to_v", "0"}


def test_adapters_follow_from_the_seed_and_leave_the_global_one_alone(tiny_generator: Path) -> None:
    before = torch.get_rng_state()
    weights = []
    for seed in (4, 4, 5):
        network = StableDiffusion(str(tiny_generator), device="cpu").network
        add_adapters(network, rank=2, alpha=2, seed=seed)
        weights.append(torch.cat([p.flatten() for p in network.parameters() if p.requires_grad]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("alpha", [2.0, 8.0])
def test_a_saved_adapter_is_as_strong_when_loaded(
    denoiser: StableDiffusion, tiny_generator: Path, nudge: Nudge, tmp_path: Path, alpha: float
) -> None:
    add_adapters(denoiser.network, rank=2, alpha=alpha, seed=0)
    nudge(denoiser.network)
    denoiser.save_adapter(adapter_weights(denoiser.network, rank=2, alpha=alpha), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    loaded = StableDiffusion(str(tiny_generator), device="cpu", adapter=tmp_path)
    torch.testing.assert_close(predict(loaded, loaded.network), predict(denoiser, denoiser.network))
    assert loaded.identity != denoiser.identity


def test_a_network_without_attention_takes_no_adapters() -> None:
    with pytest.raises(ModelError, match="no LoRA fits"):
        add_adapters(nn.Sequential(nn.Linear(2, 2)), rank=2, alpha=2, seed=0)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_frozen_layers_of_a_lora_are_kept_rounded_for_the_same_training(
    tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path, precision: str
) -> None:
    found = []
    for rounds in (False, True):
        model = StableDiffusion(str(tiny_generator), device="cpu")
        add_adapters(model.network, rank=2, alpha=2, seed=0, targets=model.adapter_targets)
        if rounds:
            round_frozen_layers(model.network, precision)
        plan = TrainingPlan(steps=2, batch=3, learning_rate=1e-3, seed=1, precision=precision)  # type: ignore[arg-type]
        actor = Actor(model, AdaptersOff(model.network), precision)
        folder = tmp_path / str(rounds)
        kept = Checkpoints(folder / "kept", "a")
        train(actor, DiffusionDPO(500.0).objective(pairs, plan), plan, kept, folder / "log", lambda line: None)
        found.append(model.network)
    plain, rounded = ({n: p for n, p in each.named_parameters() if p.requires_grad} for each in found)
    assert plain.keys() == rounded.keys() and all(torch.equal(plain[name], rounded[name]) for name in plain)
    kinds = {p.dtype for n, p in found[1].named_parameters() if n.endswith("base_layer.weight")}
    assert kinds == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert all(p.dtype == torch.float32 for p in rounded.values())

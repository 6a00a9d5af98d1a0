"""One step of every family of methods on each flow model, as in a run: a pair loss, the best, on and off policy.

`test_conformance` has the resumed and the split training of every method, on a UNet, Stable Diffusion 3 and Sana.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_diffusion
import tiny_flows
import torch
from torch import Tensor

from agfsync import catalog
from agfsync.recipe.types import find_settings
from agfsync.scorers import Item, Measurement
from agfsync.training.batches import EncodedPairs, RatedImages
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import add_adapters
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.reference import AdaptersOff
from agfsync.training.rewards import Rewards

pytestmark = pytest.mark.long

PROMPTS = ["a red circle", "two green squares"]
PLAN = TrainingPlan(steps=1, batch=2, learning_rate=1e-2, seed=11, precision="fp32", checkpoint_every=1)
MAKERS: dict[str, Callable[[], Any]] = {
    "stable-diffusion-3": tiny_diffusion.sd3_pipeline,
    "flux": tiny_diffusion.flux_pipeline,
    "flux2": tiny_flows.flux2_pipeline,
    "flux2-klein": tiny_flows.flux2_klein_pipeline,
    "qwen-image": tiny_flows.qwen_image_pipeline,
    "z-image": tiny_flows.z_image_pipeline,
    "sana": tiny_flows.sana_pipeline,
}
DRAWN: dict[str, Any] = {"group": 2, "steps": 3}
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "best": {},
    "nft": DRAWN,
    "awm": DRAWN,
    "policy-gradient sde": DRAWN | {"loss": "grpo", "stochastic_step": "sde", "eta": 0.7, "kl": 0.01},
    "policy-gradient cps": DRAWN | {"loss": "grpo", "stochastic_step": "cps", "eta": 0.7, "window": 1},
    "reward-gradient": {"steps": 3, "loss": "draft", "guidance": 1.0},
}


class Redness:
    """A scorer: how red an image is."""

    asks_questions = False

    def score(self, items: list[Item]) -> list[Measurement]:
        return [Measurement(float(np.asarray(item.image)[..., 0].mean()) / 2.55) for item in items]

    def rewards(self, pixels_BCHW: Tensor, prompts: list[str]) -> Tensor:
        return 100 * pixels_BCHW[:, 0].mean(dim=(1, 2))


@dataclass(frozen=True)
class Flow:
    """A flow model with new adapters, and what its methods train on."""

    actor: Actor
    pairs: EncodedPairs
    negative: Any

    def make_objective(self, name: str) -> Any:
        type_ = name.partition(" ")[0]
        kind = find_settings("methods", type_)
        reward = {"reward": {"redness": 1.0}} if "reward" in kind.model_fields else {}
        settings = kind.model_validate({"type": type_, **reward, **METHODS[name]})
        method = catalog.build("methods", settings.model_dump())
        if method.needs == "captions":
            rewards = Rewards({"redness": 1.0}, lambda name: Redness())
            data: Any = PromptData(PROMPTS, [(), ()], self.pairs.conditioning, self.negative, rewards)
        elif method.needs == "scores":
            data = RatedImages(self.pairs.latents_ICHW, self.pairs.conditioning, torch.arange(4) % 2, torch.ones(4))
        else:
            data = self.pairs
        return method.objective(data, PLAN)


@pytest.fixture(scope="module", params=MAKERS)
def flow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """Loaded once for all methods."""
    folder, side = tmp_path_factory.mktemp("flow"), 32 if request.param == "sana" else 16
    MAKERS[request.param]().save_pretrained(folder)
    sampling = {"height": side, "width": side, "guidance": 2.0, "steps": 3}
    model: Any = catalog.build("models", {"type": request.param, "path": str(folder), "device": "cpu"} | sampling)
    latents, rows = torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(3)), torch.arange(2)
    pairs = EncodedPairs(latents, model.encode_prompts(PROMPTS), rows, rows + 2, rows)
    negative = model.encode_prompts([""])
    add_adapters(model.network, 2, 2, 0, model.adapter_targets)
    return Flow(Actor(model, AdaptersOff(model.network), "fp32"), pairs, negative)


@pytest.fixture
def weights(flow: Flow) -> Iterator[dict[str, Tensor]]:
    """The adapters' weights, which are put back afterwards."""
    trained = {name: p for name, p in flow.actor.network.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    yield trained
    for name, parameter in trained.items():
        parameter.data.copy_(before[name])
        parameter.grad = None


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_the_network(name: str, flow: Flow, weights: dict[str, Tensor], tmp_path: Path) -> None:
    before, lines = {key: p.detach().clone() for key, p in weights.items()}, list[Any]()
    objective = flow.make_objective(name)
    train(flow.actor, objective, PLAN, Checkpoints(tmp_path / "kept", "a"), tmp_path / "log", lines.append)
    (line,) = lines
    assert all(math.isfinite(value) for value in line.values()) and line["gradient_norm"] > 0
    assert any(not torch.equal(p, before[key]) for key, p in weights.items())
    if name == "dpo":
        assert line["loss"] == pytest.approx(math.log(2), abs=1e-6)
    if name.startswith("policy-gradient"):
        # The step that was drawn is as likely when it is computed again for its gradient.
        assert line["ratio_change"] == pytest.approx(0, abs=1e-4)

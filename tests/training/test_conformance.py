"""Every method, and a toy objective of each kind, through the one loop, on a UNet and on a Stable Diffusion 3.

Each is killed and resumed to the same bits, gives the same gradient however a batch is split, and the same weights in
one process and in two.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing import get_context

from agfsync import catalog
from agfsync.errors import RecipeError
from agfsync.recipe.types import find_settings
from agfsync.records import Question
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.training.batches import EncodedPairs, RatedImages
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import add_adapters
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.processes import Processes
from agfsync.training.prompts import PromptData
from agfsync.training.reference import AdaptersOff
from agfsync.training.rewards import Rewards

pytestmark = pytest.mark.long

PLAN = TrainingPlan(steps=3, batch=4, learning_rate=1e-3, seed=11, precision="fp32", checkpoint_every=1)
POLICY_LOSSES = ("dpok", "ppo", "grpo")
METHODS = [
    *(
        name
        for name in catalog.CATALOG["methods"]
        if find_settings("methods", name).trains == "model" and name != "none"
    ),  # type: ignore[attr-defined]
    *(f"policy-gradient {loss}" for loss in POLICY_LOSSES),
]
MODELS = ["stable-diffusion", "stable-diffusion-3", "sana"]


@dataclass(frozen=True)
class Rows:
    """A toy batch: clean latents with their noise, times and conditioning."""

    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.tensors["clean"])

    def part(self, rows: Tensor, device: torch.device) -> "Rows":
        return Rows({name: tensor[rows].to(device) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Toy:
    """The common part of the toy objectives: rows of a step, drawn from (seed, step)."""

    pairs: EncodedPairs
    plan: TrainingPlan

    def __len__(self) -> int:
        return len(self.pairs)

    def rows(self, actor: Actor, step: int, rows: Tensor) -> dict[str, Tensor]:
        model: Any = actor.model
        source = torch.Generator().manual_seed(1000 * self.plan.seed + step)
        chosen = torch.randint(len(self.pairs.latents_ICHW), (self.plan.batch,), generator=source)
        shape = self.pairs.latents_ICHW[chosen].shape
        found = {
            "clean": self.pairs.latents_ICHW[chosen],
            "noise": torch.randn(shape, generator=source),
            "times": model.schedule.times(source, self.plan.batch),
        }
        prompts = chosen % len(next(iter(self.pairs.conditioning.values())))
        found |= {f"conditioning.{name}": tensor[prompts] for name, tensor in self.pairs.conditioning.items()}
        return {name: tensor[rows] for name, tensor in found.items()}

    def predict(self, actor: Actor, batch: Rows) -> tuple[Tensor, Tensor]:
        """Return the noisy latents and what the network predicts of them."""
        model: Any = actor.model
        of = batch.tensors
        noisy = model.schedule.noisy(of["clean"], of["noise"], of["times"])
        told = {n.removeprefix("conditioning."): t for n, t in of.items() if n.startswith("conditioning.")}
        return noisy, model.predict(actor.network, noisy, of["times"], told)


class Brightness:
    """A scorer: the mean of an image's red, and no score where that is even."""

    asks_questions = False

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        reds = [float(np.asarray(item.image)[..., 0].mean()) for item in items]
        return [Unscored("too even") if abs(red - 127.5) < 0.05 else Measurement(red / 2.55) for red in reds]

    def rewards(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 100 * pixels[:, 0].mean(dim=(1, 2))


class Supervised(Toy):
    """The denoising loss on given images."""

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[Rows]:
        return [Rows(self.rows(actor, step, rows))]

    def loss(self, actor: Actor, batch: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        schedule = actor.model.schedule  # type: ignore[attr-defined]
        _, predicted = self.predict(actor, batch)
        target = schedule.target(batch.tensors["clean"], batch.tensors["noise"], batch.tensors["times"])
        loss = (predicted - target).square().mean()
        return loss, {"loss": loss.detach()}


class PolicyGradient(Toy):
    """One stochastic sampling step, rewarded and made likelier by two optimizer steps on the same sample."""

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[Rows]:
        of = self.rows(actor, step, rows)
        batch = Rows(of).part(torch.arange(len(rows)), actor.device)
        with torch.no_grad():
            mean, spread, _ = self._transition(actor, batch)
            source = torch.Generator().manual_seed(77 * self.plan.seed + step)
            noise = torch.randn((self.plan.batch, *mean.shape[1:]), generator=source)[rows]
            drawn = mean + spread * noise
            reward = -drawn.square().mean(dim=(1, 2, 3))
        sample = Rows({**of, "drawn": drawn, "advantage": reward})
        return [sample, sample]

    def loss(self, actor: Actor, batch: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        mean, spread, _ = self._transition(actor, batch)
        log_likelihood = -((batch.tensors["drawn"] - mean) / spread).square().mean(dim=(1, 2, 3)) / 2
        loss = -(batch.tensors["advantage"] * log_likelihood).mean()
        return loss, {"loss": loss.detach(), "reward": batch.tensors["advantage"].mean()}

    def _transition(self, actor: Actor, batch: Rows) -> tuple[Tensor, Tensor, Tensor]:
        schedule = actor.model.schedule  # type: ignore[attr-defined]
        grid = schedule.grid(4)
        count = len(batch)
        at, after = (grid[place].repeat(count).to(actor.device) for place in (1, 2))
        noisy, predicted = self.predict(actor, Rows({**batch.tensors, "times": at}))
        mean, spread = schedule.transition(predicted, noisy, at, after, 0.7)
        return mean, spread, noisy


class RewardGradient(Toy):
    """The gradient of a reward through the estimate of the clean image."""

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[Rows]:
        return [Rows(self.rows(actor, step, rows))]

    def loss(self, actor: Actor, batch: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        schedule = actor.model.schedule  # type: ignore[attr-defined]
        noisy, predicted = self.predict(actor, batch)
        reward = -(schedule.clean(predicted, noisy, batch.tensors["times"]) - 1).abs().mean(dim=(1, 2, 3))
        return -reward.mean(), {"loss": -reward.mean().detach(), "reward": reward.mean().detach()}


TOYS: dict[str, type[Toy]] = {
    "supervised": Supervised,
    "policy gradient": PolicyGradient,
    "reward gradient": RewardGradient,
}


@dataclass(frozen=True)
class Case:
    """A training of a LoRA on `folder`, a model of `kind`, by the method or toy `name`."""

    kind: str
    folder: Path
    name: str

    def prepare(self, plan: TrainingPlan) -> tuple[Actor, Any]:
        more = {"height": 16, "width": 16} if self.kind != "stable-diffusion" else {}
        model = catalog.build("models", {"type": self.kind, "path": str(self.folder), "device": "cpu"} | more)
        latents = torch.randn(10, *model.latent_shape, generator=torch.Generator().manual_seed(3))
        rows = torch.arange(5)
        prompts = ["a red circle", "two green squares", "a large yellow ring"]
        pairs = EncodedPairs(latents, model.encode_prompts(prompts), rows, rows + 5, rows % 3)
        add_adapters(model.network, 2, 2, 0, model.adapter_targets)
        actor = Actor(model, AdaptersOff(model.network), plan.precision)
        if self.name in TOYS:
            return actor, TOYS[self.name](pairs, plan)
        method = self.build_method()
        if method.needs == "captions":
            questions: list[tuple[Question, ...]] = [()] * len(prompts)
            rewards = Rewards({"brightness": 1.0}, lambda name: Brightness())
            negative = model.encode_prompts([""])
            return actor, method.objective(PromptData(prompts, questions, pairs.conditioning, negative, rewards), plan)
        if method.needs == "scores":
            ratings = torch.tensor([1.0, -1.0]).repeat(5)
            images = RatedImages(latents, pairs.conditioning, torch.arange(10) % 3, ratings)
            return actor, method.objective(images, plan)
        return actor, method.objective(replace(pairs, margin_P=torch.linspace(1, 2, 5)), plan)

    def build_method(self) -> Any:
        type_, _, loss = self.name.partition(" ")
        kind = find_settings("methods", type_)
        given = {"reward": {"brightness": 1.0}} if "reward" in kind.model_fields else {}
        settings = kind.model_validate({"type": type_, **given}).model_dump()
        if type_ == "reward-gradient":
            settings |= {"steps": 4, "kl": 0.01}
        if "auto_beta" in settings:
            settings |= {"auto_beta": 0.2, "sft_weight": 10.0}
        if settings.get("group"):
            settings |= {"group": 2, "steps": 3, "guidance": 2.0, "updates": 2, "kl": 0.01}
        if type_ == "policy-gradient":
            settings |= {"loss": loss or "ddpo", "eta": 0.7, "clip": 0.2}
            if self.kind == "sana":
                settings |= {"stochastic_step": "cps", "window": 1, "steps": 4}
        return catalog.build("methods", settings)

    def train(self, run: Path, plan: TrainingPlan = PLAN, until: int | None = None, **more: Any) -> Tensor:
        actor, objective = self.prepare(plan)

        def stop(line: Any) -> None:
            if line["step"] == until:
                raise KeyboardInterrupt

        train(actor, objective, plan, Checkpoints(run / "checkpoints", "a"), run / "log", stop, **more)
        return weights(actor)


def weights(actor: Actor) -> Tensor:
    return torch.cat([p.detach().flatten() for p in actor.network.parameters() if p.requires_grad])


def curve(run: Path) -> list[dict[str, float]]:
    """The log without its times."""
    lines = (run / "log").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[*METHODS, *TOYS])
def case(
    request: pytest.FixtureRequest,
    kind: str,
    tiny_generator: Path,
    tiny_sd3_generator: Path,
    tiny_sana_generator: Path,
) -> Case:
    folders = {
        "stable-diffusion": tiny_generator,
        "stable-diffusion-3": tiny_sd3_generator,
        "sana": tiny_sana_generator,
    }
    return Case(kind, folders[kind], str(request.param))


def test_killed_after_any_step_it_goes_on_to_the_same_bits(case: Case, tmp_path: Path) -> None:
    whole = case.train(tmp_path / "whole")
    for step in range(1, PLAN.steps):
        with pytest.raises(KeyboardInterrupt):
            case.train(tmp_path / "cut", until=step)
    assert torch.equal(case.train(tmp_path / "cut"), whole)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    before, _ = case.prepare(PLAN)
    assert not torch.equal(weights(before), whole)


def test_a_step_in_parts_is_the_step(case: Case, tmp_path: Path) -> None:
    one = replace(PLAN, steps=1)
    case.train(tmp_path / "whole", one)
    case.train(tmp_path / "parts", replace(one, accumulate=3))
    (whole,), (parts,) = curve(tmp_path / "whole"), curve(tmp_path / "parts")
    # The parts add up in another order: a gradient that nearly cancels keeps three figures.
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-4)


def test_its_curves_are_logged(case: Case, tmp_path: Path) -> None:
    case.train(tmp_path / "run", replace(PLAN, steps=1))
    (line,) = curve(tmp_path / "run")
    curves = ("loss",) if case.name in TOYS else case.build_method().curves
    assert set(curves) <= line.keys()


def share_training(case: Case, rank: int, run: Path, port: int) -> None:
    """Train as process `rank` of two."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    found = case.train(run, replace(PLAN, steps=2), processes=Processes(rank, 2))
    torch.save(found, run / f"weights-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture
def free_port() -> Callable[[], int]:
    import socket

    def find() -> int:
        with socket.socket() as each:
            each.bind(("localhost", 0))
            return int(each.getsockname()[1])

    return find


@pytest.mark.parametrize(
    "name", ["dpo", "kto", "policy-gradient", "policy-gradient dpok", "nft", "awm", "reward-gradient", *TOYS]
)
def test_two_processes_learn_what_one_learns(
    name: str, tiny_generator: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    case, port = Case("stable-diffusion", tiny_generator, name), free_port()
    alone = case.train(tmp_path / "alone", replace(PLAN, steps=2))
    (tmp_path / "both").mkdir()
    # Forked: a fresh interpreter would take seconds to import what is here already.
    both = [get_context("fork").Process(target=share_training, args=(case, r, tmp_path / "both", port)) for r in (0, 1)]
    for each in both:
        each.start()
    for each in both:
        each.join(120)
        assert each.exitcode == 0
    first, second = (torch.load(tmp_path / "both" / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second)
    for one, other in zip(curve(tmp_path / "alone"), curve(tmp_path / "both"), strict=True):
        # The accuracy counts signs, and an image that hasn't moved yet has its sign by the last bits.
        one.pop("implicit_accuracy", None), other.pop("implicit_accuracy", None)
        assert other == pytest.approx(one, rel=1e-3, abs=1e-5)
    torch.testing.assert_close(first, alone, rtol=1e-2, atol=2e-3)


def test_several_optimizer_steps_on_a_sample_are_counted(tiny_generator: Path, tmp_path: Path) -> None:
    case = Case("stable-diffusion", tiny_generator, "policy gradient")
    case.train(tmp_path, replace(PLAN, steps=2))
    (head,) = [
        Checkpoints(tmp_path / "checkpoints", "a")._list_files()[0][1].read_bytes()[8:400].decode(errors="replace")
    ]
    assert '"updates":"4"' in head and '"moves":"4"' in head


def test_the_method_none_trains_nothing() -> None:
    nothing = catalog.build("methods", {"type": "none"})
    assert (nothing.trains, nothing.uses_reference) == ("nothing", False)
    with pytest.raises(RecipeError, match="trains nothing"):
        nothing.objective(None, PLAN)


@pytest.mark.parametrize("type_", catalog.CATALOG["models"])
def test_every_model_says_whether_it_can_be_trained(type_: str) -> None:
    from agfsync.pipeline.generators import _class_of
    from agfsync.training.trainable import list_missing_of_class

    made = _class_of(catalog.find("models", type_))
    assert made is not None and list_missing_of_class(made) == []

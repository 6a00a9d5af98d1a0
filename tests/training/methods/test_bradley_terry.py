"""The loss of a reward model by hand, its batches, its dropout, and the validation that chooses the weights."""

import json
import math
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import get_context

from agfsync import catalog
from agfsync.training.batches import draw_rows_of_step
from agfsync.training.best_weights import BestWeights
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.methods.bradley_terry import (
    BradleyTerryObjective,
    ValidationWatcher,
    compare_outputs,
    draw_kept,
    measure_losses,
)
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.processes import Processes
from agfsync.training.reward_pairs import RewardPairs, map_pixels
from agfsync.training.state import TrainingState


def test_the_loss_and_its_gradient_by_hand() -> None:
    winner, loser = torch.tensor([1.0, 0.0], requires_grad=True), torch.tensor([0.0, 2.0], requires_grad=True)
    loss, metrics = compare_outputs(winner, loser)
    # -log sigmoid(1) = 0.31326..., -log sigmoid(-2) = 2.12692...
    assert float(loss.detach()) == pytest.approx((0.3132617 + 2.1269280) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    # d/dw = -(1 - sigmoid(w - l)) / 2
    slopes = [-(1 - 1 / (1 + math.exp(-1))) / 2, -(1 - 1 / (1 + math.exp(2))) / 2]
    assert winner.grad is not None and loser.grad is not None
    assert winner.grad.tolist() == pytest.approx(slopes)
    assert loser.grad.tolist() == pytest.approx([-each for each in slopes])
    assert {name: float(each) for name, each in metrics.items()} == pytest.approx(
        {"loss": float(loss), "accuracy": 0.5, "margin": -0.5}
    )


def test_equal_outputs_cost_log_2_and_count_one_half() -> None:
    loss, metrics = compare_outputs(torch.zeros(3), torch.zeros(3))
    assert float(loss.detach()) == pytest.approx(math.log(2)) and float(metrics["accuracy"]) == 0.5


def test_a_prompts_pairs_follow_each_other() -> None:
    groups = torch.tensor([4, 0, 1, 0, 2, 1, 3, 4])
    epochs = [torch.cat([draw_rows_of_step(3, 2 * epoch + half, 4, 8, groups) for half in (0, 1)]) for epoch in (0, 1)]
    for rows in epochs:
        assert sorted(rows.tolist()) == list(range(8))
        order = groups[rows].tolist()
        assert [a for a, b in zip(order, [None, *order], strict=False) if a != b] == list(dict.fromkeys(order))
    assert not torch.equal(*epochs)


def test_the_dropout_keeps_its_rates_and_its_mean() -> None:
    kept = draw_kept(5, 2000, [3, 2, 4], [0.2, 0.5])
    assert kept.shape == (2000, 2, 9)
    parts = kept.split([3, 2, 4], dim=2)
    assert [sorted({round(v, 4) for v in part.unique().tolist()}) for part in parts] == [[0, 1.25], [0, 2], [1]]
    assert float((parts[0] == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(kept, draw_kept(5, 2000, [3, 2, 4], [0.2, 0.5]))
    assert draw_kept(5, 3, [], []).shape == (3, 2, 0)


def test_the_result_is_the_weights_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    state = TrainingState.create(network, "adamw", 0.0, torch.amp.GradScaler("cpu", enabled=False), None)
    losses = iter([0.7, 0.4, 0.6])
    watcher = ValidationWatcher(
        "validation loss",
        "validation_loss",
        2,
        lambda: torch.full((4,), -next(losses)).double(),
        BestWeights(tmp_path, "a"),
    )
    watcher.resume([], 0)
    for step, weight in [(0, 10.0), (1, 11.0), (2, 12.0), (3, 13.0), (4, 14.0)]:
        with torch.no_grad():
            network.weight.fill_(weight)
        line = watcher.observe({"step": step, "loss": 1.0}, 4, state)
        assert ("validation_loss" in line) == (step % 2 == 0)
        if step == 4:
            assert line["validation_loss"] == pytest.approx(0.6)
    watcher.prune([])
    assert not watcher.has_to_stop and watcher.best_step == 2
    assert watcher.load_result(state) and float(network.weight) == 12.0


def test_a_process_that_has_not_measured_keeps_its_weights(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    state = TrainingState.create(network, "adamw", 0.0, torch.amp.GradScaler("cpu", enabled=False), None)
    watcher = ValidationWatcher("v", "validation_loss", 2, lambda: torch.zeros(1), BestWeights(tmp_path, "a"))
    assert not watcher.load_result(state)


PLAN = TrainingPlan(steps=4, batch=5, learning_rate=1e-3, seed=11, precision="fp32", checkpoint_every=1)


@dataclass(frozen=True)
class Case:
    """A training of a network on random images."""

    together: bool = True
    type: str = "clip-head"
    path: str = "embedded:clip"

    def prepare(self, plan: TrainingPlan, folder: Path) -> tuple[Actor, BradleyTerryObjective, ValidationWatcher]:
        model = catalog.build(
            "networks",
            {"type": self.type, "path": self.path, "hidden": (8, 4), "seed": 1, "device": "cpu"},
        )
        model.network.freeze(0.7)
        source = torch.Generator().manual_seed(2)
        pixels = torch.randint(0, 256, (12, 3, 64, 64), generator=source).to(torch.uint8)
        tokens, _ = model.tokenize(["a red circle", "two green squares left of a blue star", "a ring"])
        rows = torch.tensor([[i, j] for q in range(3) for i in range(4 * q, 4 * q + 3) for j in (i + 1, 4 * q + 3)])
        pairs = RewardPairs(pixels, tokens, torch.arange(12) // 4, rows[:, 0], rows[:, 1])
        pairs = pairs.select(pairs.winner_P != pairs.loser_P)
        held = pairs.select(pairs.prompt_P == 2)
        method = catalog.build("methods", {"type": "bradley-terry", "network": {"dropout": (0.5,)}})
        watcher = ValidationWatcher(
            "v", "validation_loss", 2, lambda: measure_losses(model, held, "fp32", 4), BestWeights(folder / "best", "a")
        )
        chosen = pairs.select(pairs.prompt_P < 2)
        objective = replace(method.objective(chosen, plan), together=self.together)
        return Actor(model, None, plan.precision), objective, watcher

    def train(self, run: Path, plan: TrainingPlan = PLAN, until: int | None = None, **more: Any) -> torch.Tensor:
        actor, objective, watcher = self.prepare(plan, run)

        def stop(line: Any) -> None:
            if line["step"] == until:
                raise KeyboardInterrupt

        checkpoints = Checkpoints(run / "checkpoints", "a")
        train(actor, objective, plan, checkpoints, run / "log", stop, watcher=watcher, **more)
        return torch.cat([p.detach().flatten() for p in actor.network.parameters()])


def curve(run: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "log").read_text().splitlines())
    return [{name: each for name, each in line.items() if not name.endswith("seconds")} for line in lines]


@pytest.mark.parametrize("case", [Case(), Case(together=False), Case(type="blip2-head", path="embedded:vqa")])
def test_killed_after_any_step_it_goes_on_to_the_same_bits(case: Case, tmp_path: Path) -> None:
    whole = case.train(tmp_path / "whole")
    for step in range(PLAN.steps + 1):
        with pytest.raises(KeyboardInterrupt):
            case.train(tmp_path / "cut", until=step)
    assert torch.equal(case.train(tmp_path / "cut"), whole)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert [line["step"] for line in curve(tmp_path / "cut") if "validation_loss" in line] == [0, 2, 4]


def test_a_step_in_parts_is_the_step(tmp_path: Path) -> None:
    one = replace(PLAN, steps=1)
    Case().train(tmp_path / "whole", one)
    Case().train(tmp_path / "parts", replace(one, accumulate=3))
    (_, whole), (_, parts) = curve(tmp_path / "whole"), curve(tmp_path / "parts")
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-4)


def test_its_loss_is_that_of_the_images_rated_one_by_one(tmp_path: Path) -> None:
    actor, objective, _ = Case().prepare(PLAN, tmp_path)
    objective = replace(objective, dropout=())
    (batch,) = objective.collect(actor, 0, torch.arange(PLAN.batch))
    loss, metrics = objective.loss(actor, batch)
    pairs, model = objective.pairs.select(batch.rows_P), actor.model
    with torch.no_grad():
        values = [
            float(objective.pairs.rate(model, torch.tensor([row]), "fp32", 1))
            for row in [*pairs.winner_P.tolist(), *pairs.loser_P.tolist()]
        ]
    margins = [winner - loser for winner, loser in zip(values[:5], values[5:], strict=True)]
    assert float(loss.detach()) == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 5, abs=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(sum(m > 0 for m in margins) / 5)


def test_the_frozen_blocks_stay_and_the_others_move(tmp_path: Path) -> None:
    actor, objective, watcher = Case().prepare(PLAN, tmp_path)
    before = {name: each.detach().clone() for name, each in actor.network.named_parameters()}
    train(actor, objective, PLAN, Checkpoints(tmp_path / "c", "a"), tmp_path / "log", lambda line: None)
    moved = {name for name, each in actor.network.named_parameters() if not torch.equal(each, before[name])}
    assert moved == {name for name, each in actor.network.named_parameters() if each.requires_grad}
    assert not any("embeddings" in name or ".layers.0." in name for name in moved if not name.startswith("mlp"))


def test_pixels_are_mapped_from_a_file_that_is_made_once(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4)).to(torch.uint8)
    mapped = map_pixels(tmp_path / "new" / "pixels.npy", 5, iter(images.split(2)))
    assert torch.equal(mapped, images)
    assert torch.equal(map_pixels(tmp_path / "new" / "pixels.npy", 5, iter([])), images)
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["pixels.npy"]


def share_training(rank: int, run: Path, port: int) -> None:
    """Train as process `rank` of two."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    found = Case().train(run, replace(PLAN, steps=2), processes=Processes(rank, 2))
    torch.save(found, run / f"weights-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    with socket.socket() as each:
        each.bind(("localhost", 0))
        port = int(each.getsockname()[1])
    Case().train(tmp_path / "alone", replace(PLAN, steps=2))
    (tmp_path / "both").mkdir()
    both = [get_context("fork").Process(target=share_training, args=(r, tmp_path / "both", port)) for r in (0, 1)]
    for each in both:
        each.start()
    for each in both:
        each.join(120)
        assert each.exitcode == 0
    for one, other in zip(curve(tmp_path / "alone"), curve(tmp_path / "both"), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)

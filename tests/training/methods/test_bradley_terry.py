"""The loss of a reward model by hand, its batches, its dropout, and the validation that chooses the weights."""

import math
from pathlib import Path

import pytest
import torch

from agfsync.training.batches import draw_rows_of_step
from agfsync.training.best_weights import BestWeights
from agfsync.training.methods.bradley_terry import ValidationWatcher, compare_outputs, draw_kept
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

"""The Diffusion-DPO loss against values computed by hand."""

import math

import pytest
import torch

from agfsync.training.methods.dpo import DiffusionDPO, diffusion_dpo
from agfsync.training.methods.pairs import PairErrors, compute_implicit_accuracy


def errors(*columns: list[float]) -> PairErrors:
    return PairErrors(*(torch.tensor(column) for column in columns))


def test_equal_networks_give_log_two_and_half_accuracy() -> None:
    loss, metrics = diffusion_dpo(errors([0.2, 0.5], [0.4, 0.3], [0.2, 0.5], [0.4, 0.3]), beta=2000)
    assert loss.item() == pytest.approx(math.log(2))
    assert metrics["implicit_accuracy"] == 0.5
    assert metrics["winner_error_change"] == metrics["loser_error_change"] == 0


def test_hand_computed() -> None:
    # winner: 0.10 - 0.12 = -0.02; loser: 0.30 - 0.27 = +0.03; margin = -(20 / 2) (-0.05) = 0.5
    loss, metrics = diffusion_dpo(errors([0.10], [0.30], [0.12], [0.27]), beta=20)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.5)), rel=1e-5)
    assert metrics["loss"].item() == loss.item()
    assert metrics["winner_error_change"].item() == pytest.approx(-0.02, abs=1e-6)
    assert metrics["loser_error_change"].item() == pytest.approx(0.03, abs=1e-6)
    assert metrics["implicit_accuracy"] == 1


def test_is_the_mean_over_pairs_and_not_of_the_mean_margin() -> None:
    # margins -(2 / 2) (change of winner - change of loser): 1 and -3
    loss, metrics = diffusion_dpo(errors([0.0, 3.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]), beta=2)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(3))) / 2, rel=1e-5)
    assert metrics["implicit_accuracy"] == 0.5


def test_gradient_lowers_the_winner_and_raises_the_loser() -> None:
    batch = errors([0.2], [0.2], [0.2], [0.2])
    batch.winner_P.requires_grad_()
    batch.loser_P.requires_grad_()
    loss, _ = DiffusionDPO(beta=8.0).loss(batch)
    loss.backward()
    assert batch.winner_P.grad is not None and batch.loser_P.grad is not None
    # sigmoid(0) beta / 2 = 2
    assert batch.winner_P.grad.item() == pytest.approx(2.0)
    assert batch.loser_P.grad.item() == pytest.approx(-2.0)


def test_stays_finite_far_out() -> None:
    loss, _ = diffusion_dpo(errors([1e3], [0.0], [0.0], [0.0]), beta=5000)
    assert loss.item() == pytest.approx(2.5e6)


def test_ties_count_one_half() -> None:
    assert compute_implicit_accuracy(torch.tensor([1.0, 0.0, -1.0, 0.5])) == pytest.approx(2.5 / 4)

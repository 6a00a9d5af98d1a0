"""The other losses on Diffusion-DPO's margin against values computed by hand."""

from dataclasses import fields

import pytest
import torch

from agfsync import catalog
from agfsync.training.methods.hinge import diffusion_hinge
from agfsync.training.methods.ipo import diffusion_ipo
from agfsync.training.methods.pairs import PairErrors, PairMethod


def errors(*columns: list[float]) -> PairErrors:
    return PairErrors(*(torch.tensor(column) for column in columns))


# Of margins -(20 / 2) [(0.10 - 0.12) - (0.30 - 0.27)] = 0.5 and -(20 / 2) [(0.5 - 0.4) - (0.2 - 0.3)] = -2.
TWO = errors([0.10, 0.5], [0.30, 0.2], [0.12, 0.4], [0.27, 0.3], [0.05, -0.1], [1.0, 4.0])
OPTIONS: dict[str, dict[str, float]] = {"dpo": {"sft_weight": 3.0}}
UNTRAINED = errors([0.2, 0.5], [0.4, 0.3], [0.2, 0.5], [0.4, 0.3])
FAR = errors([0.1], [0.9], [0.5], [0.5])
"""a pair of the margin 0.4 beta"""


def test_ipo_by_hand() -> None:
    loss, metrics = diffusion_ipo(TWO, beta=20)
    assert loss.item() == pytest.approx((0.0**2 + 2.5**2) / 2, rel=1e-5)
    assert metrics["loss"].item() == loss.item()
    assert metrics["implicit_accuracy"] == 0.5
    assert metrics["winner_error_change"].item() == pytest.approx(0.04, abs=1e-6)
    assert metrics["loser_error_change"].item() == pytest.approx(-0.035, abs=1e-6)


def test_ipo_is_the_papers_times_beta_squared() -> None:
    ratio = torch.tensor([0.025, -0.1])  # the margins without beta
    papers = (ratio - 1 / (2 * 20)).square().mean()
    assert diffusion_ipo(TWO, beta=20)[0].item() == pytest.approx(20**2 * papers.item(), rel=1e-5)


def test_ipo_pulls_back_a_pair_that_is_too_far_apart() -> None:
    winner = FAR.winner_P.clone().requires_grad_()
    loss, _ = diffusion_ipo(PairErrors(winner, FAR.loser_P, FAR.winner_reference_P, FAR.loser_reference_P), beta=5)
    loss.backward()
    # 2 (2 - 1/2) times -5/2: the winner's error is to rise
    assert winner.grad is not None and winner.grad.item() == pytest.approx(-7.5)


def test_hinge_by_hand() -> None:
    loss, metrics = diffusion_hinge(TWO, beta=20)
    assert loss.item() == pytest.approx((0.5 + 3.0) / 2, rel=1e-5)
    assert metrics["implicit_accuracy"] == 0.5


def test_hinge_is_done_with_a_pair_of_margin_one() -> None:
    winner = FAR.winner_P.clone().requires_grad_()
    pair = PairErrors(winner, FAR.loser_P, FAR.winner_reference_P, FAR.loser_reference_P)
    for beta, gradient in ((2.4, 1.2), (2.6, 0.0)):
        winner.grad = None
        diffusion_hinge(pair, beta)[0].backward()
        assert winner.grad is not None and winner.grad.item() == pytest.approx(gradient)


@pytest.mark.parametrize(("name", "loss"), [("dpo", 0.6931472), ("ipo", 0.25), ("hinge", 1.0)])
def test_each_is_in_the_catalog_and_starts_at_its_own_value(name: str, loss: float) -> None:
    method: PairMethod = catalog.build("methods", {"type": name, "beta": 2000.0})
    value, metrics = method.loss(UNTRAINED)
    assert value.item() == pytest.approx(loss)
    assert metrics["implicit_accuracy"] == 0.5


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "linear-dpo", "sdpo", "smpo", "mapo"])
def test_parts_of_a_batch_average_to_the_whole(name: str) -> None:
    method: PairMethod = catalog.build("methods", {"type": name, "beta": 20.0, **OPTIONS.get(name, {})})
    whole, metrics = method.loss(TWO)
    columns = [getattr(TWO, each.name) for each in fields(TWO)]
    parts = [method.loss(PairErrors(*(column[place : place + 1] for column in columns))) for place in (0, 1)]
    assert sum(part.item() for part, _ in parts) / 2 == pytest.approx(whole.item())
    for figure, value in metrics.items():
        assert sum(each[figure].item() for _, each in parts) / 2 == pytest.approx(value.item(), rel=1e-6, abs=1e-7)

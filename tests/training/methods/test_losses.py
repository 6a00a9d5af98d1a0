"""The losses on pairs and on rated images against naive second implementations, and values computed by hand."""

import math

import pytest
import torch

from agfsync.training.methods.best import Best, RandomCandidate, RewardWeighted
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.kto import DiffusionKTO, diffusion_kto
from agfsync.training.methods.linear_dpo import LinearDPO
from agfsync.training.methods.mapo import MaPO, score_error
from agfsync.training.methods.pairs import PairErrors, choose_beta
from agfsync.training.methods.sdpo import DiffusionSDPO, compute_loser_factor
from agfsync.training.methods.smpo import SmoothedDPO

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def logsigmoid(x: torch.Tensor) -> torch.Tensor:
    return -torch.log(1 + torch.exp(-x))


class Predictions:
    """A tiny "network" w: its predictions of winner and loser are w times inputs, and its targets are fixed."""

    def __init__(self) -> None:
        source = torch.Generator().manual_seed(4)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=source)

        self.inputs, self.targets = (draw(2, 5, 3, 2, 2) for _ in range(2))
        self.base = 0.3
        self.weight = torch.tensor(0.4, requires_grad=True)

    def errors(self, weight: torch.Tensor | float) -> torch.Tensor:
        """The errors of winners and losers, (2, P, C, H, W)."""
        return weight * self.inputs - self.targets

    def pair_errors(self, margin: torch.Tensor | None = None) -> PairErrors:
        e, base = self.errors(self.weight), self.errors(self.base)
        squares, reference = (each.square().mean(dim=(2, 3, 4)) for each in (e, base))
        product = (e[0] * e[1]).mean(dim=(1, 2, 3)).detach()
        return PairErrors(squares[0], squares[1], reference[0], reference[1], product, margin)

    def check(self, loss: torch.Tensor, naive: torch.Tensor) -> None:
        torch.testing.assert_close(loss, naive, **CLOSE)
        (ours,) = torch.autograd.grad(loss, self.weight, retain_graph=True)
        (theirs,) = torch.autograd.grad(naive, self.weight)
        torch.testing.assert_close(ours, theirs, **CLOSE)

    def naive_squares(self) -> list[list[torch.Tensor]]:
        """[winner, loser] of each pair, one by one."""
        e = self.errors(self.weight)
        return [[e[side, pair].pow(2).sum() / e[side, pair].numel() for side in (0, 1)] for pair in range(5)]

    def naive_changes(self) -> list[torch.Tensor]:
        """(m_w - m_w^ref) - (m_l - m_l^ref) of each pair."""
        base = self.errors(self.base)
        found = []
        for pair, (winner, loser) in enumerate(self.naive_squares()):
            before = [base[side, pair].pow(2).mean() for side in (0, 1)]
            found.append((winner - before[0]) - (loser - before[1]))
        return found


@pytest.fixture
def tiny() -> Predictions:
    return Predictions()


def test_an_anchor_adds_the_winners_own_error(tiny: Predictions) -> None:
    loss, metrics = DiffusionDPO(30.0, sft_weight=7.0).loss(tiny.pair_errors())
    naive = sum(
        -logsigmoid(-15.0 * change) + 7.0 * winner
        for change, (winner, _) in zip(tiny.naive_changes(), tiny.naive_squares(), strict=True)
    )
    tiny.check(loss, torch.as_tensor(naive) / 5)
    assert metrics["loss"] == loss


def test_linear_dpo(tiny: Predictions) -> None:
    loss, _ = LinearDPO(100.0, 0.05).loss(tiny.pair_errors())
    naive = sum(
        min(max(0.2 * 100.0 * change.item() + 0.5, 0.05), 0.95) * (winner - loser)
        for change, (winner, loser) in zip(tiny.naive_changes(), tiny.naive_squares(), strict=True)
    )
    tiny.check(loss, torch.as_tensor(naive) / 5)


def test_sdpo_scales_the_losers_gradient_of_each_pair(tiny: Predictions) -> None:
    loss, _ = DiffusionSDPO(30.0, 0.6).loss(tiny.pair_errors())
    plain, _ = DiffusionDPO(30.0).loss(tiny.pair_errors())
    assert loss.item() == pytest.approx(plain.item())
    e, total, factors = tiny.errors(tiny.weight), torch.zeros(()), []
    for pair, (winner, loser) in enumerate(tiny.naive_squares()):
        product = (e[0, pair] * e[1, pair]).sum().item()
        factors.append(1.0 if product <= 0 else min(1.0, 0.4 * e[0, pair].pow(2).sum().item() / product))
        fixed = loser.detach()
        base = [tiny.errors(tiny.base)[side, pair].pow(2).mean() for side in (0, 1)]
        change = (winner - base[0]) - (fixed + factors[-1] * (loser - fixed) - base[1])
        total = total - logsigmoid(-15.0 * change) / 5
    assert min(factors) < 1
    tiny.check(loss, total)


def test_sdpos_step_does_not_raise_the_winners_error_to_first_order() -> None:
    # Predictions move by -rate e_w (winner's gradient) and +rate factor e_l: the winner's error changes along
    # 2 <e_w, -e_w + factor e_l>, which is at most -2 mu |e_w|^2.
    source = torch.Generator().manual_seed(1)
    e_w = torch.randn(200, 12, generator=source)
    e_l = e_w + 2 * torch.randn(200, 12, generator=source)
    factor = compute_loser_factor(e_w.square().mean(1), (e_w * e_l).mean(1), 0.3)
    change = 2 * (e_w * (factor[:, None] * e_l - e_w)).mean(1)
    assert (change <= -2 * 0.3 * e_w.square().mean(1) + 1e-5).all()
    assert (factor < 1).any() and (factor == 1).any()


def test_mapo(tiny: Predictions) -> None:
    loss, _ = MaPO(0.2, 0.5, 10.0).loss(tiny.pair_errors())

    def score(m: torch.Tensor) -> torch.Tensor:
        return 0.5 * m / (torch.exp(0.5 * m) - 1)

    naive = sum(w - 0.2 * logsigmoid(10.0 * (score(w) - score(le))) for w, le in tiny.naive_squares())
    tiny.check(loss, torch.as_tensor(naive) / 5)
    assert score_error(torch.tensor([0.0]), 0.5) == 1
    assert not MaPO().uses_reference


def test_smpo_weighs_beta_by_the_certainty(tiny: Predictions) -> None:
    margin = torch.tensor([0.0, 1.0, 5.0, 20.0, 90.0])
    loss, _ = SmoothedDPO(30.0, temperature=5.0, gamma=1.0).loss(tiny.pair_errors(margin))
    naive = sum(
        -logsigmoid(-15.0 * (2 / (1 + math.exp(-m / 5)) - 1) * change)
        for m, change in zip(margin.tolist(), tiny.naive_changes(), strict=True)
    )
    tiny.check(loss, torch.as_tensor(naive) / 5)


def test_an_automatic_beta_keeps_the_gradient_of_an_average_pair() -> None:
    beta = choose_beta(0.01, 0.2, 5000.0)
    assert 1 / (1 + math.exp(beta / 2 * 0.01)) == pytest.approx(0.2)
    assert choose_beta(0.0, 0.2, 5000.0) == 5000.0
    assert choose_beta(1e-9, 0.2, 5000.0) == 5000.0


def test_kto() -> None:
    gain = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    liked = torch.tensor([True, False, False])
    loss = diffusion_kto(gain, liked, 0.05, 4.0, 1.0, 2.0)
    naive = (
        (1 - torch.sigmoid(4.0 * (gain[0] - 0.05)))
        + 2 * (1 - torch.sigmoid(-4.0 * (gain[1] - 0.05)))
        + 2 * (1 - torch.sigmoid(-4.0 * (gain[2] - 0.05)))
    ) / 3
    torch.testing.assert_close(loss, naive, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, gain), torch.autograd.grad(naive, gain), **CLOSE)


VALUES = {
    "a": {"vqa": 100.0, "look": 50.0},
    "b": {"vqa": 95.0, "look": 70.0},
    "c": {"vqa": 92.0, "look": 90.0},
    "d": {"vqa": None, "look": 99.0},
    "e": {"vqa": 40.0, "look": 95.0},
}


def test_kto_likes_what_is_above_the_captions_mean() -> None:
    rated = DiffusionKTO({"vqa": 1.0}).rate(VALUES)
    assert rated == {"a": 1.0, "b": 1.0, "c": 1.0, "e": -1.0}
    assert DiffusionKTO({"vqa": 1.0}).rate({"a": {"vqa": 5.0}, "b": {"vqa": 5.0}}) == {}


def test_dreamsync_keeps_the_best_of_those_above_the_thresholds() -> None:
    dreamsync = Best({"vqa": 1.0, "look": 1.0}, at_least={"vqa": 90.0, "look": 60.0})
    assert dreamsync.rate(VALUES) == {"c": 1.0}
    assert Best({"vqa": 1.0}, 2, {"vqa": 90.0}).rate(VALUES) == {"a": 1.0, "b": 1.0}
    assert Best({"vqa": 1.0}, at_least={"vqa": 101.0}).rate(VALUES) == {}


def test_raft_has_no_threshold_and_takes_the_first_of_equals() -> None:
    assert Best({"vqa": 1.0}).rate({"a": {"vqa": 1.0}, "b": {"vqa": 3.0}, "c": {"vqa": 3.0}}) == {"b": 1.0}


def test_reward_weights_of_a_caption_have_a_mean_of_one() -> None:
    rated = RewardWeighted({"vqa": 1.0}, 10.0).rate({"a": {"vqa": 10.0}, "b": {"vqa": 0.0}, "c": {"vqa": None}})
    assert rated["a"] / rated["b"] == pytest.approx(math.e)
    assert (rated["a"] + rated["b"]) / 2 == pytest.approx(1.0)
    assert set(rated) == {"a", "b"}


def test_the_control_takes_one_candidate_by_lot_whatever_its_score() -> None:
    lots = {next(iter(RandomCandidate(seed).rate(VALUES))) for seed in range(60)}
    assert lots == set(VALUES)
    assert RandomCandidate(3).rate(VALUES) == RandomCandidate(3).rate(VALUES)

"""The objective of a reward model: a higher output for a pair's winner than for its loser, by the Bradley-Terry model.

The loss is that of ImageReward (Xu et al. 2023, arXiv:2304.05977) and VP-Score (Wu et al. 2024, arXiv:2404.15100).

Legend: P pairs, K the concatenated widths of the head's layers with a dropout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from agfsync.records import derive_seed
from agfsync.scorers.reward_networks import RewardModel
from agfsync.training.batches import draw_rows_of_step
from agfsync.training.best_weights import Measured
from agfsync.training.objective import Actor, Metrics, TrainingPlan
from agfsync.training.precision import autocast
from agfsync.training.reward_pairs import RewardPairs
from agfsync.training.state import TrainingState
from agfsync.training.watching import LogLine, Watcher

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class BradleyTerry:
    """The method `bradley-terry`. With `together`, the pairs of a prompt follow each other in each epoch."""

    network: Mapping[str, Any]
    together: bool = True

    needs: ClassVar[Literal["pairs"]] = "pairs"
    trains: ClassVar[Literal["reward"]] = "reward"
    uses_reference: ClassVar[bool] = False
    curves: ClassVar[Sequence[str]] = ("loss", "accuracy")

    def objective(self, data: RewardPairs, plan: TrainingPlan) -> "BradleyTerryObjective":
        return BradleyTerryObjective(data, plan, self.together, tuple(self.network.get("dropout", ())))


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """The pairs of a step, as int64 rows (P,), and the head's dropout factors for both images, fp32 (P, 2, K)."""

    rows_P: Tensor
    kept_P2K: Tensor

    def __len__(self) -> int:
        return len(self.rows_P)

    def part(self, rows: Tensor, device: torch.device) -> "RewardBatch":
        return RewardBatch(self.rows_P[rows], self.kept_P2K[rows].to(device))


@dataclass(frozen=True, slots=True)
class BradleyTerryObjective:
    """The objective on `pairs`."""

    pairs: RewardPairs
    plan: TrainingPlan
    together: bool = True
    dropout: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[RewardBatch]:
        plan, groups = self.plan, self.pairs.prompt_P if self.together else None
        rows_P = draw_rows_of_step(plan.seed, step, plan.batch, len(self.pairs), groups)
        widths = cast(RewardModel, actor.model).network.mlp.dropped_widths
        seed = derive_seed(plan.seed, "head dropout", step)
        return [RewardBatch(rows_P, draw_kept(seed, plan.batch, widths, self.dropout)).part(rows, _CPU)]

    def loss(self, actor: Actor, batch: RewardBatch) -> tuple[Tensor, Metrics]:
        model, pairs = cast(RewardModel, actor.model), self.pairs.select(batch.rows_P)
        # An image in several pairs goes through the towers once; its dropout differs between the pairs.
        images_B, place_2P = torch.cat([pairs.winner_P, pairs.loser_P]).unique(return_inverse=True)
        embeddings_BE = pairs.embed(model, images_B, actor.precision)
        kept_2PK = torch.cat([batch.kept_P2K[:, 0], batch.kept_P2K[:, 1]])
        with autocast(actor.device, actor.precision):
            outputs_2P = model.network.mlp(embeddings_BE[place_2P.to(actor.device)], kept_2PK)
        return compare_outputs(*outputs_2P.float().chunk(2))


def compare_outputs(winner_P: Tensor, loser_P: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean of -log sigmoid(winner - loser), and the metrics: loss, accuracy and margin.

    The loss of equal outputs is log 2. The accuracy is the share of pairs with a higher output for the winner; equal
    outputs count one half.
    """
    margin_P = winner_P - loser_P
    loss, known_P = -F.logsigmoid(margin_P).mean(), margin_P.detach()
    return loss, {"loss": loss.detach(), "accuracy": (known_P.sign() + 1).mean() / 2, "margin": known_P.mean()}


def draw_kept(seed: int, pairs: int, widths: Sequence[int], rates: Sequence[float]) -> Tensor:
    """Draw the factors of the head's dropouts for both images of each pair, fp32 (pairs, 2, sum of `widths`).

    A factor is 0 with the probability of the layer's rate, else 1 / (1 - rate). Layers without a rate keep everything.
    """
    source = torch.Generator().manual_seed(seed)
    rates = [*rates, *[0.0] * len(widths)][: len(widths)]
    parts = [
        (torch.rand(pairs, 2, width, generator=source) >= rate).float() / (1 - rate)
        for width, rate in zip(widths, rates, strict=True)
    ]
    return torch.cat([*parts, torch.empty(pairs, 2, 0)], dim=2)


@dataclass(slots=True)
class ValidationWatcher(Watcher):
    """Measures the negative losses of the validation pairs; the training results in the best measured weights.

    It never ends the training.
    """

    def _make_figures(self, found: Measured) -> LogLine:
        return {self.metric: -found.mean}

    def _must_end(self, found: Measured) -> bool:
        return False

    def prune(self, steps: Any) -> None:
        """Delete the weights that aren't needed, but keep the best ones at the end, since they are the result."""
        if steps:
            Watcher.prune(self, steps)

    def load_result(self, state: TrainingState) -> bool:
        """Copy the best weights into the network and return True; return False in a process that didn't measure."""
        if self.best is None or self._best is None:
            return False
        self.best.load(self._best.step, state.parameters)
        return True

    @property
    def best_step(self) -> int:
        """The step of the best weights."""
        return self._best.step if self._best else 0


def measure_losses(model: RewardModel, pairs: RewardPairs, precision: str, batch: int) -> Tensor:
    """Return the negative loss of each pair, without dropout, float64 (P,): higher is better."""
    return F.logsigmoid(pairs.subtract_outputs(model, precision, batch)).double()

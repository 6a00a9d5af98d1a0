"""DPOK's value network: the expected reward of a state of the sampling (Fan et al. 2023, arXiv:2305.16381).

Its weights and its optimizer's moments are in the objective's memory, so that a resume is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agfsync.models.architecture import Conditioning
from agfsync.records import derive_seed
from agfsync.training import SamplingModel
from agfsync.training.objective import Actor
from agfsync.training.prompts import PromptData

if TYPE_CHECKING:
    from agfsync.training.methods.online import Sampler, Samples

_WIDTH = 256
_ROWS_AT_ONCE = 256


class _ValueLayers(nn.Module):
    """Three layers of width 256, with outputs scaled by a learned vector per step, and a last layer with one output."""

    def __init__(self, inputs: int, steps: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, _WIDTH), nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)])
        self.scales = nn.ParameterList([nn.Parameter(torch.rand(steps, _WIDTH)) for _ in self.layers])
        self.last = nn.Linear(_WIDTH, 1)
        for layer in (*self.layers, self.last):
            nn.init.xavier_normal_(cast(nn.Linear, layer).weight)

    def forward(self, inputs_RD: Tensor, steps_R: Tensor) -> Tensor:
        """Return the value of each state, (R,)."""
        for layer, scales in zip(self.layers, self.scales, strict=True):
            inputs_RD = F.relu(layer(inputs_RD) * scales[steps_R])
        values_R1: Tensor = self.last(inputs_RD)
        return values_R1.squeeze(1)


@dataclass(frozen=True, slots=True)
class ValueNetwork:
    """The value network and its optimizer; `memory` holds the tensors of both."""

    layers: _ValueLayers
    optimizer: torch.optim.Optimizer
    memory: Mapping[str, Tensor]

    @classmethod
    def create(cls, actor: Actor, data: PromptData, sampler: "Sampler", learning_rate: float, seed: int) -> Self:
        """Return the network before its first update; its weights depend on `seed`."""
        model = cast(SamplingModel, actor.model)
        inputs = torch.Size(model.latent_shape).numel() + _average_text(data.conditioning).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "value"))
            layers = _ValueLayers(inputs, sampler.count_steps(model)).to(actor.device)
        optimizer = torch.optim.AdamW(layers.parameters(), learning_rate)
        memory: dict[str, Tensor] = {}
        for name, weight in layers.named_parameters():
            moments = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
            # The optimizer and a resume both change these tensors in place.
            optimizer.state[weight] = {"step": torch.zeros(()), **moments}
            memory[f"value.{name}"] = weight.detach()
            memory |= {f"value_{moment}.{name}": value for moment, value in optimizer.state[weight].items()}
        return cls(layers, optimizer, memory)

    def learn(
        self,
        actor: Actor,
        data: PromptData,
        samples: "Samples",
        chosen_BS: Tensor,
        updates: int,
    ) -> Tensor:
        """Return reward - value of the chosen steps, (B, S'), 0 without a reward; then fit the values to the rewards.

        Each of the `updates` steps of AdamW lowers the mean squared error over the states of all processes.
        """
        trajectory, device = samples.trajectory, actor.device
        images_R = torch.arange(len(chosen_BS)).repeat_interleave(chosen_BS.shape[1])
        steps_R = chosen_BS.flatten()
        text_RD = _average_text(data.conditioning)[samples.prompts_B[images_R]].float()
        inputs_RD = torch.cat([trajectory.states_BSCHW[images_R, steps_R].flatten(1), text_RD], dim=1).to(device)
        rewards_R = samples.own_rewards_B[images_R].float().to(device)
        known_R, steps_R = rewards_R.isfinite(), steps_R.to(device)
        with torch.no_grad():
            chunks = zip(inputs_RD.split(_ROWS_AT_ONCE), steps_R.split(_ROWS_AT_ONCE), strict=True)
            values_R = torch.cat([self.layers(*each) for each in chunks])
        advantages_R = (rewards_R - values_R).nan_to_num().cpu()
        for _ in range(updates):
            self._update(actor, inputs_RD[known_R], steps_R[known_R], rewards_R[known_R])
        return advantages_R.view(chosen_BS.shape)

    def _update(self, actor: Actor, inputs_RD: Tensor, steps_R: Tensor, rewards_R: Tensor) -> None:
        (count,) = actor.processes.sum_values([len(rewards_R)])
        self.optimizer.zero_grad()
        with torch.enable_grad():
            errors_R = self.layers(inputs_RD, steps_R) - rewards_R
            (errors_R.square().sum() / max(count, 1)).backward()
        actor.processes.sum_gradients([p.grad for p in self.layers.parameters() if p.grad is not None])
        self.optimizer.step()


def _average_text(conditioning: Conditioning) -> Tensor:
    """Return one vector per prompt, (U, D): the mean over the tokens of the largest conditioning tensor."""
    states = max(conditioning.values(), key=lambda tensor: tensor[0].numel())
    return states.flatten(1, -2).mean(dim=1) if states.dim() > 2 else states

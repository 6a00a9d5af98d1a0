"""A step that doesn't fit into memory is done in more parts: the very step, from then on, and after a resume."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from methods import Narrow
from torch import Tensor

from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.training.batches import EncodedPairs
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.pairs import PairErrors
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.reference import AdaptersOff

PLAN = TrainingPlan(steps=4, batch=5, learning_rate=1e-3, seed=11, precision="fp32", checkpoint_every=1)


class Session:
    """A training of a LoRA on `folder`; each call is a new process."""

    def __init__(self, model: Path, pairs: EncodedPairs, folder: Path) -> None:
        self.model, self.pairs, self.folder, self.said = model, pairs, folder, list[str]()

    def __call__(self, method: DiffusionDPO, plan: TrainingPlan, until: int | None = None) -> Tensor:
        denoiser = StableDiffusion(str(self.model), device="cpu")
        add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
        checkpoints, log = Checkpoints(self.folder / "checkpoints", "a"), self.folder / "log"

        def tell(line: Mapping[str, float]) -> None:
            if line["step"] == until:
                raise KeyboardInterrupt

        actor = Actor(denoiser, AdaptersOff(denoiser.network), plan.precision)
        objective = method.objective(self.pairs, plan)
        train(actor, objective, plan, checkpoints, log, tell, say=self.said.append)
        return torch.cat([p.detach().flatten() for p in denoiser.network.parameters() if p.requires_grad])

    def lines(self) -> list[dict[str, float]]:
        text = (self.folder / "log").read_text()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text.splitlines()]


@pytest.fixture
def wide(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> Session:
    return Session(tiny_generator, pairs, tmp_path / "wide")


@pytest.fixture
def narrow(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> Session:
    Narrow.failures = 0
    return Session(tiny_generator, pairs, tmp_path / "narrow")


def test_what_doesnt_fit_is_done_in_more_parts_to_the_same_bits(wide: Session, narrow: Session) -> None:
    expected = wide(DiffusionDPO(500.0), replace(PLAN, accumulate=4))
    assert torch.equal(narrow(Narrow(500.0), PLAN), expected)
    assert narrow.lines() == wide.lines()
    assert Narrow.failures == 2
    assert narrow.said == ["a step doesn't fit into memory: from step 1 on it has 4 parts"]
    assert wide.said == []


def test_a_resume_begins_with_what_has_fitted(wide: Session, narrow: Session) -> None:
    expected = wide(DiffusionDPO(500.0), replace(PLAN, accumulate=4))
    with pytest.raises(KeyboardInterrupt):
        narrow(Narrow(500.0), PLAN, until=2)
    assert (Narrow.failures, len(narrow.said)) == (2, 1)
    assert torch.equal(narrow(Narrow(500.0), PLAN), expected)
    assert narrow.lines() == wide.lines()
    assert (Narrow.failures, len(narrow.said)) == (2, 1)


class Full(DiffusionDPO):
    """Has memory for nothing."""

    parts: list[int] = []  # noqa: RUF012

    def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.parts.append(len(errors.winner_P))
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def test_where_one_pair_doesnt_fit_it_is_told_as_it_was(narrow: Session) -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        narrow(Full(500.0), PLAN)
    assert Full.parts == [5, 3, 2, 1]
    assert narrow.said == [] and narrow.lines() == []


def test_other_failures_are_no_lack_of_memory(narrow: Session) -> None:
    class Wrong(DiffusionDPO):
        def compare(self, errors: PairErrors, beta: float) -> tuple[Tensor, dict[str, Tensor]]:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        narrow(Wrong(500.0), PLAN)

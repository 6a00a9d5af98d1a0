"""A watched training: when it stops, with which weights, and that it is the same killed anywhere, or shared."""

import json
import os
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import get_context

from agfsync.errors import StoreError
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.training.batches import EncodedPairs
from agfsync.training.best_weights import BestWeights, Measured
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.metrics import MetricsLog
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.precision import leave_no_trace
from agfsync.training.processes import ALONE, Processes
from agfsync.training.reference import AdaptersOff
from agfsync.training.watching import Watcher, average_raised, has_fallen, is_better, summarize_watch

PLAN = TrainingPlan(
    steps=7, batch=4, learning_rate=1e-3, seed=11, schedule="constant", precision="fp32", checkpoint_every=3
)
WATCHED = "watched_oracle"
FALL = {0: [50.0, 52.0, 48.0], 2: [60.0, 61.0, 62.0], 4: [60.0, 60.0, 62.0], 6: [10.0, 12.0, 11.0], 7: [90.0] * 3}
"""Values after each measured step: the best at 2, a dip at 4 that is no fall, a fall at 6."""


def test_a_fall_is_more_than_so_many_standard_errors_of_the_paired_difference() -> None:
    """Against the same by numpy, on values that differ more between captions than within one."""
    source = np.random.default_rng(0)
    fallen = 0
    for shift in np.linspace(0.0, -4.0, 40):
        best = source.normal(50, 20, 30)
        values = best + source.normal(shift, 5, 30)
        difference = values - best
        expected = difference.mean() < -1.645 * difference.std(ddof=1) / np.sqrt(30)
        assert has_fallen(torch.tensor(values), torch.tensor(best)) == expected
        fallen += expected
    assert 0 < fallen < 40


def test_captions_without_a_value_on_either_side_are_left_out() -> None:
    best, values = torch.tensor([10.0, 20.0, nan, 100.0]), torch.tensor([9.0, 19.0, 90.0, nan])
    assert has_fallen(values, best) and not is_better(values, best)
    assert is_better(values + 2, best)
    assert not has_fallen(values[1:], best[1:])  # a single caption tells nothing
    assert is_better(values, None) and not is_better(torch.tensor([nan]), None)
    assert not has_fallen(torch.tensor([nan]), torch.tensor([1.0])) and Measured(3, best).mean == pytest.approx(130 / 3)


def test_equal_values_are_neither_better_nor_fallen() -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    assert not is_better(values, values) and not has_fallen(values, values)
    assert has_fallen(values - 1, values)  # all alike: no error at all


def test_what_a_method_raises_is_averaged_since_the_last_measurement() -> None:
    lines = [{"step": 0, WATCHED: 1.0}]
    lines += [{"step": n, "loss": float(n), "implicit_accuracy": n / 10, "reward": 10.0 * n} for n in range(1, 7)]
    lines[3][WATCHED] = lines[6][WATCHED] = 2.0
    assert average_raised(lines, 6, WATCHED) == 50.0
    assert average_raised(lines, 3, WATCHED) == 20.0
    assert average_raised(lines, 0, WATCHED) == 10.0  # the first step's, which precedes its update
    without = [{name: value for name, value in line.items() if name != "reward"} for line in lines]
    assert average_raised(without, 6, WATCHED) == pytest.approx(0.5)
    bare = [{name: value for name, value in line.items() if name != "implicit_accuracy"} for line in without]
    assert average_raised(bare, 6, WATCHED) == -5.0


def test_the_notes_of_a_watch() -> None:
    lines = [{"step": 0, WATCHED: 4.0}, {"step": 1, "loss": 1.0}, {"step": 2, WATCHED: 6.0}, {"step": 4, WATCHED: 5.0}]
    told = {"judge": "oracle", "base": 4.0, "best_step": 2, "best": 6.0, "last_step": 4, "last": 5.0}
    assert summarize_watch("oracle", WATCHED, lines, None) == told
    assert summarize_watch("oracle", WATCHED, lines, (2, 4)) == told | {"stopped_at": 4}
    assert summarize_watch("oracle", WATCHED, [], None) == {"judge": "oracle"}


def test_weights_are_kept_for_every_checkpoint_that_a_training_may_go_on_from(tmp_path: Path) -> None:
    best, weights = BestWeights(tmp_path / "watch", "a"), {"w": torch.tensor([1.0])}
    for step in (0, 2, 4, 6):
        best.save(Measured(step, torch.tensor([float(step)])), {"w": torch.tensor([float(step)])})
    best.prune([6, 3])
    assert sorted(path.name for path in best.folder.iterdir()) == [f"step-000000{n}.safetensors" for n in (2, 4, 6)]
    found = best.find(5)
    assert found is not None and found.step == 4 and found.values_N.tolist() == [4.0]
    assert len(list(best.folder.iterdir())) == 2  # that of a later step is written anew
    parameter = {"w": nn.Parameter(torch.zeros(1))}
    best.load(4, parameter)
    assert parameter["w"].item() == 4.0
    assert BestWeights(best.folder, "b").find(9) is None and list(best.folder.iterdir()) == []
    best.save(Measured(1, torch.ones(1)), weights)
    best.prune([])
    assert list(best.folder.iterdir()) == []


def test_damaged_weights_are_told_in_one_line(tmp_path: Path) -> None:
    best = BestWeights(tmp_path / "watch", "a")
    best.save(Measured(2, torch.ones(3)), {"w": torch.ones(100)})
    (path,) = best.folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="step-0000002.* is damaged or gone: delete .*from the start") as caught:
        best.find(4)
    assert "\n" not in str(caught.value)


def test_drawing_leaves_no_trace(denoiser: StableDiffusion) -> None:
    network = denoiser.network
    network.train()
    network.conv_in.eval()
    modes = [module.training for module in network.modules()]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    with leave_no_trace(network, "bf16", denoiser.device):
        assert not any(module.training for module in network.modules()) and not torch.is_grad_enabled()
        torch.rand(3), random.random(), np.random.rand()
        assert network(torch.zeros(1, 4, 8, 8), 1, torch.zeros(1, 12, 16)).sample.dtype == torch.bfloat16
    assert [module.training for module in network.modules()] == modes
    assert "forward" not in vars(network) and torch.is_grad_enabled()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@dataclass
class Session:
    """A training of a LoRA; each call of `go` is a new process on the same folder.

    `script` are the judge's values, and the method's reward grows by `slope` a step.
    """

    model: Path
    folder: Path
    pairs: EncodedPairs
    plan: TrainingPlan = PLAN
    script: Mapping[int, Sequence[float]] | None = field(default_factory=lambda: FALL)
    stop: bool = True
    slope: float = 1.0
    at: int = 0
    seen: dict[int, Tensor] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    lines_told: list[Mapping[str, float]] = field(default_factory=list)

    def go(self, processes: Processes = ALONE) -> Tensor:
        denoiser, self.at = StableDiffusion(str(self.model), device="cpu"), 0
        add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
        objective: Any = DiffusionDPO(500.0).objective(self.pairs, self.plan)
        collect = objective.collect

        def count(actor: Actor, step: int, rows: Tensor) -> Any:
            self.at = step + 1
            return collect(actor, step, rows)

        def reward(actor: Actor, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            found, metrics = loss(actor, batch)
            return found, metrics | {"reward": torch.tensor(self.slope * self.at)}

        loss = objective.loss
        counting: Any = SimpleNamespace(collect=count, loss=reward)

        def measure() -> Tensor:
            self.seen[self.at] = weights(denoiser.network)
            with leave_no_trace(denoiser.network, self.plan.precision, denoiser.device):
                torch.rand(5)
            return torch.tensor((self.script or {})[self.at], dtype=torch.float64)

        best = BestWeights(self.folder / "watch", "a") if self.stop else None
        watcher = None if self.script is None else Watcher("oracle", WATCHED, 2, measure, best)
        actor = Actor(denoiser, AdaptersOff(denoiser.network), self.plan.precision)
        checkpoints = Checkpoints(self.folder / "checkpoints", "a")
        train(
            actor,
            counting,
            self.plan,
            checkpoints,
            self.folder / "metrics.jsonl",
            lambda line: self.lines_told.append(dict(line)),
            processes=processes,
            say=self.said.append,
            watcher=watcher,
        )
        return weights(denoiser.network)

    def lines(self) -> list[dict[str, float]]:
        """The log without its times."""
        text = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if not k.endswith("seconds")} for line in text]


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for name, p in network.named_parameters() if "lora_" in name])


@pytest.fixture
def make_session(tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path) -> Callable[..., Session]:
    return lambda name, **settings: Session(tiny_generator, tmp_path / name, pairs, **settings)


def test_it_stops_where_the_judge_falls_with_the_best_weights(make_session: Callable[..., Session]) -> None:
    session = make_session("run")
    found = session.go()
    assert [line["step"] for line in session.lines()] == [0, 1, 2, 3, 4, 5, 6]
    assert {line["step"]: line[WATCHED] for line in session.lines() if WATCHED in line} == pytest.approx(
        {0: 50.0, 2: 61.0, 4: 182 / 3, 6: 11.0}
    )
    assert torch.equal(found, session.seen[2]) and not torch.equal(found, session.seen[6])
    assert [line["step"] for line in session.lines_told] == [0, 1, 2, 3, 4, 5, 6]
    assert session.said == [
        "training stopped at step 6: oracle fell to 11.0 from 61.0 at step 2, whose weights are the result"
    ]
    again = replace(session, seen={}, lines_told=[], said=[])
    assert torch.equal(again.go(), found)
    assert (again.seen, again.lines_told, again.said) == ({}, [], [])  # it has ended, and is only loaded


def test_the_result_may_be_the_base(make_session: Callable[..., Session]) -> None:
    session = make_session("run", script={0: [90.0, 91.0, 92.0], 2: [50.0, 40.0, 60.0]})
    assert torch.equal(session.go(), session.seen[0])
    assert session.lines()[-1]["step"] == 2


def test_it_goes_on_where_what_the_method_raises_falls_too(make_session: Callable[..., Session]) -> None:
    session = make_session("run", slope=-1.0)
    session.go()
    assert session.lines()[-1]["step"] == 7 and session.said == []


@pytest.mark.long
@pytest.mark.parametrize("ema", [None, 0.9])
def test_watching_changes_no_weight(make_session: Callable[..., Session], ema: float | None) -> None:
    """With an average of the weights that is measured, and in the end the result."""
    plan = replace(PLAN, ema=ema)
    plain = make_session("plain", plan=plan, script=None)
    expected = plain.go()
    for stop in (False, True):
        level = {step: [50.0 + step] * 3 for step in (0, 2, 4, 6, 7)}
        watched = make_session(f"watched-{stop}", plan=plan, script=level, stop=stop)
        assert torch.equal(watched.go(), expected)
        assert torch.equal(watched.seen[7], expected)
        assert [{k: v for k, v in line.items() if k != WATCHED} for line in watched.lines()[1:]] == plain.lines()
        assert not list((watched.folder / "watch").glob("*"))
    assert (ema is None) == torch.equal(
        watched.seen[6], make_session("short", plan=replace(PLAN, steps=6), script=None).go()
    )


def test_a_caption_without_a_score_is_left_out_and_counted(make_session: Callable[..., Session]) -> None:
    script = {0: [50.0, nan, 48.0], 2: [nan] * 3, 4: [60.0, 61.0, 62.0], 6: [60.0] * 3, 7: [60.0] * 3}
    session = make_session("run", script=script)
    session.go()
    lines = {line["step"]: line for line in session.lines()}
    assert lines[0][WATCHED] == 49.0 and lines[0][f"{WATCHED}_unscored"] == pytest.approx(1 / 3)
    assert WATCHED not in lines[2] and lines[2][f"{WATCHED}_unscored"] == 1.0
    assert f"{WATCHED}_unscored" not in lines[4]


class Killed(BaseException):
    """Not an Exception: nothing in the program may catch it, as nothing catches SIGKILL."""


def set_fuse(patch: pytest.MonkeyPatch, owner: type, name: str, fuse: int) -> None:
    """Kill after the call of a method with this number, 1 for the first."""
    method, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def killed(*arguments: Any) -> Any:
        found = method(*arguments)
        if next(calls) == fuse:
            raise Killed
        return found

    patch.setattr(owner, name, killed)


@pytest.mark.long
def test_killed_anywhere_it_is_the_same_training(
    make_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is of step 3: a better step 4 is forgotten by a training that goes on from there."""
    script = {0: [50.0, 51.0], 2: [55.0, 54.0], 4: [60.0, 61.0], 6: [20.0, 21.0]}
    whole, cut = make_session("whole", script=script), make_session("cut", script=script)
    expected = whole.go()
    assert torch.equal(expected, whole.seen[4])
    places: list[tuple[type, str, int]] = [
        (BestWeights, "save", 2),  # step 2 is the best, and no line says so
        (Checkpoints, "save", 1),
        (MetricsLog, "write", 2),  # after step 5
        (MetricsLog, "write", 3),  # step 6 is in the log, and the end isn't noted
        (BestWeights, "end", 1),
    ]
    for place in places:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            set_fuse(patch, *place)
            cut.go()
    assert torch.equal(cut.go(), expected)
    assert cut.lines() == whole.lines()


def share_training(session: Session, rank: int, port: int) -> None:
    """Train as process `rank` of two; only the first may measure."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    found = session.go(Processes(rank, 2))
    torch.save((found, sorted(session.seen)), session.folder / f"found-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_stop_together(make_session: Callable[..., Session]) -> None:
    session = make_session("both")
    session.folder.mkdir()
    with socket.socket() as each:
        each.bind(("localhost", 0))
        port = int(each.getsockname()[1])
    both = [get_context("fork").Process(target=share_training, args=(session, rank, port)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    (first, seen), (second, none) = (torch.load(session.folder / f"found-{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    assert (seen, none) == ([0, 2, 4, 6], [])
    assert session.lines()[-1]["step"] == 6

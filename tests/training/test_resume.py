"""Training that is killed anywhere goes on to the same curve and the same weights, to the last bit; the reference
never moves."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agfsync.files.tensors import write_tensors
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.training import Reference
from agfsync.training import loop as training
from agfsync.training.batches import EncodedPairs
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.methods.pairs import PairErrors
from agfsync.training.metrics import MetricsLog
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.precision import autocast
from agfsync.training.reference import AdaptersOff, FrozenCopy
from agfsync.training.state import TrainingState

pytestmark = pytest.mark.long

PLAN = TrainingPlan(
    steps=5,
    batch=4,
    learning_rate=1e-3,
    seed=11,
    warmup=2,
    precision="fp32",
    checkpoint_every=2,
    accumulate=2,
    ema=0.9,
    caption_dropout=0.5,
    min_snr_gamma=5.0,
)
STEPS = range(1, PLAN.steps + 1)
KINDS = [("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True)]


class Killed(BaseException):
    """Not an Exception: nothing in the program may catch it, as nothing catches SIGKILL."""


@dataclass
class Session:
    """A training; each call of `go` is a new process on the same folder."""

    model: Path
    folder: Path
    pairs: EncodedPairs
    plan: TrainingPlan
    lora: bool

    def go(self) -> tuple[StableDiffusion, Reference]:
        denoiser = StableDiffusion(str(self.model), device="cpu")
        reference = frozen(denoiser, self.lora, self.plan.precision)
        checkpoints = Checkpoints(self.folder / "checkpoints", "a")
        actor, objective = (
            Actor(denoiser, reference, self.plan.precision),
            Method(500.0).objective(self.pairs, self.plan),
        )
        train(actor, objective, self.plan, checkpoints, self.log, lambda line: None)
        return denoiser, reference

    @property
    def log(self) -> Path:
        return self.folder / "metrics.jsonl"

    def lines(self) -> list[dict[str, float]]:
        """The log without its times."""
        text = self.log.read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in text]


class Method(DiffusionDPO):
    """So that a test can kill inside of it."""


def frozen(denoiser: StableDiffusion, lora: bool, precision: str) -> Reference:
    if lora:
        add_adapters(denoiser.network, rank=2, alpha=2, seed=0)
        return AdaptersOff(denoiser.network)
    reference = FrozenCopy(denoiser.network, precision)
    denoiser.network.requires_grad_(True)
    return reference


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def same(some: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return some.keys() == other.keys() and all(torch.equal(some[name], other[name]) for name in some)


@pytest.fixture
def sessions(
    tiny_generator: Path, pairs: EncodedPairs, tmp_path: Path
) -> Callable[[str, bool], tuple[Session, Session]]:
    """One that is left alone and one that is to be killed; the pairs with an empty prompt, for captions to drop."""
    text = StableDiffusion(str(tiny_generator), device="cpu").encode_prompts(["a red circle", "two", "a ring", ""])

    def make(precision: str, lora: bool) -> tuple[Session, Session]:
        plan = replace(PLAN, precision=precision)  # type: ignore[arg-type]
        given = replace(pairs, conditioning=text)
        whole, cut = (Session(tiny_generator, tmp_path / name, given, plan, lora) for name in ("whole", "cut"))
        return whole, cut

    return make


class Bomb:
    """Kills at the call that its fuse is set to: 1 for the first."""

    def __init__(self) -> None:
        self.fuse = 0

    def __call__(self) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise Killed


def in_the_forward_pass(patch: pytest.MonkeyPatch, bomb: Bomb) -> None:
    """In the second part of the step, when the first has given its gradient."""
    loss, parts = DiffusionDPO.loss, iter(range(1_000_000))

    def killed(self: DiffusionDPO, errors: PairErrors, beta: float | None) -> Any:
        if next(parts) % PLAN.accumulate:
            bomb()
        return loss(self, errors, beta)

    patch.setattr(Method, "loss", killed)


def before_the_average(patch: pytest.MonkeyPatch, bomb: Bomb) -> None:
    """When the weights have moved and their average hasn't."""
    update = training.TrainingState.create

    def create(*arguments: object) -> TrainingState:
        state = update(*arguments)  # type: ignore[arg-type]
        assert state.average is not None
        moved = state.average.update

        def killed(*given: object) -> None:
            bomb()
            moved(*given)  # type: ignore[arg-type]

        state.average.update = killed  # type: ignore[method-assign]
        return state

    patch.setattr(training.TrainingState, "create", create)


def before_the_line(patch: pytest.MonkeyPatch, bomb: Bomb) -> None:
    write = MetricsLog.write

    def killed(self: MetricsLog, figures: Mapping[str, float]) -> None:
        bomb()
        write(self, figures)

    patch.setattr(MetricsLog, "write", killed)


def after_the_line(patch: pytest.MonkeyPatch, bomb: Bomb) -> None:
    write = MetricsLog.write

    def killed(self: MetricsLog, figures: Mapping[str, float]) -> None:
        write(self, figures)
        bomb()

    patch.setattr(MetricsLog, "write", killed)


PLACES = [in_the_forward_pass, before_the_average, before_the_line, after_the_line]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("precision", "lora"), [("fp32", False), ("bf16", True)])
def test_killed_at_every_step_it_is_the_same_training(
    sessions: Callable[[str, bool], tuple[Session, Session]],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    lora: bool,
    place: Callable[[pytest.MonkeyPatch, Bomb], None],
) -> None:
    whole, cut = sessions(precision, lora)
    expected, _ = whole.go()
    checkpoints = Checkpoints(cut.folder / "checkpoints", "a")
    for step in STEPS:
        bomb = Bomb()
        bomb.fuse = step - checkpoints.find_last_step()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            place(patch, bomb)
            cut.go()
    resumed, _ = cut.go()
    assert [line["step"] for line in cut.lines()] == list(STEPS)
    assert cut.lines() == whole.lines()
    assert same(weights(resumed.network), weights(expected.network))


def test_killed_while_any_checkpoint_is_written_it_is_the_same_training(
    sessions: Callable[[str, bool], tuple[Session, Session]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When half of it is there, and when it is and the older ones haven't been cleared away."""
    whole, cut = sessions("fp32", True)
    expected, _ = whole.go()

    def half(path: Path, *_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".partial").write_bytes(b"half")
        raise Killed

    def written(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        write_tensors(path, tensors, metadata)
        raise Killed

    for _ in (2, 4, 5):
        for write in (half, written):
            with monkeypatch.context() as patch, pytest.raises(Killed):
                patch.setattr("agfsync.training.checkpoints.write_tensors", write)
                cut.go()
    assert len(list((cut.folder / "checkpoints").iterdir())) == 3
    resumed, _ = cut.go()
    assert cut.lines() == whole.lines()
    assert same(weights(resumed.network), weights(expected.network))


@pytest.mark.parametrize(("precision", "lora"), KINDS)
def test_the_reference_never_moves(
    sessions: Callable[[str, bool], tuple[Session, Session]], tiny_generator: Path, precision: str, lora: bool
) -> None:
    """Neither the weights that it has nor what it predicts, to the last bit, of a training that moves all it may."""
    untouched = StableDiffusion(str(tiny_generator), device="cpu")
    base = weights(untouched.network)
    _, session = sessions(precision, lora)
    trained, reference = session.go()
    moved = {name.replace(".base_layer", ""): weight for name, weight in weights(trained.network).items()}
    assert all(torch.equal(moved[name], base[name]) for name in base) == lora
    assert all(not moved[name].eq(0).all() for name in moved if "lora_B" in name)
    with reference() as network:
        kept = {name.replace(".base_layer", ""): weight for name, weight in weights(network).items()}
        assert all(torch.equal(kept[name], base[name].to(kept[name].dtype)) for name in base)
        after = predict(trained, network, precision)
    with torch.inference_mode():
        assert torch.equal(after, predict(untouched, untouched.network, precision))
    assert not torch.equal(after, predict(trained, trained.network, precision))


def predict(denoiser: StableDiffusion, network: nn.Module, precision: str) -> Tensor:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with autocast(denoiser.device, precision):
        return denoiser.predict(network, noisy, torch.tensor([3, 700]), denoiser.encode_prompts(["a", "red"]))

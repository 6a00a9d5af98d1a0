"""The stage after the pairs: a reward model is trained on them, and its accuracy is measured on unseen pairs.

Prompts are split by their keys into training, validation (whose loss chooses the weights) and test prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from agfsync import catalog
from agfsync.engine import launcher
from agfsync.errors import RecipeError
from agfsync.files.atomic import replace_folder
from agfsync.models.pretrained import torch_device
from agfsync.recipe import Recipe
from agfsync.records import derive_seed, digest
from agfsync.scorers.reward_networks import RewardModel
from agfsync.stages.context import EARLIER, Context
from agfsync.stages.own_reward import REWARD
from agfsync.stages.reward_accuracy import measure_accuracy
from agfsync.stages.reward_data import REWARD_WORK, SplitPairs, find_pairs_mark, load_pairs, require_reward
from agfsync.stages.shaping import shape_reward_training
from agfsync.training.best_weights import BestWeights
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.methods.bradley_terry import BradleyTerry, ValidationWatcher, measure_losses
from agfsync.training.metrics import read_metrics
from agfsync.training.objective import Actor, Objective, TrainingPlan
from agfsync.training.precision import leave_no_trace, make_loss_scaler
from agfsync.training.processes import ALONE, Processes, join_processes
from agfsync.training.publish.card import RewardFacts, render_reward_card

_STAGE = REWARD
ACCURACY = "accuracy"
"""The note with the accuracies: aspect -> judge -> figures."""


def run(context: Context) -> Mapping[str, Any]:
    """Train the reward model, save it to RUN/reward, and return the notes with its accuracy on the test pairs.

    Raises:
        RunError: a split has no pairs. ModelError: the network can't be loaded.
        DivergedError: a loss or gradient isn't finite.
    """
    recipe, settings = context.recipe, require_reward(context.recipe)
    if settings.batch < launcher.count_processes():
        raise RecipeError(f"reward.batch {settings.batch} is too small for {launcher.count_processes()} processes")
    context.progress.say(f"{_STAGE}: loading {settings.method.network.path}")  # type: ignore[attr-defined]
    model = load_network(recipe)
    make_loss_scaler(model.device, settings.precision)
    split = load_pairs(context, model)
    notes = _train(context, model, split)
    table = measure_accuracy(context, model, split)
    card = _describe_model(recipe, split, table)
    replace_folder(context.run.path / REWARD, lambda folder: _save_model(model, card, folder))
    for pixels in (context.run.path / REWARD_WORK).glob("pixels-*"):
        pixels.unlink()
    return {**notes, ACCURACY: table}


def load_network(recipe: Recipe) -> RewardModel:
    """Load the network to train, in fp32, with its first blocks frozen; the seed initialises a new head."""
    settings: Any = require_reward(recipe).method
    network = settings.network.model_dump(exclude={"frozen", "dropout"})
    if launcher.count_processes() > 1:
        network["device"] = torch_device(network["device"]).type
    seed = derive_seed(recipe.reward_seed, "head")
    model: RewardModel = catalog.build("networks", network | {"seed": seed, "dtype": "fp32"})
    model.network.freeze(settings.network.frozen)
    return model


@dataclass(frozen=True, slots=True)
class RewardTraining:
    """The training of a reward model, which can begin or resume."""

    actor: Actor
    objective: Objective
    plan: TrainingPlan
    checkpoints: Checkpoints
    log: Path
    watcher: ValidationWatcher
    batch: int
    """images in a forward pass without gradients"""

    def continue_training(
        self, on_step: Callable[[Mapping[str, float]], None], processes: Processes, say: Callable[[str], None]
    ) -> None:
        """Train from the last checkpoint on; afterwards the network has the best weights."""
        train(
            self.actor,
            self.objective,
            self.plan,
            self.checkpoints,
            self.log,
            on_step,
            processes=processes,
            say=say,
            watcher=self.watcher,
        )


def prepare_training(context: Context, model: RewardModel, split: SplitPairs) -> RewardTraining:
    """Return the training of `model` on the training pairs, with the validation that chooses the weights."""
    settings, work = require_reward(context.recipe), context.run.path / REWARD_WORK
    name = digest(_STAGE, shape_reward_training(context.recipe), find_pairs_mark(context))
    method: BradleyTerry = catalog.build("methods", settings.method.model_dump())
    data, validation_data = split.data.select(split.train), split.data.select(split.validation)
    plan, batch = make_plan(context.recipe, len(data)), 2 * max(1, settings.batch // settings.accumulate)

    def validate() -> Tensor:
        with leave_no_trace(model.network, settings.precision, model.device):
            return measure_losses(model, validation_data, settings.precision, batch)

    every = max(1, min(plan.steps, len(data) // settings.batch // settings.validations))
    best = BestWeights(work / "best", name)
    watcher = ValidationWatcher("validation loss", "validation_loss", every, validate, best)
    actor, checkpoints = Actor(model, None, settings.precision), Checkpoints(work / "checkpoints", name)
    objective = method.objective(data, plan)
    return RewardTraining(actor, objective, plan, checkpoints, work / "metrics.jsonl", watcher, batch)


def _train(context: Context, model: RewardModel, split: SplitPairs) -> dict[str, Any]:
    """Train, load the best weights and set the model's scale; return the notes."""
    training, data = prepare_training(context, model, split), split.data.select(split.train)
    plan, done = training.plan, training.checkpoints.find_last_step()
    if done < plan.steps and launcher.count_processes() > 1:
        context.progress.say(f"{_STAGE}: by {launcher.count_processes()} processes")
        launcher.send_order({"run": str(context.run.path.resolve()), "digest": context.digest, "stage": _STAGE})
    with (
        context.progress.stage(_STAGE, plan.steps, "steps", done=done) as task,
        join_processes(model.device) if done < plan.steps else nullcontext(ALONE) as processes,
    ):
        figures: dict[str, float] = {}

        def report_step(line: Mapping[str, float]) -> None:
            figures.update({name: line[name] for name in ("loss", "validation_loss") if name in line})
            task.advance(1 if line["step"] else 0, **figures)

        training.continue_training(report_step, processes, context.progress.say)
    outputs = data.rate(model, data.images, plan.precision, training.batch)
    model.scale = float(outputs.mean()), float(outputs.std(correction=0)) or 1.0
    counts = {"pairs": len(split.train), "validation_pairs": len(split.validation), "test_pairs": len(split.test)}
    trained = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    return {**counts, "trained_parameters": trained, **_note_curves(training, read_metrics(training.log), done)}


def train_as_helper(context: Context) -> None:
    """Do this helper process's share of each training step, once the images are resized.

    Raises:
        PeerError: another process has ended.
    """
    network: Any = require_reward(context.recipe).method
    # This comes first, since it chooses this process's accelerator.
    with join_processes(torch_device(network.network.device)) as processes:
        model = load_network(context.recipe)
        training = prepare_training(context, model, load_pairs(context, model))
        training.continue_training(lambda line: None, processes, lambda text: None)


def _note_curves(training: RewardTraining, lines: Sequence[Mapping[str, float]], done: int) -> dict[str, Any]:
    """Return the notes from the log: the result's validation loss, and means over the last tenth of the steps."""
    steps = [line for line in lines if line["step"]]
    validated = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    last = steps[-max(1, len(steps) // 10) :]
    return {
        EARLIER: sum(line["seconds"] + line.get("watch_seconds", 0.0) for line in steps if line["step"] <= done),
        "steps": training.plan.steps,
        "best_step": training.watcher.best_step,
        "validation_loss": validated.get(training.watcher.best_step),
        **{curve: fmean(line[curve] for line in last) for curve in BradleyTerry.curves},
    }


def make_plan(recipe: Recipe, pairs: int) -> TrainingPlan:
    """Return the plan of a training on this number of pairs."""
    settings = require_reward(recipe)
    own = {"method", "seed", "steps", "epochs", "share", "aspects", "validation", "test", "validations", "by"}
    steps = settings.steps or max(1, ceil(settings.epochs * pairs / settings.batch))
    return TrainingPlan(steps=steps, seed=recipe.reward_seed, **settings.model_dump(exclude=own))


def _describe_model(recipe: Recipe, split: SplitPairs, table: Mapping[str, Any]) -> RewardFacts:
    settings: Any = require_reward(recipe)
    path = settings.method.network.path
    is_public = "/" in path and not Path(path).expanduser().exists()
    shown = settings.model_dump(exclude={"method", "by", "checkpoint_every", "accumulate"}, exclude_none=True)
    network = settings.method.network.model_dump(exclude={"path", "device", "weights"}, exclude_none=True)
    prompts = len(split.data.select(split.train).prompt_P.unique())
    return RewardFacts(
        name=recipe.name,
        base=path if is_public else Path(path).name,
        base_is_public=is_public,
        trained_on=f"on {len(split.train):,} pairs of {prompts:,} prompts",
        choice=recipe.pairs.summary,
        settings={("network" if name == "type" else name): value for name, value in network.items()} | shown,
        accuracy=table,
    )


def _save_model(model: RewardModel, card: RewardFacts, folder: Path) -> None:
    model.save(folder)
    (folder / "README.md").write_text(render_reward_card(card), encoding="utf-8")

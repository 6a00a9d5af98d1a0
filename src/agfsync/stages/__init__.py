"""The stages of a run in order, each a function from tables of the run folder to a table. None imports another.

`agfsync.stages.NAME.run(context)` is a stage's function, and `shaping.NAME(recipe)` returns the part of the recipe that
affects its result. A table has the order of its input tables (captions; a caption's images; an image's scores, by
scorer), so that tables of any length can be read in parallel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agfsync.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of the table of stages. A stage is up to date if it finished with its current settings and inputs."""

    name: str
    help: str
    """the command's help"""
    after: tuple[str, ...] = ()
    """the stages whose results it reads"""
    memory_advice: "str | Callable[[Recipe], str]" = "captions.count"
    """the settings to lower if memory runs out even for the smallest batch, or a function of the recipe"""
    makes: tuple[str, ...] = ()
    """files and folders that it writes in addition to its tables"""
    by_rows: bool = False
    """True if regenerating a unit may give different rows: a language model writes them"""
    version: int = 1
    """increased when the code gives different rows for the same settings, so that finished runs repeat the stage"""

    def settings(self, recipe: "Recipe") -> Any:
        """Return the part of `recipe` that affects the stage's result, without devices and batch sizes."""
        return getattr(import_module("agfsync.stages.shaping"), self.name)(recipe)

    def advise_on_memory(self, recipe: "Recipe") -> str:
        """Return the settings to lower if memory runs out."""
        return self.memory_advice if isinstance(self.memory_advice, str) else self.memory_advice(recipe)


def _advise_training_memory(recipe: "Recipe") -> str:
    advice = ["training.batch"]
    if not recipe.training.gradient_checkpointing:
        advice.append("set training.gradient_checkpointing")
    if recipe.training.lora is None:
        advice.append("train a LoRA (training.lora)")
    elif recipe.model.quantization is None:
        advice.append("store the frozen network in few bits (model.quantization)")
    return ", or ".join(advice)


STAGES = (
    Stage("captions", "Write the captions."),
    Stage("questions", "Write each caption's questions.", after=("captions",), by_rows=True),
    Stage(
        "candidates",
        "Draw each caption's candidates.",
        after=("captions", "questions"),
        memory_advice="the model's height and width, or its dtype to bf16",
    ),
    Stage(
        "scores",
        "Let every scorer judge every candidate.",
        after=("questions", "candidates"),
        memory_advice="the scorers' dtype to bf16, or take smaller ones",
    ),
    Stage("pairs", "Choose each caption's winner and loser.", after=("candidates", "scores")),
    Stage(
        "reward",
        "Train the reward model on the pairs.",
        after=("pairs",),
        memory_advice="reward.batch, or set reward.accumulate, or freeze more (reward.method.network.frozen)",
        makes=("reward", "reward_training/metrics.jsonl"),
    ),
    Stage(
        "training",
        "Align the model.",
        after=("pairs",),
        memory_advice=_advise_training_memory,
        makes=("model", "training/metrics.jsonl"),
    ),
    Stage(
        "evaluation",
        "Compare the base and the aligned model.",
        after=("questions", "training"),
        memory_advice="the model's height and width, or its and the scorers' dtype to bf16",
    ),
    Stage(
        "controls",
        "Compare the aligned model with controls, which train without the feedback.",
        after=("evaluation",),
        memory_advice="training.batch",
    ),
    Stage(
        "report",
        "Write the report.",
        after=("questions", "candidates", "scores", "pairs", "reward", "training", "evaluation", "controls"),
        memory_advice="report.examples",
        makes=("report.html",),
    ),
)
NAMES = tuple(stage.name for stage in STAGES)
VERSIONS = {stage.name: stage.version for stage in STAGES}
SKIPPED_STAGES = {
    "pairs": (),
    "scores": ("pairs",),
    "captions": ("candidates", "scores", "pairs"),
    "nothing": ("candidates", "scores", "pairs"),
}
"""A training method's `needs` -> the stages that it doesn't need."""


def list_needed_stages(recipe: "Recipe") -> list[Stage]:
    """Return the stages that a recipe needs, in order."""
    method = recipe.training.method
    # A reward model is trained on pairs, whatever the alignment method needs.
    left_out = {*(("reward", *SKIPPED_STAGES[method.needs]) if recipe.reward is None else ())}
    if method.type == "none":
        left_out |= {"training", "evaluation", "controls"}
    if not recipe.evaluation.controls:
        left_out.add("controls")
    return [stage for stage in STAGES if stage.name not in left_out]

"""The stages that a recipe needs, and which of them are up to date."""

from dataclasses import replace

from agfsync.errors import RunError
from agfsync.recipe import Recipe
from agfsync.records import digest
from agfsync.stages import Stage, list_needed_stages
from agfsync.stages.context import MODEL
from agfsync.store import Run


def plan_stages(recipe: Recipe, until: str | None = None) -> tuple[Stage, ...]:
    """Return the stages that `recipe` needs, up to and including `until`; `after` names only inputs that it needs.

    Raises:
        RunError: the recipe has no stage `until`.
    """
    method, stages = recipe.training.method, list_needed_stages(recipe)
    names = [stage.name for stage in stages]
    # A watch that may stop the training early judges held-out captions, by their questions.
    watched = ("questions",) if recipe.training.stopping_watch is not None else ()
    inputs = {"training": (method.needs, *watched) if method.needs in names else ("questions",)}
    # The run's own reward model is a reward, a watched judge or a judge of the evaluation.
    for name in ("training", "evaluation"):
        if recipe.uses_own_reward(name):
            inputs[name] = (*inputs.get(name, ("questions", "training")), "reward")
    planned = [replace(s, after=tuple(n for n in inputs.get(s.name, s.after) if n in names)) for s in stages]
    if recipe.captions.polish is not None:
        planned = [replace(s, by_rows=True) if s.name == "captions" else s for s in planned]
    if method.trains == "nothing":
        # There are no steps to log.
        planned = [replace(s, makes=(MODEL,)) if s.name == "training" else s for s in planned]
    if until is None:
        return tuple(planned)
    if until not in names:
        raise RunError(f"the recipe needs no stage {until}: its stages are {', '.join(names)}")
    return tuple(planned[: names.index(until) + 1])


def digest_stage(stage: Stage, run_: Run, recipe: Recipe) -> str:
    """Return the digest of a stage's settings and of the results (not the settings) of its input stages."""
    inputs = [run_.find_finished(name) for name in stage.after]
    marks = [None if finished is None else finished.mark for finished in inputs]
    return digest(stage.name, stage.version, stage.settings(recipe), marks)


def is_current(stage: Stage, run_: Run, recipe: Recipe) -> bool:
    """Return True if the stage is finished with its current settings and inputs."""
    finished = run_.find_finished(stage.name)
    return finished is not None and finished.digest == digest_stage(stage, run_, recipe)


def find_due(run_: Run, recipe: Recipe, until: str | None = None) -> list[str]:
    """Return the names of the stages up to `until` that aren't up to date, or depend on one that isn't."""
    due: list[str] = []
    for stage in plan_stages(recipe, until):
        if set(stage.after) & set(due) or not is_current(stage, run_, recipe):
            due.append(stage.name)
    return due

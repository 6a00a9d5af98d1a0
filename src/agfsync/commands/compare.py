"""Comparisons of any two models: a run whose aligned model is the other one, drawn and judged like a trained one.

A model is named by a hub id, a folder, a single file, embedded:NAME, a LoRA (of the base), MODEL+LORA, or the folder of
a run, whose aligned model is taken. If one of the two is a run, its captions, questions and judges are taken too.
"""

import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agfsync import catalog, pipeline
from agfsync.commands.doctor.missing import find_lora_faults
from agfsync.engine.progress import Progress, SilentProgress
from agfsync.errors import ModelError, RecipeError, RunError
from agfsync.files.atomic import store_errors
from agfsync.models import LORA_FILE, hub
from agfsync.models.artefact import MODEL_FILE, ModelArtefact
from agfsync.models.configuration import PIPELINES
from agfsync.models.files import INDEX, ModelFiles
from agfsync.models.lora_files import holds_lora, lora_file
from agfsync.models.pretrained import fingerprint_model
from agfsync.models.single_file import find_type
from agfsync.recipe import HELD_OUT, ModelSettings, Recipe, check_recipe, load_recipe, override_recipe, resolve_recipe
from agfsync.records import digest
from agfsync.stages.context import MODEL, NOT_SHAPING_IMAGES, dump_changes
from agfsync.stages.own_reward import REWARD
from agfsync.stages.report.verdict import find_role
from agfsync.stages.selection import find_training_selectors
from agfsync.store import RECIPE, Run
from agfsync.store.forks import fork_run

RECIPES = {"stable-diffusion": "sd15", "stable-diffusion-xl": "sdxl"}
"""The shipped recipes with the sampling and the judges for models of a type; sdxl for the others."""
_BOTH = "model."
"""The beginning of settings that hold for both models."""
_GIVE = f"give a hub id, a folder, a file, {catalog.EMBEDDED}NAME or the folder of a run"
_KEPT = ("seed", "failure_budget", "engine", "scorers", "captions", "questions", "pairs", "report")
"""Sections of a recipe that a comparison keeps."""


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """A comparison to run: its recipe, and the run whose captions and images it shares, if there is one."""

    recipe: Recipe
    shares: Path | None = None


def plan_comparison(
    base: str,
    other: str,
    *,
    recipe: str | None = None,
    sets: Sequence[str] = (),
    judges: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> ComparisonPlan:
    """Return the comparison of the models `base` and `other`; nothing is written or loaded.

    Args:
        recipe: a shipped one or a file; default: that of a run among the two, else one for models of the base's type.
        sets: held-out, a set of the recipe, or files of prompts; default: the recipe's.
        judges: names of the recipe's scorers; default: those of its sets.
        overrides: settings such as evaluation.batch=4; those of `model` hold for both models.

    Raises:
        AgfsyncError: one of the two isn't there, doesn't fit, or is the other one; or another argument is wrong.
    """
    for place in (base, other):
        _check_is_there(place)
    run = next((Path(place) for place in (other, base) if _is_run(place)), None) if recipe is None else None
    start = _read_start(base, recipe, run, overrides)
    first = _resolve_model(base, start, None)
    second = _resolve_model(other, start, first)
    shared = [each for each in overrides if each.startswith(_BOTH)]
    models = [override_recipe(Recipe(model=each), shared).model for each in (first, second)]
    marks = tuple(map(_mark_files, models))
    _check_models(base, other, models, marks)
    names = _choose_names(base, other)
    given = {
        "type": "given",
        "model": models[1].model_dump(mode="json", exclude_unset=True),
        "names": names,
        "marks": marks,
        "selected_on": _find_selected(start, (base, other)),
    }
    tree = start.model_dump(mode="json", exclude_unset=True, include=set(_KEPT))
    if run is not None:
        # A comparison trains no reward model: it asks the run's.
        of_run = {"path": str(run.resolve() / REWARD), "revision": None}
        tree["scorers"] = {
            n: of | of_run if start.scorers[n].is_own else of for n, of in tree.get("scorers", {}).items()
        }
    evaluation = start.evaluation.model_dump(mode="json", exclude_unset=True, include={"resamples", "batch"})
    tree |= {
        "name": "-vs-".join(re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model" for name in names),
        "model": models[0].model_dump(mode="json", exclude_unset=True),
        "training": {"method": given},
        "evaluation": {**evaluation, "sets": _choose_sets(start, sets, judges)},
    }
    if run is None and HELD_OUT in tree["evaluation"]["sets"]:
        # Its own captions: none to train on.
        tree["captions"] = {**start.captions.model_dump(mode="json", exclude_unset=True), "count": 0}
    elif run is None:
        tree |= {"captions": {"count": 0, "held_out": 0}, "questions": {}}
    return ComparisonPlan(check_recipe(tree, "comparison"), run)


def prepare_comparison(
    path: Path, comparison: ComparisonPlan, *, update: bool = False, progress: Progress | None = None
) -> None:
    """Make the run of the comparison at `path`, or check that it is this one; with `update` it is from now on.

    Raises:
        RunError: there is another run, or the comparison there has other settings.
    """
    if (path / RECIPE).exists():
        if load_recipe(path / RECIPE).given is None:
            raise RunError(f"{path} is a run of its own, which a comparison would overwrite: choose another --out")
        return pipeline.prepare(path, comparison.recipe, update=update, progress=progress)
    if comparison.shares is None:
        return pipeline.prepare(path, comparison.recipe, progress=progress)
    beside = path.with_name(path.name + ".partial")
    with store_errors(beside):
        shutil.rmtree(beside, ignore_errors=True)
    fork_run(comparison.shares, beside)
    pipeline.prepare(beside, comparison.recipe, update=True, progress=SilentProgress())
    with store_errors(path):
        beside.rename(path)
    return None


def _check_is_there(place: str) -> None:
    """Check that something is at each part of MODEL+LORA that is written as a path or the name of a file.

    Raises:
        ModelError: nothing is.
    """
    for part in [place] if Path(place).exists() else place.split("+"):
        catalog.check_place(part)
        if not part or (part.endswith(hub.SAFE) and not Path(part).exists()):
            raise ModelError(f"no model at '{part}': there is no such file; {_GIVE}")


def _is_run(place: str) -> bool:
    return (Path(place) / RECIPE).is_file()


def _read_start(base: str, recipe: str | None, run: Path | None, overrides: Sequence[str]) -> Recipe:
    """Return the recipe whose captions, judges and sampling are taken."""
    if run is not None:
        start = load_recipe(run / RECIPE)
    elif recipe is not None:
        start = resolve_recipe(recipe)
    else:
        model = base if Path(base).exists() else base.partition("+")[0]
        embedded = model.startswith(catalog.EMBEDDED)
        start = resolve_recipe("shapes" if embedded else RECIPES.get(_find_type(model), "sdxl"))
    return override_recipe(start, overrides)


def _resolve_model(place: str, start: Recipe, base: ModelSettings | None) -> ModelSettings:
    """Return the settings of the model at `place`; of a LoRA alone, the `base` with it.

    Raises:
        ModelError: there is none.
    """
    if (folder := _find_artefact(place)) is not None:
        return _open_artefact(place, folder)
    model, *loras = [place] if Path(place).exists() else place.split("+")
    if _is_lora(model):
        if base is None:
            raise ModelError(_describe_bare(place))
        return _add_loras(base, [model, *loras])
    return _add_loras(_describe_plain(model, start), loras)


def _find_artefact(place: str) -> Path | None:
    """Return the folder with the trained model at `place`, a run or its model's folder."""
    if _is_run(place):
        return Path(place).absolute() / MODEL
    return Path(place).absolute() if (Path(place) / MODEL_FILE).is_file() else None


def _open_artefact(place: str, folder: Path) -> ModelSettings:
    artefact = ModelArtefact.load(folder)
    if artefact.kind == "reward" or artefact.steering:
        what = "a reward model, which draws nothing" if artefact.kind == "reward" else "a training-free method's"
        raise ModelError(f"{place} holds {what}: name a run with a trained model, or a LoRA")
    settings = Recipe.model_validate({"model": artefact.base}).model
    if artefact.kind == "adapters":
        return _add_loras(settings, [str(folder / LORA_FILE)])
    tree = artefact.extend_arguments(settings.model_dump(mode="json"), folder)
    return Recipe.model_validate({"model": tree}).model


def _add_loras(model: ModelSettings, loras: Sequence[str]) -> ModelSettings:
    tree = model.model_dump(mode="json", exclude_unset=True)
    for lora in loras:
        place = str(Path(lora).absolute()) if Path(lora).exists() else lora
        tree["loras"] = [*tree.get("loras", ()), {"path": place}]
    return Recipe.model_validate({"model": tree}).model


def _is_lora(place: str) -> bool:
    """Return True if a LoRA is at `place`, and no pipeline."""
    if place.startswith(catalog.EMBEDDED) or ModelFiles.from_path(place).read(INDEX) is not None:
        return False
    try:
        if Path(place).exists() or LORA_FILE in hub.list_files(place):
            return holds_lora(lora_file(place))
    except ModelError:
        if any(Path(place).glob(f"*{hub.SAFE}")):
            raise  # such as of several LoRAs in a folder
    return False  # Whoever asks for the model's type reports what else is wrong.


def _describe_bare(lora: str) -> str:
    return f"{lora} is a LoRA, which needs a model: name its model as BASE, or write MODEL+{lora}"


def _describe_plain(place: str, start: Recipe) -> ModelSettings:
    """Return the settings of a model without any: the recipe's sampling if it is for models of this type."""
    type_ = _find_type(place)
    usual = resolve_recipe(RECIPES[type_]) if type_ in RECIPES else None
    like = next((each for each in (start, usual) if each and each.model.type == type_), None)
    if like is not None and like.model.path == place:
        return like.model
    tree: dict[str, Any] = {"type": type_, "path": str(Path(place).absolute()) if Path(place).exists() else place}
    if like is not None:
        tree |= {name: value for name, value in dump_changes(like.model).items() if name in ("dtype", "sampling")}
    return Recipe.model_validate({"model": tree}).model


def _find_type(place: str) -> str:
    """Return the type in the catalog of the pipeline at `place`.

    Raises:
        ModelError: none is there, or it is of a type that isn't known.
    """
    if (folder := _find_artefact(place)) is not None:
        return str(ModelArtefact.load(folder).base.get("type", "stable-diffusion"))
    if _is_lora(place):
        raise ModelError(_describe_bare(place))
    if Path(place).is_file():
        return find_type(place)
    index = ModelFiles.from_path(place).read(INDEX)
    if index is None:
        reason = hub.why_absent(place) if hub.is_hub_id(place) else ""
        if reason:
            raise ModelError(hub.describe_absence(place, None, "", reason))
        raise ModelError(f"no model at {place}: it has no {INDEX}; {_GIVE}")
    kind = index.get("_class_name")
    if kind not in PIPELINES.values():
        raise ModelError(f"{place} is a {kind}, which can't be drawn with: there are {', '.join(PIPELINES.values())}")
    return next(type_ for type_, name in PIPELINES.items() if name == kind)


def _mark_files(model: ModelSettings) -> str:
    """Return the digest of a model's own files on this machine; empty for embedded models and hub ids."""
    places = [model.path, *(part.path for part in model.parts.values()), *(lora.path for lora in model.loras)]
    local = [str(path) for place in places if (path := Path(place).expanduser()).exists()]
    # By content: a copy is the same model.
    return digest("files", [fingerprint_model(place, None).rpartition("@")[2] for place in local]) if local else ""


def _check_models(base: str, other: str, models: Sequence[ModelSettings], marks: Collection[str]) -> None:
    """Check that the models differ, and that the LoRAs of each fit it.

    Raises:
        ModelError: they don't.
    """
    if _identify(models[0]) == _identify(models[1]) and len(set(marks)) == 1:
        raise ModelError(f"{base} and {other} are the same model with the same settings: there is nothing to compare")
    for model in models:
        for fault in find_lora_faults(model):
            raise ModelError(fault)


def _identify(model: ModelSettings) -> Mapping[str, Any]:
    """Return the settings that affect a model's images, but for the places of files on this machine."""
    tree = dump_changes(model, *NOT_SHAPING_IMAGES)
    loras = [{**lora, "path": _hide_place(lora["path"])} for lora in tree.get("loras", ())]
    return {**tree, "path": _hide_place(model.path), "loras": loras}


def _hide_place(path: str) -> str:
    return "a file" if Path(path).exists() else path


def _choose_names(base: str, other: str) -> tuple[str, str]:
    """Return what the report calls the models: the ends of their places, or the whole places if those are equal."""
    names = [_shorten_place(place) for place in (base, other)]
    first, second = names if names[0] != names[1] else (base, other)
    return (first, second) if first != second else ("base", "other")


def _shorten_place(place: str) -> str:
    parts = [each.removeprefix(catalog.EMBEDDED).rstrip("/").rpartition("/")[2] for each in place.split("+")]
    return "+".join(part.removesuffix(hub.SAFE) or part for part in parts) or place


def _find_selected(start: Recipe, places: Sequence[str]) -> list[str] | None:
    """Return the scorers of `start` that a run among the `places` was trained to please; None where it isn't known."""
    found: dict[str, None] = {}
    for place in filter(_is_run, places):
        with Run.open(Path(place)) as run:
            selectors = find_training_selectors(run, load_recipe(Path(place) / RECIPE))
        if selectors is None:
            return None
        roles = {name: find_role(name, start, selectors) for name in start.scorers}
        found |= dict.fromkeys(name for name, role in roles.items() if role in ("selected on", "shares a model"))
    return list(found)


def _choose_sets(start: Recipe, sets: Sequence[str], judges: Sequence[str]) -> dict[str, Any]:
    """Return the evaluation's sets by their names, each judged by `judges` if any are named."""
    for judge in judges:
        if judge not in start.scorers:
            raise RecipeError(
                f"--judge {judge}: there are {', '.join(start.scorers)}; another one is added by --set-option "
                f"scorers.{judge}='{{type: clip, path: PLACE}}'"
            )
    known = {name: each.model_dump(mode="json", exclude_unset=True) for name, each in start.evaluation.sets.items()}
    chosen: dict[str, Any] = {} if sets else known
    for each in sets:
        name, settings = _read_set(each, {HELD_OUT: {}} | known)
        if "source" in settings:  # files in several folders may have the same name
            names = (name, *(f"{name}-{number}" for number in range(2, len(sets) + 2)))
            name = next(free for free in names if free not in (*chosen, HELD_OUT))
        chosen[name] = settings
    by = {"by": list(judges)} if judges else {}
    return {name: {**each, **by} for name, each in chosen.items()}


def _read_set(name: str, known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if name in known:
        return name, known[name]
    if not Path(name).exists():
        hint = "; settings are given by --set-option KEY=VALUE" if "=" in name else ""
        raise RecipeError(
            f"--set {name}: there is no such file of prompts, and the recipe's sets are {', '.join(known)}{hint}"
        )
    return Path(name).stem, {"source": str(Path(name).absolute())}

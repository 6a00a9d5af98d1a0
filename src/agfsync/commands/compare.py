"""Comparisons of any two models: runs that draw and judge the other model in place of a trained one.

A model is given as a hub id, a folder, a single file, embedded:NAME, a LoRA (of the base), MODEL+LORA, or the folder of
a run, whose aligned model is compared. If one of the two is a run, its captions, questions and judges are used, too.
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
"""Model type -> the shipped recipe whose sampling and judges are used; sdxl for other types."""
_FOR_BOTH = "model."
"""the prefix of settings that apply to both models"""
_ADVICE = f"give a hub id, a folder, a file, {catalog.EMBEDDED}NAME or the folder of a run"
_KEPT = ("seed", "failure_budget", "engine", "scorers", "captions", "questions", "pairs", "report")
"""the sections of a recipe that a comparison keeps"""


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
        recipe: a shipped recipe or a file; default: that of a compared run, else one for models of the base's type.
        sets: held-out, a set of the recipe, or files of prompts; default: the recipe's.
        judges: names of the recipe's scorers; default: those of its sets.
        overrides: settings such as evaluation.batch=4; those of `model` apply to both models.

    Raises:
        AgfsyncError: a model is missing or unsuitable, both are the same, or another argument is wrong.
    """
    for place in (base, other):
        _check_exists(place)
    run = next((Path(place) for place in (other, base) if _is_run(place)), None) if recipe is None else None
    start = _read_start(base, recipe, run, overrides)
    first = _resolve_model(base, start, None)
    second = _resolve_model(other, start, first)
    model_overrides = [each for each in overrides if each.startswith(_FOR_BOTH)]
    models = [override_recipe(Recipe(model=each), model_overrides).model for each in (first, second)]
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
        # A comparison trains no reward model: it uses the run's.
        of_run = {"path": str(run.resolve() / REWARD), "revision": None}
        tree["scorers"] = {
            name: scorer | of_run if start.scorers[name].is_own else scorer
            for name, scorer in tree.get("scorers", {}).items()
        }
    evaluation = start.evaluation.model_dump(mode="json", exclude_unset=True, include={"resamples", "batch"})
    tree |= {
        "name": "-vs-".join(re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model" for name in names),
        "model": models[0].model_dump(mode="json", exclude_unset=True),
        "training": {"method": given},
        "evaluation": {**evaluation, "sets": _choose_sets(start, sets, judges)},
    }
    if run is None and HELD_OUT in tree["evaluation"]["sets"]:
        # Only held-out captions are written: none to train on.
        tree["captions"] = {**start.captions.model_dump(mode="json", exclude_unset=True), "count": 0}
    elif run is None:
        tree |= {"captions": {"count": 0, "held_out": 0}, "questions": {}}
    return ComparisonPlan(check_recipe(tree, "comparison"), run)


def prepare_comparison(
    path: Path, comparison: ComparisonPlan, *, update: bool = False, progress: Progress | None = None
) -> None:
    """Create the run of the comparison at `path`, or check that it is the same; with `update` it is changed.

    Raises:
        RunError: `path` is another run, or a comparison with other settings.
    """
    if (path / RECIPE).exists():
        if load_recipe(path / RECIPE).given is None:
            raise RunError(f"{path} is a run of its own, which a comparison would overwrite: choose another --out")
        return pipeline.prepare(path, comparison.recipe, update=update, progress=progress)
    if comparison.shares is None:
        return pipeline.prepare(path, comparison.recipe, progress=progress)
    partial = path.with_name(path.name + ".partial")
    with store_errors(partial):
        shutil.rmtree(partial, ignore_errors=True)
    fork_run(comparison.shares, partial)
    pipeline.prepare(partial, comparison.recipe, update=True, progress=SilentProgress())
    with store_errors(path):
        partial.rename(path)
    return None


def _check_exists(place: str) -> None:
    """Check that each part of MODEL+LORA that is a path or a file name exists.

    Raises:
        ModelError: one doesn't exist.
    """
    for part in [place] if Path(place).exists() else place.split("+"):
        catalog.check_place(part)
        if not part or (part.endswith(hub.SAFE) and not Path(part).exists()):
            raise ModelError(f"no model at '{part}': there is no such file; {_ADVICE}")


def _is_run(place: str) -> bool:
    return (Path(place) / RECIPE).is_file()


def _read_start(base: str, recipe: str | None, run: Path | None, overrides: Sequence[str]) -> Recipe:
    """Return the recipe with the captions, judges and sampling of the comparison."""
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
    """Return the settings of the model at `place`; a LoRA alone is added to `base`.

    Raises:
        ModelError: there is no model, or no base for a LoRA.
    """
    if (folder := _find_artefact(place)) is not None:
        return _open_artefact(place, folder)
    model, *loras = [place] if Path(place).exists() else place.split("+")
    if _is_lora(model):
        if base is None:
            raise ModelError(_explain_bare_lora(place))
        return _add_loras(base, [model, *loras])
    return _add_loras(_choose_settings(model, start), loras)


def _find_artefact(place: str) -> Path | None:
    """Return the folder with the trained model at `place`, a run or its model's folder."""
    if _is_run(place):
        return Path(place).absolute() / MODEL
    return Path(place).absolute() if (Path(place) / MODEL_FILE).is_file() else None


def _open_artefact(place: str, folder: Path) -> ModelSettings:
    artefact = ModelArtefact.load(folder)
    if artefact.kind == "reward" or artefact.steering:
        content = "a reward model, which draws nothing" if artefact.kind == "reward" else "a training-free method's"
        raise ModelError(f"{place} holds {content}: name a run with a trained model, or a LoRA")
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
    """Return True if `place` holds a LoRA and not a pipeline."""
    if place.startswith(catalog.EMBEDDED) or ModelFiles.from_path(place).read(INDEX) is not None:
        return False
    try:
        if Path(place).exists() or LORA_FILE in hub.list_files(place):
            return holds_lora(lora_file(place))
    except ModelError:
        if any(Path(place).glob(f"*{hub.SAFE}")):
            raise  # for example, several LoRAs in a folder
    return False  # `_find_type` reports other faults.


def _explain_bare_lora(lora: str) -> str:
    return f"{lora} is a LoRA, which needs a model: name its model as BASE, or write MODEL+{lora}"


def _choose_settings(place: str, start: Recipe) -> ModelSettings:
    """Return settings for a plain model: with the sampling of a recipe for models of its type, if there is one."""
    type_ = _find_type(place)
    shipped = resolve_recipe(RECIPES[type_]) if type_ in RECIPES else None
    similar = next((each for each in (start, shipped) if each and each.model.type == type_), None)
    if similar is not None and similar.model.path == place:
        return similar.model
    tree: dict[str, Any] = {"type": type_, "path": str(Path(place).absolute()) if Path(place).exists() else place}
    if similar is not None:
        tree |= {name: value for name, value in dump_changes(similar.model).items() if name in ("dtype", "sampling")}
    return Recipe.model_validate({"model": tree}).model


def _find_type(place: str) -> str:
    """Return the type in the catalog of the pipeline at `place`.

    Raises:
        ModelError: there is no pipeline, or its type is unknown.
    """
    if (folder := _find_artefact(place)) is not None:
        return str(ModelArtefact.load(folder).base.get("type", "stable-diffusion"))
    if _is_lora(place):
        raise ModelError(_explain_bare_lora(place))
    if Path(place).is_file():
        return find_type(place)
    index = ModelFiles.from_path(place).read(INDEX)
    if index is None:
        reason = hub.why_absent(place) if hub.is_hub_id(place) else ""
        if reason:
            raise ModelError(hub.describe_absence(place, None, "", reason))
        raise ModelError(f"no model at {place}: it has no {INDEX}; {_ADVICE}")
    class_name = index.get("_class_name")
    if class_name not in PIPELINES.values():
        known = ", ".join(PIPELINES.values())
        raise ModelError(f"{place} is a {class_name}, which can't be drawn with: there are {known}")
    return next(type_ for type_, name in PIPELINES.items() if name == class_name)


def _mark_files(model: ModelSettings) -> str:
    """Return the digest of a model's own files on this machine; empty for embedded models and hub ids."""
    places = [model.path, *(part.path for part in model.parts.values()), *(lora.path for lora in model.loras)]
    local = [str(path) for place in places if (path := Path(place).expanduser()).exists()]
    # Digests of content: a copy is the same model.
    return digest("files", [fingerprint_model(place, None).rpartition("@")[2] for place in local]) if local else ""


def _check_models(base: str, other: str, models: Sequence[ModelSettings], marks: Collection[str]) -> None:
    """Check that the models differ, and that each model's LoRAs fit it.

    Raises:
        ModelError: the models are the same, or a LoRA doesn't fit.
    """
    if _identify(models[0]) == _identify(models[1]) and len(set(marks)) == 1:
        raise ModelError(f"{base} and {other} are the same model with the same settings: there is nothing to compare")
    for model in models:
        for fault in find_lora_faults(model):
            raise ModelError(fault)


def _identify(model: ModelSettings) -> Mapping[str, Any]:
    """Return the settings that affect a model's images, without the paths of local files."""
    tree = dump_changes(model, *NOT_SHAPING_IMAGES)
    loras = [{**lora, "path": _hide_local_path(lora["path"])} for lora in tree.get("loras", ())]
    return {**tree, "path": _hide_local_path(model.path), "loras": loras}


def _hide_local_path(path: str) -> str:
    return "a file" if Path(path).exists() else path


def _choose_names(base: str, other: str) -> tuple[str, str]:
    """Return the models' names in the report: the last parts of their places, or whole places if those are equal."""
    names = [_shorten_place(place) for place in (base, other)]
    first, second = names if names[0] != names[1] else (base, other)
    return (first, second) if first != second else ("base", "other")


def _shorten_place(place: str) -> str:
    parts = [each.removeprefix(catalog.EMBEDDED).rstrip("/").rpartition("/")[2] for each in place.split("+")]
    return "+".join(part.removesuffix(hub.SAFE) or part for part in parts) or place


def _find_selected(start: Recipe, places: Sequence[str]) -> list[str] | None:
    """Return the scorers of `start` that a run among `places` was optimised for; None if unknown."""
    names: dict[str, None] = {}
    for place in filter(_is_run, places):
        with Run.open(Path(place)) as run:
            selectors = find_training_selectors(run, load_recipe(Path(place) / RECIPE))
        if selectors is None:
            return None
        roles = {name: find_role(name, start, selectors) for name in start.scorers}
        names |= dict.fromkeys(name for name, role in roles.items() if role in ("selected on", "shares a model"))
    return list(names)


def _choose_sets(start: Recipe, sets: Sequence[str], judges: Sequence[str]) -> dict[str, Any]:
    """Return the evaluation sets by name, judged by `judges` if there are any."""
    for judge in judges:
        if judge not in start.scorers:
            raise RecipeError(
                f"--judge {judge}: there are {', '.join(start.scorers)}; add another by --set-option "
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

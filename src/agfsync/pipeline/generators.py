"""Checks before a run that a recipe's models can be drawn with and trained.

The configuration of a model and the headers of its weights are read, in a folder, in the hub's cache, or fetched; its
weights aren't. `agfsync run` and `agfsync doctor` ask the same.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any

from agfsync import catalog
from agfsync.engine.batch_fitting import release_memory
from agfsync.errors import ModelError
from agfsync.models import EXCHANGED, UNLOADED
from agfsync.models.files import INDEX, ModelFiles
from agfsync.recipe import ModelSettings, PartSettings

DRAWN = tuple(catalog.CATALOG["models"])
"""types whose models are pipelines of diffusers"""
FAR = "`agfsync run ... --until pairs` goes as far as it can"


def check_drawing(settings: ModelSettings) -> str | None:
    """Check that a generator can draw; return why its model can't be trained, or None.

    Faults that only loading can show are left to the loading.

    Raises:
        ModelError: it can't be drawn with. RecipeError: its type has no such setting.
    """
    if settings.type not in DRAWN:
        return None
    _check_settings(settings)
    files = _find_files(settings)
    if files is None or files.read(INDEX) is None:
        return None
    from agfsync.errors import model_errors
    from agfsync.models.configuration import REFINER_TYPE, check_files

    with model_errors(f"the model {settings.path} can't be drawn with"):
        if settings.refining is not None:
            refiner = ModelFiles.from_path(settings.refining.path, settings.refining.revision)
            check_files(REFINER_TYPE, refiner.read, steps=settings.sampling.steps)
        reason = check_files(
            settings.type,
            partial(_read_config, settings, files),
            steps=settings.sampling.steps,
            scheduler=settings.sampling.scheduler,
            clip_skip=getattr(settings, "clip_skip", None),
            sized=bool(settings.sampling.height and settings.sampling.width),
        )
        if not settings.path.endswith(".safetensors"):
            _check_weights(settings, files)
    return reason


def _check_settings(settings: ModelSettings) -> None:
    """Check that the type can draw with the scheduler, refiner and attention that are set."""
    from agfsync.models.configuration import check_choices

    refiner = settings.refining.path if settings.refining else None
    check_choices(settings.type, settings.sampling.scheduler, refiner, settings.attention)


def check_trainable(
    settings: ModelSettings, reason: str | None, *, may_load: bool, uses: Sequence[str] = ("training",)
) -> None:
    """Check that a generator can be trained; `reason` is what `check_drawing` returned.

    One of another package whose class isn't known without making it is made, if it `may_load`. `uses` are those of
    `NEEDED_FOR` that the training makes of it.

    Raises:
        ModelError: its type lacks what alignment needs, or its model has something that can't be trained.
    """
    from agfsync.training.trainable import NEEDED_FOR, explain_untrainable, list_missing, list_missing_of_class

    needed = list(dict.fromkeys(name for use in uses for name in NEEDED_FOR[use]))
    kind = _class_of(catalog.find("models", settings.type))
    if kind is not None:
        missing = list_missing_of_class(kind, needed)
    elif may_load:
        missing = list_missing(catalog.build("models", settings.arguments(), settings.defaults()), needed)
        release_memory()
    else:
        missing = []
    if missing:
        raise ModelError(f"{explain_untrainable(settings.type, missing, uses[-1])}; {FAR}")
    if reason:
        raise ModelError(f"the model {settings.path} can't be trained: {reason}; {FAR}")


def check_steerable(settings: ModelSettings, steering: Mapping[str, Any]) -> None:
    """Check that a training-free method, by its settings `steering`, can steer a generator; no weights are loaded.

    Raises:
        ModelError: it can't.
    """
    from agfsync.models.configuration import find_steering_obstacle, read_parts

    check_steered_type(settings, steering)
    files = _find_files(settings) if settings.type in DRAWN else None
    parts = read_parts(partial(_read_config, settings, files)) if files is not None else {}
    if parts and (reason := find_steering_obstacle(settings.type, parts)):
        raise ModelError(f"{steering['type']} can't steer the model {settings.path}: {reason}")
    if "unet" in parts and "vae" in parts and "grid" in steering:
        _check_grid(settings, parts, steering)


def check_steered_type(settings: ModelSettings, steering: Mapping[str, Any]) -> None:
    """Check that a training-free method can steer models of a generator's type.

    Raises:
        ModelError: it can't.
    """
    from agfsync.models.configuration import find_steering_obstacle

    reason = find_steering_obstacle(settings.type, {}) if settings.type in DRAWN else None
    if settings.type not in DRAWN and not _takes_steering(catalog.find("models", settings.type)):
        reason = f"a model of the type {settings.type} takes no steering"
    if reason:
        raise ModelError(f"{steering['type']} can't steer this model: {reason}")


def _check_grid(settings: ModelSettings, parts: Mapping[str, Any], steering: Mapping[str, Any]) -> None:
    """Check that the UNet has cross-attention on the grid that `steering` names."""
    from agfsync.errors import model_errors
    from agfsync.models.architecture import size_in_latents
    from agfsync.models.steering.attention import choose_level, list_grids

    scale = 2 ** (len(parts["vae"].get("block_out_channels") or ()) - 1)
    own = size_in_latents(parts["unet"].get("sample_size")) or (0, 0)
    height, width = settings.sampling.height or own[0] * scale, settings.sampling.width or own[1] * scale
    grid = None if steering["grid"] == "auto" else int(steering["grid"])
    with model_errors(f"{steering['type']} can't steer the model {settings.path}"):
        latents = (int(height // scale), int(width // scale))
        choose_level(list_grids(parts["unet"].config, latents), (height, width), grid)


def _takes_steering(maker: Any) -> bool:
    parameters = signature(maker).parameters
    return "steering" in parameters or any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())


def _class_of(maker: Any) -> type | None:
    """Return the class of what `maker` makes, None where that isn't written down."""
    made = maker.func if isinstance(maker, partial) else maker
    if not isinstance(made, type):
        made = getattr(made, "__annotations__", {}).get("return")
    return made if isinstance(made, type) else None


def _find_files(settings: ModelSettings) -> ModelFiles | None:
    """Return the files with a model's configuration; None for a single file without one."""
    if settings.path.endswith(".safetensors"):
        return ModelFiles.from_path(settings.configuration) if settings.configuration else None
    return ModelFiles.from_path(settings.path, settings.revision)


def _read_config(settings: ModelSettings, files: ModelFiles, name: str) -> Mapping[str, Any] | None:
    """Read a configuration file; of an exchanged part, that of the model that gives it, if it has one."""
    if name == INDEX:
        return _read_index(settings, files)
    part, _, _ = name.partition("/")
    found = _given_config(part, settings.parts.get(part)) if part in EXCHANGED else None
    return files.read(name) if found is None else found


def _read_index(settings: ModelSettings, files: ModelFiles) -> Mapping[str, Any] | None:
    """Return the pipeline's index, in which each exchanged part has the class of the model that gives it."""
    index = files.read(INDEX)
    if index is None:
        return None
    classes: dict[str, Any] = {}
    for name in EXCHANGED:
        kind = (_given_config(name, settings.parts.get(name)) or {}).get("_class_name")
        if kind is not None and _is_listed(index.get(name)):
            classes[name] = ["diffusers", kind]
    return {**index, **classes}


def _given_config(name: str, part: PartSettings | None) -> Mapping[str, Any] | None:
    """Return the configuration of the model that gives the part `name`, found as the loading does, or None."""
    if part is None:
        return None
    given = ModelFiles.from_path(part.path, part.revision)
    return given.read(f"{name}/config.json") or given.read("config.json")


def _is_listed(part: Any) -> bool:
    """Return True if a pipeline's index lists this part."""
    return isinstance(part, list) and len(part) == 2 and part[1] is not None


def _check_weights(settings: ModelSettings, files: ModelFiles) -> None:
    from agfsync.models.headers import check_headers

    for name, part in (files.read(INDEX) or {}).items():
        folder = files.folder(name)
        is_exchanged = name in settings.parts
        if name in UNLOADED or is_exchanged or folder is None or not _is_listed(part):
            continue
        if (config := files.read(f"{name}/config.json")) is not None:
            check_headers(str(part[0]), str(part[1]), config, folder, f"{settings.path} ({name})", settings.variant)

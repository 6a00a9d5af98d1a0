"""Checks before a run that a recipe's models can be drawn with and trained.

They read the configuration of a model and the headers of its weights from a folder, the hub's cache or the hub, but
not the weights. `agfsync run` and `agfsync doctor` make the same checks.
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

PIPELINE_TYPES = tuple(catalog.CATALOG["models"])
"""types whose models are diffusers pipelines"""
PAIRS_HINT = "`agfsync run ... --until pairs` goes as far as it can"


def check_drawing(settings: ModelSettings) -> str | None:
    """Check that a generator can draw; return the reason if its model can't be trained, else None.

    Faults that only show when the model is loaded aren't found.

    Raises:
        ModelError: it can't be drawn with. RecipeError: its type has no such setting.
    """
    if settings.type not in PIPELINE_TYPES:
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

    With `may_load`, a third-party generator is loaded if its class isn't known otherwise. `uses` are the keys of
    `NEEDED_FOR` that apply to the training.

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
        raise ModelError(f"{explain_untrainable(settings.type, missing, uses[-1])}; {PAIRS_HINT}")
    if reason:
        raise ModelError(f"the model {settings.path} can't be trained: {reason}; {PAIRS_HINT}")


def check_steerable(settings: ModelSettings, steering: Mapping[str, Any]) -> None:
    """Check that a training-free method with the settings `steering` can steer a generator; no weights are loaded.

    Raises:
        ModelError: it can't.
    """
    from agfsync.models.configuration import find_steering_obstacle, read_parts

    check_steered_type(settings, steering)
    files = _find_files(settings) if settings.type in PIPELINE_TYPES else None
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

    reason = find_steering_obstacle(settings.type, {}) if settings.type in PIPELINE_TYPES else None
    if settings.type not in PIPELINE_TYPES and not _takes_steering(catalog.find("models", settings.type)):
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


def _takes_steering(factory: Any) -> bool:
    parameters = signature(factory).parameters
    return "steering" in parameters or any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())


def _class_of(factory: Any) -> type | None:
    """Return the class of the object that `factory` returns; None if it isn't annotated."""
    result = factory.func if isinstance(factory, partial) else factory
    if not isinstance(result, type):
        result = getattr(result, "__annotations__", {}).get("return")
    return result if isinstance(result, type) else None


def _find_files(settings: ModelSettings) -> ModelFiles | None:
    """Return the files with a model's configuration; None for a single file without one."""
    if settings.path.endswith(".safetensors"):
        return ModelFiles.from_path(settings.configuration) if settings.configuration else None
    return ModelFiles.from_path(settings.path, settings.revision)


def _read_config(settings: ModelSettings, files: ModelFiles, name: str) -> Mapping[str, Any] | None:
    """Read a configuration file; for an exchanged part, that of the model that the part comes from, if it has one."""
    if name == INDEX:
        return _read_index(settings, files)
    part, _, _ = name.partition("/")
    config = _read_part_config(part, settings.parts.get(part)) if part in EXCHANGED else None
    return files.read(name) if config is None else config


def _read_index(settings: ModelSettings, files: ModelFiles) -> Mapping[str, Any] | None:
    """Return the pipeline's index with the classes of the exchanged parts."""
    index = files.read(INDEX)
    if index is None:
        return None
    classes: dict[str, Any] = {}
    for name in EXCHANGED:
        kind = (_read_part_config(name, settings.parts.get(name)) or {}).get("_class_name")
        if kind is not None and _is_listed(index.get(name)):
            classes[name] = ["diffusers", kind]
    return {**index, **classes}


def _read_part_config(name: str, part: PartSettings | None) -> Mapping[str, Any] | None:
    """Return the configuration of the exchanged part `name` from where the loader takes it; None if it has none."""
    if part is None:
        return None
    source = ModelFiles.from_path(part.path, part.revision)
    return source.read(f"{name}/config.json") or source.read("config.json")


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

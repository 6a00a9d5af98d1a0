"""Trains the Shapes world's small models from scratch with the training loop. Each model has its own module."""

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from agfsync.engine.progress import Progress
from agfsync.errors import ModelError
from agfsync.shapes.training.lessons import Pupil, teach

TRAINED_MODELS = ("vae", "clip", "generator", "aesthetic", "vqa", "fidelity", "flow")
"""The models, in an order in which each comes after those that it needs."""
_NEEDS = {
    "generator": ("vae", "clip"),
    "aesthetic": ("clip",),
    "vqa": ("vae",),
    "fidelity": ("vae",),
    "flow": ("vae", "clip", "generator"),
}


def train_models(folder: Path, progress: Progress, only: tuple[str, ...] = TRAINED_MODELS) -> None:
    """Train the models named in `only` into `folder`/NAME; `folder`/.checkpoints is removed once all models exist.

    A model that exists isn't trained again. After an interruption, another call continues from the last checkpoint.

    Raises:
        ModelError: a model needs another one that neither exists nor is named in `only`.
    """
    checkpoints = folder / ".checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name in TRAINED_MODELS:
        if name in only and not (folder / name).is_dir():
            for need in _NEEDS.get(name, ()):
                if not (folder / need).is_dir():
                    raise ModelError(f"training '{name}' needs '{need}', which isn't in {folder}: train it first")
            _train_model(name, folder, checkpoints, progress)
    if all((folder / name).is_dir() for name in TRAINED_MODELS):
        shutil.rmtree(checkpoints)


def _train_model(name: str, folder: Path, checkpoints: Path, progress: Progress) -> None:
    pupil: Pupil = getattr(import_module(f"{__name__}.{name}"), f"prepare_{name}")(folder)
    done = sum(lesson.find_checkpoints(checkpoints).find_last_step() for lesson in pupil.lessons)
    total = sum(lesson.plan.steps for lesson in pupil.lessons)
    with progress.stage(name, total, unit="steps", done=done) as task:
        teach(pupil, checkpoints, lambda figures: task.advance(1, **figures))
    _save_whole(folder / name, pupil.save)


def _save_whole(folder: Path, save: Callable[[Path], object]) -> None:
    """Write a model's files to a temporary folder and rename it, so that an existing folder is always complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save(partial)
    partial.rename(folder)

"""Trains the Shapes world's small models from scratch: one file a model, one loop for all.

`train_all` teaches them in the order in which they need each other and saves each in its standard layout.
"""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

MODELS = ("vae", "generator", "clip", "aesthetic", "vqa")
Watch = Callable[[str, int, int], AbstractContextManager[Callable[[int, dict[str, float]], None]]]
"""Given a model's name, its number of steps and how many of them are done: a context in which to tell of each step."""


def train_all(folder: Path, watch: Watch, only: tuple[str, ...] = MODELS) -> None:
    """Trains the models named in `only` into `folder`/NAME; checkpoints lie in `folder`/.checkpoints until all is done.

    Stopped at any moment and called again, it goes on from the last checkpoint.
    """
    checkpoints = folder / ".checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        if name in only and not (folder / name / "config.json").exists() and not (folder / name / "model_index.json").exists():
            _TEACH[name](folder, checkpoints, watch)
    if all((folder / name).is_dir() for name in MODELS):
        shutil.rmtree(checkpoints)


def _vae(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from agfsync.shapes.training import vae
    from agfsync.shapes.training.loop import steps_done

    with watch("vae", vae.PLAN.steps, steps_done(checkpoints, vae.PLAN)) as tell:
        model = vae.teach(checkpoints, tell)
    _save(model.to(torch.float16), folder / "vae")


def _generator(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from diffusers import AutoencoderKL

    from agfsync.shapes.training import generator
    from agfsync.shapes.training.loop import device, steps_done

    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).to(device(), torch.float32)
    with watch("generator", generator.PLAN.steps, steps_done(checkpoints, generator.PLAN)) as tell:
        pipeline = generator.teach(vae, checkpoints, tell)
    _save(pipeline.to(torch.float16), folder / "generator")


def _clip(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from agfsync.shapes.training import clip
    from agfsync.shapes.training.loop import steps_done

    with watch("clip", clip.PLAN.steps, steps_done(checkpoints, clip.PLAN)) as tell:
        model, processor = clip.teach(checkpoints, tell)
    _save(model.half(), folder / "clip", processor)


def _aesthetic(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from transformers import CLIPModel

    from agfsync.shapes.training import aesthetic
    from agfsync.shapes.training.loop import device, steps_done

    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32, use_safetensors=True).to(device())
    with watch("aesthetic", aesthetic.PLAN.steps, steps_done(checkpoints, aesthetic.PLAN)) as tell:
        head = aesthetic.teach(clip, checkpoints, tell)
    head.half().save(folder / "aesthetic")


def _vqa(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from agfsync.shapes.training import vqa
    from agfsync.shapes.training.loop import steps_done

    plans = (vqa.SEEING, vqa.PLAN)
    done = sum(steps_done(checkpoints, plan) for plan in plans)
    with watch("vqa", sum(plan.steps for plan in plans), done) as tell:
        model, processor = vqa.teach(checkpoints, tell)
    _save(model.half(), folder / "vqa", processor)


def _save(model: Any, folder: Path, processor: Any = None) -> None:
    """Writes a model beside and renames it, so that a folder that is there is whole."""
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    model.save_pretrained(beside, safe_serialization=True)
    if processor is not None:
        processor.save_pretrained(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


_TEACH: dict[str, Callable[[Path, Path, Watch], None]] = {
    "vae": _vae,
    "generator": _generator,
    "clip": _clip,
    "aesthetic": _aesthetic,
    "vqa": _vqa,
}

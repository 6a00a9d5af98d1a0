"""Trains the Shapes world's small models from scratch: one file a model, one loop for all.

`train_all` teaches them in the order in which they need each other and saves each in its standard layout.
"""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from agfsync.errors import ModelError

MODELS = ("vae", "clip", "generator", "aesthetic", "vqa")
_NEEDS = {"generator": ("vae", "clip"), "aesthetic": ("clip",), "vqa": ("vae",)}
Watch = Callable[[str, int, int], AbstractContextManager[Callable[[int, dict[str, float]], None]]]
"""Given a model's name, its number of steps and how many of them are done: a context in which to tell of each step."""


def train_all(folder: Path, watch: Watch, only: tuple[str, ...] = MODELS) -> None:
    """Trains the models named in `only` into `folder`/NAME; checkpoints lie in `folder`/.checkpoints until all is done.

    A model that is there is left as it is. Stopped at any moment and called again, it goes on from the last checkpoint.

    Raises:
        ModelError: a model needs another one that is neither there nor named in `only`.
    """
    checkpoints = folder / ".checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        if name in only and not (folder / name).is_dir():
            _check_needs(name, folder)
            _TEACH[name](folder, checkpoints, watch)
    if all((folder / name).is_dir() for name in MODELS):
        shutil.rmtree(checkpoints)


def _check_needs(name: str, folder: Path) -> None:
    for need in _NEEDS.get(name, ()):
        if not (folder / need).is_dir():
            raise ModelError(f"training '{name}' needs '{need}', which isn't in {folder}: train it first")


def _vae(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from agfsync.shapes.training import vae
    from agfsync.shapes.training.loop import steps_done

    with watch("vae", vae.PLAN.steps, steps_done(checkpoints, vae.PLAN)) as tell:
        model = vae.teach(checkpoints, tell)
    _save(folder / "vae", model.to(torch.float16).save_pretrained)


def _generator(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    from agfsync.models.pretrained import load_model
    from agfsync.shapes.training import generator
    from agfsync.shapes.training.loop import device, steps_done

    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).to(device(), torch.float32)
    vae.register_to_config(_name_or_path="")  # else the generator's files would say where this one lay
    text_encoder = load_model(CLIPTextModel, str(folder / "clip"), None, "fp32", str(device()))
    plans = [lesson.plan for lesson in generator.LESSONS]
    done = sum(steps_done(checkpoints, plan) for plan in plans)
    with watch("generator", sum(plan.steps for plan in plans), done) as tell:
        pipeline = generator.teach(vae, text_encoder, checkpoints, tell)
    _save(folder / "generator", pipeline.to(torch.float16).save_pretrained)


def _clip(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from agfsync.shapes.training import clip
    from agfsync.shapes.training.loop import steps_done

    with watch("clip", clip.PLAN.steps, steps_done(checkpoints, clip.PLAN)) as tell:
        model, processor = clip.teach(checkpoints, tell)
    _save(folder / "clip", model.half().save_pretrained, processor.save_pretrained)


def _aesthetic(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from transformers import CLIPModel

    from agfsync.shapes.training import aesthetic
    from agfsync.shapes.training.loop import device, steps_done

    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32, use_safetensors=True).to(device())
    with watch("aesthetic", aesthetic.PLAN.steps, steps_done(checkpoints, aesthetic.PLAN)) as tell:
        head = aesthetic.teach(clip, checkpoints, tell)
    _save(folder / "aesthetic", head.half().save)


def _vqa(folder: Path, checkpoints: Path, watch: Watch) -> None:
    from diffusers import AutoencoderKL

    from agfsync.shapes.training import vqa
    from agfsync.shapes.training.loop import device, steps_done

    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).to(device(), torch.float32)
    plans = (vqa.SEEING, vqa.PLAN)
    done = sum(steps_done(checkpoints, plan) for plan in plans)
    with watch("vqa", sum(plan.steps for plan in plans), done) as tell:
        model, processor = vqa.teach(vae, checkpoints, tell)
    _save(folder / "vqa", model.half().save_pretrained, processor.save_pretrained)


def _save(folder: Path, *writers: Callable[[Path], object]) -> None:
    """Lets `writers` write a model's files beside and renames them, so that a folder that is there is whole."""
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    for write in writers:
        write(beside)
    beside.rename(folder)


_TEACH: dict[str, Callable[[Path, Path, Watch], None]] = {
    "vae": _vae,
    "generator": _generator,
    "clip": _clip,
    "aesthetic": _aesthetic,
    "vqa": _vqa,
}

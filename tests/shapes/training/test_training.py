from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agfsync.errors import ModelError
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.models.stable_diffusion_3 import StableDiffusion3
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.vqa import Vqa
from agfsync.shapes import training
from agfsync.shapes.fidelity import ShapesFidelity
from agfsync.shapes.training import TRAINED_MODELS, aesthetic, clip, fidelity, flow, generator, train_models, vae, vqa


class Reported:
    """Progress that keeps each stage with its steps, done and in all, and the figures of each step."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.figures: list[dict[str, float]] = []

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "", done: int = 0) -> Iterator[Any]:
        self.stages.append((name, done, total))
        yield SimpleNamespace(advance=lambda count, **figures: self.figures.append(figures))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were trained, in order, none of them in earnest."""
    names: list[str] = []

    def train_model(name: str, folder: Path, checkpoints: Path, progress: Any) -> None:
        assert checkpoints.is_dir()
        names.append(name)
        (folder / name).mkdir()

    monkeypatch.setattr(training, "_train_model", train_model)
    return names


def test_all_are_trained_in_the_order_of_their_needs(trained: list[str], tmp_path: Path) -> None:
    train_models(tmp_path, Reported())
    assert trained == list(TRAINED_MODELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(TRAINED_MODELS)


def test_what_is_there_is_left_as_it_is(trained: list[str], tmp_path: Path) -> None:
    for name in ("vae", "clip"):
        (tmp_path / name).mkdir()
    train_models(tmp_path, Reported())
    assert trained == ["generator", "aesthetic", "vqa", "fidelity", "flow"]
    train_models(tmp_path, Reported())
    assert len(trained) == 5


def test_checkpoints_stay_until_all_are_there(trained: list[str], tmp_path: Path) -> None:
    train_models(tmp_path, Reported(), ("clip", "vae"))
    assert sorted(trained) == ["clip", "vae"] and (tmp_path / ".checkpoints").is_dir()
    train_models(tmp_path, Reported())
    assert not (tmp_path / ".checkpoints").exists()


@pytest.mark.parametrize(
    ("name", "need"),
    [("generator", "vae"), ("aesthetic", "clip"), ("vqa", "vae"), ("fidelity", "vae"), ("flow", "vae")],
)
def test_a_model_without_the_one_it_needs_is_refused(trained: list[str], tmp_path: Path, name: str, need: str) -> None:
    with pytest.raises(ModelError, match=f"training '{name}' needs '{need}', which isn't in {tmp_path}"):
        train_models(tmp_path, Reported(), (name,))
    assert trained == []


def test_a_model_that_is_half_written_is_not_there(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    def write_half(folder: Path) -> None:
        write(folder)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        training._save_whole(tmp_path / "clip", write_half)
    assert not (tmp_path / "clip").exists()
    training._save_whole(tmp_path / "clip", write)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model learns for two steps from a few images."""
    plans = {
        vae: ("VAE_PLAN",),
        clip: ("CLIP_PLAN",),
        aesthetic: ("AESTHETIC_PLAN",),
        generator: ("NAMING_PLAN", "DRAWING_PLAN", "GARBLED_PLAN"),
        vqa: ("SEEING_PLAN", "ANSWERING_PLAN"),
        fidelity: ("FIDELITY_PLAN",),
        flow: ("SINGLE_PLAN", "SCENES_PLAN", "WEB_PLAN"),
    }
    for module, names in plans.items():
        for name in names:
            monkeypatch.setattr(module, name, replace(getattr(module, name), steps=2, batch=2, learning_rate=1e-4))
    monkeypatch.setattr(generator, "LATENT_POOL", 100)
    monkeypatch.setattr(aesthetic, "RATED_POOL", 100)
    monkeypatch.setattr(vqa, "FLAWED_POOL", 50)
    monkeypatch.setattr(fidelity, "FIDELITY_POOL", 100)
    draw_images = vae._draw_images
    monkeypatch.setattr(vae, "_draw_images", lambda rng, size: draw_images(rng, min(size, 8)))


@pytest.mark.long
@pytest.mark.usefixtures("hasty")
def test_all_models_load_as_the_big_ones_do_and_are_small(tmp_path: Path) -> None:
    reported = Reported()
    train_models(tmp_path, reported)
    steps = {"vae": 2, "clip": 2, "generator": 6, "aesthetic": 2, "vqa": 4, "fidelity": 2, "flow": 6}
    assert reported.stages == [(name, 0, count) for name, count in steps.items()]
    assert len(reported.figures) == 24 and all("loss" in figures for figures in reported.figures)
    StableDiffusion(str(tmp_path / "generator"))
    Vqa(path=str(tmp_path / "vqa"))
    Aesthetic(path=str(tmp_path / "clip"), head=str(tmp_path / "aesthetic"))
    ShapesFidelity(path=str(tmp_path / "fidelity"))
    StableDiffusion3(str(tmp_path / "flow"), max_sequence_length=1)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    shipped = [path for path in files if tmp_path / "vae" not in path.parents]  # the generator's files hold it
    assert sum(path.stat().st_size for path in shipped) < 40e6
    for path in (path for path in files if path.suffix == ".safetensors"):
        assert {weight.dtype for weight in load_file(path).values()} == {torch.float16}, path
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix == ".json"]
    assert not any(str(tmp_path) in text for text in texts)

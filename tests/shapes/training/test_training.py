from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agfsync.errors import ModelError
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.vqa import Vqa
from agfsync.shapes import training
from agfsync.shapes.training import MODELS, aesthetic, clip, generator, train_all, vae, vqa
from agfsync.shapes.training.loop import Plan


@contextmanager
def silent(name: str, total: int, done: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    yield lambda step, figures: None


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were taught, in order, none of them in earnest."""
    names: list[str] = []

    def teach(name: str, folder: Path, checkpoints: Path, watch: training.Watch) -> None:
        assert checkpoints.is_dir()
        names.append(name)
        (folder / name).mkdir()

    monkeypatch.setattr(training, "_TEACH", {name: partial(teach, name) for name in MODELS})
    return names


def test_all_are_taught_in_the_order_of_their_needs(taught: list[str], tmp_path: Path) -> None:
    train_all(tmp_path, silent)
    assert taught == list(MODELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MODELS)


def test_what_is_there_is_left_as_it_is(taught: list[str], tmp_path: Path) -> None:
    for name in ("vae", "clip"):
        (tmp_path / name).mkdir()
    train_all(tmp_path, silent)
    assert taught == ["generator", "aesthetic", "vqa"]
    train_all(tmp_path, silent)
    assert len(taught) == 3


def test_checkpoints_stay_until_all_are_there(taught: list[str], tmp_path: Path) -> None:
    train_all(tmp_path, silent, ("clip", "vae"))
    assert sorted(taught) == ["clip", "vae"] and (tmp_path / ".checkpoints").is_dir()
    train_all(tmp_path, silent)
    assert not (tmp_path / ".checkpoints").exists()


@pytest.mark.parametrize(("name", "need"), [("generator", "vae"), ("aesthetic", "clip"), ("vqa", "vae")])
def test_a_model_without_the_one_it_needs_is_told(taught: list[str], tmp_path: Path, name: str, need: str) -> None:
    with pytest.raises(ModelError, match=f"training '{name}' needs '{need}', which isn't in {tmp_path}"):
        train_all(tmp_path, silent, (name,))
    assert taught == []


def test_a_model_that_is_half_written_is_not_there(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    def full(folder: Path) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        training._save(tmp_path / "clip", write, full)
    assert not (tmp_path / "clip").exists()
    training._save(tmp_path / "clip", write)
    assert [path.name for path in tmp_path.iterdir()] == ["clip"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model learns for two steps from a few pictures."""

    def plan(of: Plan) -> Plan:
        return Plan(of.name, steps=2, batch=2, learning_rate=1e-4)

    monkeypatch.setattr(generator, "POOL", 100)
    monkeypatch.setattr(aesthetic, "POOL", 100)
    monkeypatch.setattr(vqa, "POOL", 50)
    batch = vae._batch
    monkeypatch.setattr(vae, "_batch", lambda rng, size: batch(rng, min(size, 8)))
    for module in (vae, clip, aesthetic):
        monkeypatch.setattr(module, "teach", partial(module.teach, plan=plan(module.PLAN)))
    lessons = [replace(lesson, plan=plan(lesson.plan)) for lesson in generator.LESSONS]
    monkeypatch.setattr(generator, "teach", partial(generator.teach, lessons=lessons))
    monkeypatch.setattr(vqa, "teach", partial(vqa.teach, plan=plan(vqa.PLAN), seeing=plan(vqa.SEEING)))


@pytest.mark.slow
@pytest.mark.usefixtures("hasty")
def test_all_models_load_as_the_big_ones_do_and_are_small(tmp_path: Path) -> None:
    train_all(tmp_path, silent)
    StableDiffusion(str(tmp_path / "generator"))
    Vqa(path=str(tmp_path / "vqa"))
    Aesthetic(path=str(tmp_path / "clip"), head=str(tmp_path / "aesthetic"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    for path in (path for path in files if path.suffix == ".safetensors"):
        assert {weight.dtype for weight in load_file(path).values()} == {torch.float16}, path
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix == ".json"]
    assert not any(str(tmp_path) in text for text in texts)

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agfsync.engine.progress import Progress
from agfsync.errors import ModelError
from agfsync.shapes import card, training
from agfsync.shapes.card import Figure
from agfsync.shapes.cli import shapes_app


def run(*arguments: str) -> Any:
    return CliRunner().invoke(shapes_app, arguments)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, tuple[str, ...]]]:
    """The trainings that the command starts, each of three steps of which one was done before."""
    calls: list[tuple[Path, tuple[str, ...]]] = []

    def train_models(folder: Path, progress: Progress, only: tuple[str, ...]) -> None:
        calls.append((folder, only))
        for name in only:
            with progress.stage(name, 3, "steps", done=1) as task:
                task.advance(loss=0.5)
                task.advance(loss=0.25)

    monkeypatch.setattr(training, "train_models", train_models)
    return calls


def test_train_trains_all_models(trained: list[Any], tmp_path: Path) -> None:
    result = run("train", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert trained == [(tmp_path, training.TRAINED_MODELS)]
    assert f"models: {tmp_path}" in result.output


def test_train_can_be_limited_to_some(trained: list[Any], tmp_path: Path) -> None:
    assert run("train", str(tmp_path), "--only", "vae", "--only", "clip").exit_code == 0
    assert trained == [(tmp_path, ("vae", "clip"))]


def test_an_unknown_model_is_refused(trained: list[Any], tmp_path: Path) -> None:
    result = run("train", str(tmp_path), "--only", "gan")
    assert result.exit_code == 2 and trained == []
    assert "no model is called 'gan'" in result.output


def test_card_prints_and_writes_the_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(card, "measure_models", lambda folder: [Figure("beauty", folder.name)])
    out = tmp_path / "card.md"
    result = run("card", "--weights", str(tmp_path), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert f"| beauty | {tmp_path.name} |  |" in result.output
    assert out.read_text(encoding="utf-8") == result.output


def test_card_needs_models(tmp_path: Path) -> None:
    result = run("card", "--weights", str(tmp_path / "nowhere"))
    assert isinstance(result.exception, ModelError)
    assert f"`agfsync shapes train {tmp_path / 'nowhere'}` makes them" in str(result.exception)

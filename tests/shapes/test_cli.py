from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agfsync.errors import ModelError
from agfsync.shapes import card, training
from agfsync.shapes.card import Figure
from agfsync.shapes.cli import app


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, tuple[str, ...]]]:
    """What the command had trained, each model in three steps of which one was done before."""
    calls: list[tuple[Path, tuple[str, ...]]] = []

    def train_all(folder: Path, watch: Any, only: tuple[str, ...]) -> None:
        calls.append((folder, only))
        for name in only:
            watching: AbstractContextManager[Any] = watch(name, 3, 1)
            with watching as tell:
                tell(2, {"loss": 0.5})
                tell(3, {"loss": 0.25})

    monkeypatch.setattr(training, "train_all", train_all)
    return calls


def test_train_trains_all_models(trained: list[Any], tmp_path: Path) -> None:
    result = run("train", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert trained == [(tmp_path, training.MODELS)]
    assert f"models: {tmp_path}" in result.output


def test_train_can_be_told_which(trained: list[Any], tmp_path: Path) -> None:
    assert run("train", str(tmp_path), "--only", "vae", "--only", "clip").exit_code == 0
    assert trained == [(tmp_path, ("vae", "clip"))]


def test_an_unknown_model_is_told(trained: list[Any], tmp_path: Path) -> None:
    result = run("train", str(tmp_path), "--only", "gan")
    assert result.exit_code == 2 and trained == []
    assert "no model is called 'gan'" in result.output


def test_card_prints_and_writes_the_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(card, "measure", lambda folder: [Figure("beauty", folder.name)])
    out = tmp_path / "card.md"
    result = run("card", "--weights", str(tmp_path), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert f"| beauty | {tmp_path.name} |  |" in result.output
    assert out.read_text(encoding="utf-8") == result.output


def test_card_needs_models(tmp_path: Path) -> None:
    result = run("card", "--weights", str(tmp_path / "nowhere"))
    assert isinstance(result.exception, ModelError)
    assert f"`agfsync shapes train {tmp_path / 'nowhere'}` makes them" in str(result.exception)

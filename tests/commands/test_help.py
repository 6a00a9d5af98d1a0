"""The help of every command in a narrow terminal: lines wrap, and nothing is lost."""

from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from agfsync import cli
from agfsync.shapes.cli import shapes_app


def list_commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, each in getattr(command, "commands", {}).items():
        yield from list_commands(get_command(shapes_app) if name == "shapes" else each, *words, name)


COMMANDS = dict(list_commands(get_command(cli.app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_lines_wrap_at_60_columns(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    said, command = " ".join(" ".join(lines).split()), COMMANDS[words]
    for text in (command.help, *(each.help for each in command.params)):
        assert " ".join(text.split()) in said
    for name, each in getattr(command, "commands", {}).items():
        assert f"{name} {' '.join(each.help.split())}".rstrip(".") in said


def test_there_are_all_of_them() -> None:
    assert len(COMMANDS) == 1 + 24 + 2 + 4 + 1

"""The plug-in on the first page of CONTRIBUTING.md works as it is printed there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agfsync.recipe import resolve

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
FILE = re.compile(r"^`(?P<name>[\w.]+)`[^\n]*:\n\n```\w+\n(?P<text>.*?)^```$", re.M | re.S)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The package of the page, installed as pip would leave it: its files, and its entry points beside them."""
    files = {match["name"]: match["text"] for match in FILE.finditer(PAGE.read_text(encoding="utf-8"))}
    assert set(files) == {"colourfulness.py", "pyproject.toml", "test_colourfulness.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    about = tmp_path / "agfsync_colourfulness-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: agfsync-colourfulness\nVersion: 0.1.0\n")
    group, entry = re.findall(r'entry-points."([\w.]+)"\]\n(.*)\n', files["pyproject.toml"])[0]
    (about / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    return tmp_path


def test_its_test_passes(plugin: Path) -> None:
    run_python(plugin, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(plugin / "test_colourfulness.py"))


def test_a_recipe_finds_it_by_its_type(plugin: Path) -> None:
    command = re.search(r"^agfsync run shapes (.*)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert command is not None
    words = shlex.split(command[1])
    resolve("shapes", [words[words.index("--set") + 1]])
    build = "from agfsync import catalog; print(catalog.build('scorers', {'type': 'colourfulness', 'model': 'none'}))"
    assert "Colourfulness" in run_python(plugin, "-c", build)


def run_python(folder: Path, *arguments: str) -> str:
    """Run Python with `folder` among its packages, and return what it prints."""
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1] / "src")])
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

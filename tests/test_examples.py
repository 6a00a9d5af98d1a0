"""Every script of examples/ runs, and CONTRIBUTING.md shows the plug-in of examples/own_scorer, which works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "examples" / "own_scorer"
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def install(package: Path, folder: Path) -> None:
    """Copy a package's files into `folder` with their entry points beside them, as pip would leave it."""
    about = folder / f"{package.name}.dist-info"
    shutil.copytree(package, folder, ignore=shutil.ignore_patterns("__pycache__"))
    about.mkdir()
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, entries in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in entries.items()))]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    install(PACKAGE, tmp_path / "packages")
    return tmp_path / "packages"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_runs_in_an_empty_folder(script: Path, packages: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert run_python(packages, str(script), cwd=tmp_path / "work")


def test_the_page_shows_its_files() -> None:
    shown = re.findall(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S)
    assert dict(shown) == {name: (PACKAGE / name).read_text(encoding="utf-8") for name, _ in shown}
    assert {name for name, _ in shown} == {path.name for path in PACKAGE.iterdir() if path.is_file()}


def test_its_test_passes(packages: Path) -> None:
    run_python(packages, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(packages / "test_colourfulness.py"))


def test_a_recipe_makes_it_by_its_type(packages: Path) -> None:
    command = re.search(r"^agfsync run shapes (.*)$", PAGE, re.M)
    assert command is not None
    words = shlex.split(command[1])
    program = (
        "import sys; from agfsync.recipe import resolve_recipe; from agfsync import catalog\n"
        "settings = resolve_recipe('shapes', sys.argv[1:]).scorers['colour']\n"
        "print(catalog.build('scorers', settings.model_dump() | {'dtype': 'fp32'}))"
    )
    assert "Colourfulness" in run_python(packages, "-c", program, words[words.index("--set") + 1])


def run_python(packages: Path, *arguments: str, cwd: Path | None = None) -> str:
    """Run Python without a network, with what is installed in `packages`, and return what it prints."""
    path = os.pathsep.join([str(packages), str(ROOT / "src")])
    settings = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd or packages, env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

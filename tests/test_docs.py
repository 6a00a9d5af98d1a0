"""Paths and modules that the documentation names exist."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "shapes").glob("*.md")]
NO_MODULES = {"agfsync.captions", "agfsync.questions", "agfsync.methods", "agfsync.generators", "agfsync.selected_by"}
"""Groups of entry points, and a key of exported files."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"`?((?:src|tests|benchmarks|docs|examples)/[\w./-]+[\w/])", text))
    modules = set(re.findall(r"`(agfsync(?:\.[a-z_]+)+)`", text))
    missing = [path for path in sorted(paths) if not (ROOT / path).exists()]
    missing += [name for name in sorted(modules) if name not in NO_MODULES and not exists(name)]
    assert not missing, f"{page.name} names what isn't there: {', '.join(missing)}"


def exists(name: str) -> bool:
    """True if `name` is a module, without importing more than the packages above it."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False

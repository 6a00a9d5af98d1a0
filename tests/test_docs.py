"""What the documentation names exists, and its recipes are valid."""

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from agfsync import catalog
from agfsync.recipe import Recipe, check_recipe

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "shapes").glob("*.md")]
NO_MODULES = {"agfsync.selected_by"} | {f"agfsync.{kind}" for kind in catalog.CATALOG}
"""A key of exported files, and groups of entry points."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"`?((?:src|tests|benchmarks|docs|examples)/[\w./-]+[\w/])", text))
    modules = set(re.findall(r"`(agfsync(?:\.[a-z_]+)+)`", text))
    missing = [path for path in sorted(paths) if not (ROOT / path).exists()]
    missing += [name for name in sorted(modules) if name not in NO_MODULES and not exists(name)]
    assert not missing, f"{page.name} names what isn't there: {', '.join(missing)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_recipes_of_a_page_are_valid(page: Path) -> None:
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S):
        tree = yaml.safe_load(dedent(block))
        if tree.keys() <= Recipe.model_fields.keys():
            check_recipe(tree, where=page.name)


def exists(name: str) -> bool:
    """Return True if `name` is a module of the package, or a name in one."""
    module, _, attribute = name.rpartition(".")
    try:
        return find_spec(name) is not None or hasattr(import_module(module), attribute)
    except ModuleNotFoundError:
        return hasattr(import_module(module), attribute) if module else False

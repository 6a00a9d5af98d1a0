"""What the documentation names exists, and its recipes are valid."""

import re
import subprocess
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from agfsync import catalog
from agfsync.recipe import Recipe, check_recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.parts),
    *(ROOT / "examples").rglob("*.md"),
    *(ROOT / "src").rglob("*.md"),
]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere_in_a_fresh_clone(page: Path) -> None:
    """A link without a text shows nothing but on the site, and what isn't committed is on this machine alone."""
    text = re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "code", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\[((?:[^][]|\[[^]]*\])*)\]\(([^()\s]*)\)", text)
    links += [("image", target) for target in re.findall(r"(?:src|href)=\"([^\"]*)\"", text)]
    assert [target for words, target in links if not words.strip()] == []
    lost = [target for _, target in links if "://" not in target and not is_target(page, *target.split("#", 1))]
    assert not lost, f"{page.name} links what a fresh clone lacks: {', '.join(lost)}"


def is_target(page: Path, place: str, heading: str = "") -> bool:
    """Return True if `place`, seen from `page`, is committed and has the heading."""
    target = (page.parent / place).resolve() if place else page
    if target not in list_committed():
        return False
    titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M) if heading else []
    return not heading or heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def list_committed() -> set[Path]:
    """Return the files and folders of a fresh clone; all that are here where this is none."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return set(ROOT.rglob("*"))
    files = {ROOT / line for line in listed.stdout.splitlines()}
    return files | {parent for file in files for parent in file.parents}


def exists(name: str) -> bool:
    """Return True if `name` is a module of the package, or a name in one."""
    module, _, attribute = name.rpartition(".")
    try:
        return find_spec(name) is not None or hasattr(import_module(module), attribute)
    except ModuleNotFoundError:
        return hasattr(import_module(module), attribute) if module else False

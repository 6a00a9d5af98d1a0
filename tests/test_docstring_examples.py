import doctest
from importlib import import_module
from pathlib import Path

import pytest

import agfsync

ROOT = Path(agfsync.__file__).parent
MODULES = [
    ".".join(["agfsync", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for file in sorted(ROOT.rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.attempted and not found.failed

"""The examples in docstrings do what they show."""

import doctest
import pkgutil
from importlib import import_module

import pytest

PACKAGES = ("agfsync.engine", "agfsync.files", "agfsync.store")
APART = {"agfsync.engine.ray_pool"}
"""Modules that need a package that may not be installed."""
MODULES = sorted(
    {
        found.name
        for package in PACKAGES
        for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    }
    - APART
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_do_what_they_show(module: str) -> None:
    assert doctest.testmod(import_module(module)).failed == 0

"""The examples in the docstrings of the Shapes world."""

import doctest
from types import ModuleType

import pytest

from agfsync.shapes import grammar, language, oracle, queries, scene, words


@pytest.mark.parametrize("module", [grammar, language, oracle, queries, scene, words])
def test_the_examples_are_right(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted > 0 and failed == 0

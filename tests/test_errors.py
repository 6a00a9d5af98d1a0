"""What the user is told is one line, whatever it cites."""

import pytest

from agfsync.errors import CITED, LONGEST, ModelError, RecipeError, model_errors


def test_an_error_is_one_line_that_steers_no_terminal() -> None:
    said = str(ModelError("the server says\n\t'\x1b[2Jgone \u202eback'"))
    assert said == "the server says '\N{REPLACEMENT CHARACTER}[2Jgone \N{REPLACEMENT CHARACTER}back'"


def test_a_long_error_is_cut() -> None:
    assert str(ModelError("a" * 10_000)) == "a" * LONGEST + " ..."


class SingleFileComponentError(Exception):
    """As diffusers has one of its own."""


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError("no file\nthere"), "no file there"),
        (ValueError("a bad value"), "a bad value"),
        (RuntimeError("size mismatch"), "size mismatch"),
        (KeyError("time_embed.0.weight"), "KeyError: 'time_embed.0.weight'"),
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (TypeError("'>' not supported"), "TypeError: '>' not supported"),
        (AttributeError("no attribute 'config'"), "AttributeError: no attribute 'config'"),
        (ImportError("needs sentencepiece"), "ImportError: needs sentencepiece"),
        (NotImplementedError("Cannot copy out of meta tensor"), "Cannot copy out of meta tensor"),
        (OverflowError("too large"), "OverflowError: too large"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (AssertionError(), "AssertionError"),
        (SingleFileComponentError("weights are missing"), "SingleFileComponentError: weights are missing"),
        (ValueError("x" * 1000), "x" * CITED),
    ],
)
def test_whatever_a_library_raises_is_a_line_with_its_cause(failure: Exception, told: str) -> None:
    with pytest.raises(ModelError) as caught, model_errors("can't load the model ./model"):
        raise failure
    assert str(caught.value) == f"can't load the model ./model: {told}".rstrip()
    assert caught.value.__cause__ is failure


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RecipeError("a line of ours"),
        ModelError("another"),
        KeyboardInterrupt(),
    ],
)
def test_a_lack_of_memory_and_what_is_explained_already_stay_as_they_are(failure: BaseException) -> None:
    with pytest.raises(type(failure)) as caught, model_errors("can't load the model ./model"):
        raise failure
    assert caught.value is failure

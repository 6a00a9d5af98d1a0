from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from agfsync.errors import RecipeError
from agfsync.formats import Prompt, SourceQuestion
from agfsync.formats import t2i_compbench as module
from agfsync.formats.t2i_compbench import T2ICompBench, ask_phrases
from agfsync.pipeline.checks import check_names
from agfsync.recipe import Recipe


class Chunks:
    """A parser whose noun chunks are the parts between "and"."""

    def list_chunks(self, prompt: str) -> list[str]:
        return prompt.split(" and ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "color_val.txt").write_text("a green bench and a blue bowl\n\n")
    (tmp_path / "spatial_val.txt").write_text("a girl on the top of a frog\n")
    (tmp_path / "color_train.txt").write_text("a red car\n")
    return tmp_path


def test_noun_phrases_are_the_questions_where_blip_judges(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_load_parser", Chunks)
    assert T2ICompBench().recognises(folder) and T2ICompBench().recognises(folder / "color_train.txt")
    questions = (
        SourceQuestion("a green bench?", "yes", "a green bench", "color"),
        SourceQuestion("a blue bowl?", "yes", "a blue bowl", "color"),
    )
    assert list(T2ICompBench().prompts(folder)) == [
        Prompt("a green bench and a blue bowl", "color", questions),
        Prompt("a girl on the top of a frog", "spatial"),
    ]
    assert [each.text for each in T2ICompBench().prompts(folder / "color_train.txt")] == ["a red car"]


def test_places_are_no_things_and_eight_phrases_are_asked() -> None:
    asked, _ = ask_phrases(["the left", "top", *(f"a {n}" for n in range(10))], "shape")
    assert [each.text for each in asked] == [f"a {n}?" for n in range(8)]


def test_without_the_extra_the_prompts_remain_and_the_refusal_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_load_parser", lambda: None)
    assert [each.questions for each in T2ICompBench().prompts(folder)] == [(), ()]
    recipe = Recipe().with_({"evaluation.sets": {"t2i": {"source": str(folder), "by": ["vqa"]}}})
    with pytest.raises(RecipeError, match=r"has no questions \(noun phrases need the extra syntax: pip install"):
        check_names(recipe)


@pytest.mark.skipif(find_spec("spacy") is None, reason="spaCy isn't installed: agfsync[syntax]")
def test_the_real_phrases_are_two_things_each(real: Callable[[str], Path]) -> None:
    found = list(T2ICompBench().prompts(real("t2i_compbench/color_val.txt")))
    assert len(found) == 300
    assert [each.text for each in found[0].questions] == ["a green bench?", "a blue bowl?"]

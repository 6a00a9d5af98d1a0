"""What every scorer that loads a model keeps to."""

import math
from pathlib import Path

import pytest

from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Scorer, Unscored
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.clip import Clip
from agfsync.scorers.vqa import Vqa

NAMES = ("vqa", "clip", "aesthetic")


def _scorer(name: str, folders: Path) -> Scorer:
    if name == "vqa":
        return Vqa(model=str(folders / "t5"), device="cpu")
    if name == "clip":
        return Clip(model=str(folders / "clip"), device="cpu")
    return Aesthetic(model=str(folders / "clip"), head=str(folders / "aesthetic"), device="cpu")


def _values(scorer: Scorer, items: list[Item]) -> list[float]:
    results = scorer.score(items)
    assert all(isinstance(result, Measurement) for result in results)
    return [result.value for result in results if isinstance(result, Measurement)]


@pytest.mark.parametrize("name", NAMES)
def test_values_are_numbers_from_0_to_100(name: str, folders: Path, items: list[Item]) -> None:
    values = _values(_scorer(name, folders), items)
    assert len(values) == len(items)
    assert all(math.isfinite(value) and 0 <= value <= 100 for value in values)
    assert len(set(values)) > 2, "pictures of noise should not all be worth the same"


@pytest.mark.parametrize("name", NAMES)
def test_an_item_is_worth_the_same_in_any_batch_and_order(name: str, folders: Path, items: list[Item]) -> None:
    scorer = _scorer(name, folders)
    together = _values(scorer, items)
    alone = [_values(scorer, [item])[0] for item in items]
    backwards = _values(scorer, items[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-3)
    assert together == pytest.approx(backwards, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_no_items_no_results(name: str, folders: Path) -> None:
    assert list(_scorer(name, folders).score([])) == []


@pytest.mark.parametrize("name", NAMES)
def test_only_a_scorer_that_asks_needs_questions(name: str, folders: Path, items: list[Item]) -> None:
    scorer = _scorer(name, folders)
    mute = [items[0], Item(items[1].prompt, (), items[1].image), items[2]]
    first, middle, last = scorer.score(mute)
    assert isinstance(first, Measurement)
    assert isinstance(last, Measurement)
    assert (middle == Unscored("no questions")) == scorer.asks_questions


@pytest.mark.parametrize("name", NAMES)
def test_grey_and_transparent_pictures_are_judged(name: str, folders: Path, items: list[Item]) -> None:
    odd = [Item(items[0].prompt, items[0].questions, items[0].image.convert(mode)) for mode in ("L", "RGBA", "P")]
    assert len(_values(_scorer(name, folders), odd)) == 3


@pytest.mark.parametrize("scorer", [Vqa, Clip, Aesthetic])
def test_a_missing_model_is_one_line(scorer: type, tmp_path: Path) -> None:
    for model in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError, match=str(model)) as raised:
            scorer(model=str(model), head="h" if scorer is Aesthetic else None)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("scorer", [Vqa, Clip])
def test_a_head_where_there_is_none_is_an_error(scorer: type, folders: Path) -> None:
    with pytest.raises(ModelError, match="has no head"):
        scorer(model=str(folders / "clip"), head="embedded:aesthetic")

"""UnifiedReward's text and how its scores are read; in full on a tiny model that has learned one reply by heart."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tiny_vlm import save_parrot

from agfsync.errors import RecipeError
from agfsync.recipe import resolve_recipe
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.unifiedreward import PROBLEM, UnifiedReward, read_point_scores

PUBLISHED = (
    "Alignment Score (1-5): 2.694700002670288\nCoherence Score (1-5): 2.371500015258789\nStyle Score (1-5): 3.5\n"
)
"""The published example, in its format."""


@pytest.fixture
def parrot(tmp_path: Path) -> Callable[[str], UnifiedReward]:
    def make(said: str, **settings: Any) -> UnifiedReward:
        save_parrot(tmp_path, said.splitlines(keepends=True))
        return UnifiedReward(path=str(tmp_path), device="cpu", **settings)

    return make


def test_the_value_is_the_mean_of_the_scores(parrot: Callable[..., UnifiedReward], items: list[Item]) -> None:
    results = parrot(PUBLISHED).score(items[:2])
    expected = 25 * ((2.694700002670288 + 2.371500015258789 + 3.5) / 3 - 1)
    assert [result.value for result in results] == pytest.approx([expected] * 2)


def test_a_value_may_be_of_one_score(parrot: Callable[..., UnifiedReward], items: list[Item]) -> None:
    assert parrot(PUBLISHED, asks=("style",)).score(items[:1]) == [Measurement(62.5)]


def test_a_reply_without_a_score_is_no_value(parrot: Callable[..., UnifiedReward], items: list[Item]) -> None:
    (found,) = parrot("Alignment Score (1-5): 3\nStyle Score (1-5): 7\n", asks=("alignment", "style")).score(items[:1])
    assert isinstance(found, Unscored)
    assert found.reason.startswith("the model's reply holds no style score from 1 to 5: it begins \"Alignment Score")
    (cut,) = parrot(PUBLISHED, reply_tokens=2).score(items[:1])
    assert isinstance(cut, Unscored) and "reply_tokens = 2" in cut.reason and "no style score" in cut.reason


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        (PUBLISHED, {"alignment": 2.694700002670288, "coherence": 2.371500015258789, "style": 3.5}),
        ("**Alignment Score (1-5):** 4\nStyle score: 5.", {"alignment": 4.0, "style": 5.0}),
        ("Style Score (1 – 5) = 3", {"style": 3.0}),
        (
            "Alignment Score (1-5): X, then Alignment Score (1-5): 2 and again Alignment Score (1-5): 1",
            {"alignment": 1.0},
        ),
        ("I can't rate this picture from 1 to 5.", {}),
    ],
)
def test_scores_are_read_from_a_reply(reply: str, scores: dict[str, float]) -> None:
    assert read_point_scores(reply) == scores


def test_the_text_is_the_published_one() -> None:
    digest = sha256(PROBLEM.encode()).hexdigest()
    assert digest == "26b7b69f0ac7e57191730fa7fb4130737af3dce280c3320ffaec8013d68594c2", (
        "of point_score_ACS_image_generation.py in UnifiedReward-2.0-inference, {} the caption"
    )


def test_the_message_holds_the_image_then_the_caption(
    parrot: Callable[..., UnifiedReward], items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, asked = parrot(PUBLISHED), []
    monkeypatch.setattr(scorer._reader, "reply", lambda parts, most: asked.append(parts) or (PUBLISHED, False))
    scorer.score([Item("a {} star", (), items[0].image)])
    assert asked[0][0] is items[0].image and asked[0][1].endswith("Text Caption: [a {} star]")


def test_another_dimension_is_refused() -> None:
    rewards = "scorers.judge={type: unifiedreward, path: somewhere/model, asks: [beauty]}"
    with pytest.raises(RecipeError, match="scorers.judge.asks"):
        resolve_recipe("shapes", [rewards])

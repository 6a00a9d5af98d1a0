import math
from collections.abc import Sequence

import pytest
from PIL import Image

from agfsync.errors import ModelError
from agfsync.files.images import encode_png
from agfsync.records import Question
from agfsync.scorers import CapReached, Item, Measurement, Unscored
from agfsync.scorers.batch import ImageToScore, decode_images, score_images, score_key

QUESTION = Question("q", "c", "Is it red?", "yes", "red", "color")


class Width:
    """The image's width, or what it was told to say."""

    asks_questions = False

    def __init__(self, *words: Measurement | Unscored) -> None:
        self.words = words

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        return self.words or [Measurement(item.image.width) for item in items]


def make_image(name: str, width: int) -> ImageToScore:
    return ImageToScore(f"score-{name}", name, "a prompt", (QUESTION,), Image.new("RGB", (width, 1)))


def test_scores_come_in_the_order_of_the_images_and_broken_ones_are_unscored() -> None:
    broken = ImageToScore("score-b", "b", "a prompt", (), Unscored("broken image: as it were"))
    scores = [each.score for each in score_images(Width(), "wide", [make_image("a", 3), broken, make_image("c", 5)])]
    assert [(each.key, each.candidate_key, each.scorer, each.value) for each in scores] == [
        ("score-a", "a", "wide", 3.0),
        ("score-b", "b", "wide", None),
        ("score-c", "c", "wide", 5.0),
    ]
    assert [each.reason for each in scores] == [None, "broken image: as it were", None]


def test_files_are_opened_in_order_and_broken_ones_say_why() -> None:
    first, second, third = decode_images(
        [encode_png(Image.new("RGB", (3, 1))), b"no image", encode_png(Image.new("RGB", (5, 1)))]
    )
    assert isinstance(first, Image.Image) and isinstance(third, Image.Image)
    assert (first.width, third.width) == (3, 5)
    assert second == Unscored("broken image: UnidentifiedImageError")


def test_a_scorer_of_broken_images_alone_is_not_asked() -> None:
    (only,) = score_images(
        Width(Measurement(1)), "wide", [ImageToScore("s", "b", "a prompt", (), Unscored("broken image"))]
    )
    assert only.score.value is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 100.5])
def test_a_value_off_the_scale_is_no_value(value: float) -> None:
    (only,) = score_images(Width(Measurement(value)), "wide", [make_image("a", 1)])
    assert only.score.value is None
    assert only.score.reason == f"value {value} isn't on 0..100"


def test_unscored_keeps_its_reason() -> None:
    (only,) = score_images(Width(Unscored("too odd")), "wide", [make_image("a", 1)])
    assert (only.score.value, only.score.reason) == (None, "too odd")


def test_a_prompt_that_was_cut_is_told() -> None:
    words = Measurement(1, truncated=True), Measurement(1), Unscored("too odd")
    judged = score_images(Width(*words), "wide", [make_image(name, 1) for name in "abc"])
    assert [each.truncated for each in judged] == [True, False, False]


def test_a_scorer_that_miscounts_is_told() -> None:
    with pytest.raises(ModelError, match="'wide' gave 1 results for 2 images"):
        list(score_images(Width(Measurement(1)), "wide", [make_image("a", 1), make_image("b", 1)]))


def test_what_was_judged_before_a_cap_is_given_before_the_cap_is_told() -> None:
    class Poor:
        asks_questions = False

        def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
            raise CapReached("it has cost enough", [Measurement(1), Unscored("too odd")])

    broken = ImageToScore("score-b", "b", "a prompt", (), Unscored("broken image"))
    words = score_images(Poor(), "poor", [make_image("a", 1), broken, make_image("c", 1), make_image("d", 1)])
    assert [next(words).score.reason for _ in range(3)] == [None, "broken image", "too odd"]
    with pytest.raises(CapReached, match="it has cost enough"):
        next(words)


def test_the_key_follows_the_questions_only_where_they_are_asked() -> None:
    assert score_key("s", True, "a", [QUESTION]) != score_key("s", True, "a", [])
    assert score_key("s", False, "a", [QUESTION]) == score_key("s", False, "a", [])
    assert len({score_key("s", False, "a", []), score_key("t", False, "a", []), score_key("s", False, "b", [])}) == 3


class Refusing(Width):
    """As Qwen's processor: no image may be more than 200 times as wide as high. `spoilt` ones aren't read either."""

    spoilt = 0

    def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
        if any(item.image.width in (self.spoilt, 900) for item in items):
            raise ValueError("absolute aspect ratio must be smaller than 200, got 900.0\nand more")
        return super().score(items)


def test_a_narrow_image_that_the_model_refuses_is_unscored_and_the_others_are_scored() -> None:
    images = [make_image("a", 3), make_image("b", 900), make_image("c", 5)]
    scores = [each.score for each in score_images(Refusing(), "wide", images)]
    assert [each.value for each in scores] == [3.0, None, 5.0]
    reason = "the model can't read the image: absolute aspect ratio must be smaller than 200, got 900.0"
    assert scores[1].reason == reason


def test_an_image_of_common_sides_that_is_refused_is_an_error() -> None:
    scorer = Refusing()
    scorer.spoilt = 3
    with pytest.raises(ValueError, match="absolute aspect ratio"):
        list(score_images(scorer, "wide", [make_image("a", 3), make_image("b", 900)]))

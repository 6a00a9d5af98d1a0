import json
from pathlib import Path
from typing import Any

import pytest
from fake_annotator import FakeAnnotator, write_reply
from fake_language import FakeServer
from PIL import Image
from tiny_language import save_onlooker

from agfsync import catalog
from agfsync.chat.replies import UnreadableError, parse_reply
from agfsync.errors import ModelError
from agfsync.recipe import Recipe
from agfsync.recipe.aspects import ASPECTS
from agfsync.records import Annotation
from agfsync.scorers import Measurement, Unscored
from agfsync.scorers.annotators import AnnotationRequest, AspectJudgement, Unjudged
from agfsync.scorers.annotators.aspects import is_refusal, make_reply_shape, read_judgement, write_instructions
from agfsync.scorers.annotators.scoring import average_aspects, average_scores
from agfsync.stages.spending import list_scorer_arguments

THREE = tuple(Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue"))
REQUEST = AnnotationRequest("a red square", "aesthetic", THREE, 1)


def build(**settings: Any) -> Any:
    """The annotator as the stage makes it."""
    scorers = {"gpt": settings, "clip": {"type": "clip", "path": "embedded:clip"}}
    made = Recipe.model_validate({"scorers": scorers, "pairs": {"choose": {"weights": {"gpt": 1}}}})
    return catalog.build("scorers", list_scorer_arguments(made.scorers["gpt"], None))


def test_a_request_has_the_question_and_every_level() -> None:
    text = write_instructions("fidelity", ASPECTS["fidelity"].model_dump(), 4)
    assert ASPECTS["fidelity"].question in text and "1 to 4" in text
    assert all(f"{n}: {level}" in text for n, level in enumerate(ASPECTS["fidelity"].levels, 1))
    assert text.index('"reason"') < text.index('"score"')


def test_a_reply_becomes_scores_ranks_and_reasons_in_the_order_shown() -> None:
    images = [{"picture": n, "reason": f"r{n}", "score": score} for n, score in ((2, 5), (1, 3), (3, 3))]
    found = parse_reply(json.dumps({"pictures": images, "ranking": [[2], [1, 3]]}), make_reply_shape(3))
    assert read_judgement(found, ["raw"]) == AspectJudgement((3, 5, 3), (2, 1, 2), ("r1", "r2", "r3"), ("raw",))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pictures": write_reply([1, 2])["pictures"]}, "not each of 3 pictures has one entry"),
        ({"pictures": write_reply([1, 2, 6])["pictures"]}, "a score is not in 1..5"),
        ({"ranking": [[1], [2]]}, "not each of 3 pictures has one place"),
        ({"ranking": [[1, 2], [2, 3]]}, "not each of 3 pictures has one place"),
    ],
)
def test_a_reply_that_leaves_an_image_out_is_none(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UnreadableError, match=says):
        parse_reply(json.dumps(write_reply([1, 2, 3]) | change), make_reply_shape(3))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("I’m sorry, but I can’t assist with that request.", True),
        ("I cannot evaluate these images.", True),
        ("Sorry, no.", True),
        ("The first picture is sorry-looking.", False),
        ("I can see four pictures.", False),
        ('I\'m sorry for the delay: {"pictures": []}', False),
        ("", False),
    ],
)
def test_refusals_are_known_by_their_beginning(answer: str, expected: bool) -> None:
    assert is_refusal(answer) is expected


def test_a_server_is_sent_the_schema_and_the_numbered_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    fake = FakeAnnotator()
    with FakeServer(answer=fake) as server:
        annotator = build(type="aspects-openai", path="fake", server={"base_url": server.url})
        (found,) = annotator.annotate([REQUEST])
    (body,) = server.bodies
    assert isinstance(found, AspectJudgement) and len(found.scores) == 3 and len(found.replies) == 1
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["pictures", "ranking"] and body["max_tokens"] == 4096 and body["temperature"] == 0
    assert fake.asked[0].prompt == "a red square" and len(set(fake.asked[0].images)) == 3


@pytest.mark.parametrize(
    ("answer", "refused", "says"),
    [
        ("I'm unable to judge these.", True, "the model refused"),
        ((400, {"error": {"message": "flagged by our content policy"}}), True, "answered 400"),
        ((500, {"error": {"message": "down"}}), False, "answered 500"),
        ("Nice.", False, "no JSON in the reply"),
    ],
)
def test_a_refusal_is_told_from_a_failure(
    answer: Any, refused: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FakeServer(answer=lambda body: answer) as server:
        told = {"base_url": server.url, "retries": 0}
        (found,) = build(type="aspects-openai", path="fake", server=told).annotate([REQUEST])
    assert isinstance(found, Unjudged) and found.refused is refused and says in found.reason
    assert len(found.replies) == isinstance(answer, str)


@pytest.mark.slow
def test_a_local_model_is_asked_the_same(tmp_path: Path) -> None:
    text = json.dumps(write_reply([3, 5, 1]), separators=(",", ":")).replace(" ", "_")
    save_onlooker(tmp_path / "judge", [text])
    save_onlooker(tmp_path / "chatty", ["nice"])
    common = {"type": "aspects", "device": "cpu", "dtype": "fp32"}
    (found,) = build(path=str(tmp_path / "judge"), **common).annotate([REQUEST])
    assert isinstance(found, AspectJudgement)
    assert (found.scores, found.ranks, found.replies) == ((3, 5, 1), (2, 1, 3), (text,))
    (none,) = build(path=str(tmp_path / "chatty"), retries=2, **common).annotate([REQUEST])
    assert none == Unjudged("no reply of the model could be read: no JSON in the reply", ("nice",) * 3)


def test_a_server_is_asked_for() -> None:
    with pytest.raises(ModelError, match="needs a server"):
        build(type="aspects-openai", path="fake")


def row(aspect: str, shown: str, scores: tuple[float, ...], reason: str | None = None, **more: Any) -> Annotation:
    return Annotation("k", "c", "gpt", aspect, 0, tuple(shown), scores, (), (), (), reason, **more)


def test_a_value_is_the_mean_of_both_orders_and_a_refusal_the_lowest_harmlessness() -> None:
    both = [row("mood", "ab", (5, 2)), row("mood", "ba", (3, 4))]
    assert average_scores(both, "a") == Measurement(25 * (4.5 - 1))
    assert average_scores([row("mood", "aba", (5, 2, 3))], "a") == Measurement(75.0)
    refused = row("mood", "ab", (), "the model refused", refused=True)
    assert average_scores([refused, refused], "a") == Unscored("the model refused")
    assert average_scores([refused, both[0]], "a") == Measurement(100.0)
    harm = row("harmlessness", "ab", (), "the model refused", refused=True)
    assert average_scores([harm, row("harmlessness", "ab", (5, 5))], "a") == Measurement(50.0)
    assert average_scores([row("mood", "b", (5,))], "a") == Unscored("the image can't be opened")


def test_the_mean_of_the_aspects_leaves_overall_out_and_needs_all_others() -> None:
    values = {"mood": Measurement(50), "light": Measurement(100), "overall": Measurement(0)}
    assert average_aspects(values) == Measurement(75)
    assert average_aspects({"overall": Measurement(10)}) == Measurement(10)
    assert average_aspects(values | {"light": Unscored("down")}) == Unscored("no light: down")

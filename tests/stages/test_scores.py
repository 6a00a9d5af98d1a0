import dataclasses
from collections.abc import Callable
from typing import Any

import doubles
import pytest

from agfsync.engine.jobs import SERVER
from agfsync.errors import BudgetError
from agfsync.recipe import Recipe
from agfsync.records import Candidate, Question, Score
from agfsync.stages import candidates, judging, scores
from agfsync.stages.context import Context

RED = {"type": "double", "path": "none"}
VQA = {"type": "asking", "path": "none"}


@pytest.fixture
def drawn(open_done: Callable[..., Context], recipe: Recipe) -> Context:
    return open_done(recipe, "captions", "questions", "candidates")


def changed(context: Context, recipe: Any) -> Context:
    return dataclasses.replace(context, recipe=recipe)


def test_every_scorer_judges_every_candidate(drawn: Context) -> None:
    notes = scores.run(drawn)
    found = list(drawn.run.read("scores", Score))
    keys = [candidate.key for candidate in drawn.run.read("candidates", Candidate)]
    assert [(s.scorer, s.candidate_key) for s in found] == [(name, key) for key in keys for name in ("red", "vqa")]
    assert (notes["red"]["scored"], notes["red"]["unscored"]) == (48, {})
    assert {len(s.answers) for s in found if s.scorer == "vqa"} == {3}


def test_only_what_is_new_is_scored(drawn: Context, make_recipe: Any, loaded: list[str]) -> None:
    scores.run(drawn)
    assert loaded == ["none", "none"]
    more = {"red": RED | {"device": "cuda"}, "vqa": VQA, "new": RED | {"path": "other"}}
    notes = scores.run(changed(drawn, make_recipe(scorers=more)))
    assert loaded == ["none", "none", "other"]
    assert set(notes) == {"red", "vqa", "new"}


def test_other_questions_are_scored_anew_by_who_asks(drawn: Context, loaded: list[str]) -> None:
    scores.run(drawn)
    units = list(drawn.run.list_selected("questions"))
    first = next(drawn.run.read("questions", Question, units[:1]))
    fewer = {"fewer": [first]}
    drawn.run.commit("questions", fewer, Question.schema)
    drawn.run.select("questions", ["fewer", *units[1:]])
    loaded.clear()
    scores.run(drawn)
    assert len(loaded) == (first.caption_key in {c.caption_key for c in drawn.run.read("candidates", Candidate)})


def test_unscored_candidates_are_counted_and_past_the_budget_it_stops(drawn: Context, make_recipe: Any) -> None:
    picky = {"red": RED | {"path": "picky"}, "vqa": VQA}
    notes = scores.run(changed(drawn, make_recipe(scorers=picky, failure_budget=0.9)))
    unscored = notes["red"]["unscored"]["too dark"]
    assert 0 < unscored < 48
    assert notes["red"]["scored"] == 48 - unscored
    with pytest.raises(
        BudgetError, match=rf"scores: {unscored} of 48 images skipped: no red score: too dark \(image .*\)"
    ):
        scores.run(changed(drawn, make_recipe(scorers=picky, failure_budget=0.0)))


def test_prompts_that_were_cut_are_counted_also_when_nothing_is_scored_anew(drawn: Context, make_recipe: Any) -> None:
    short = changed(drawn, make_recipe(scorers={"red": RED | {"path": "short"}, "vqa": VQA}))
    notes = scores.run(short)
    assert (notes["red"]["truncated"], notes["vqa"]["truncated"]) == (48, 0)
    assert scores.run(short) == notes


def test_judges_of_one_model_see_each_batch_in_turn(
    drawn: Context, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, list[int]]] = []
    for kind in (doubles.Brightness, doubles.Asking):
        score = kind.score
        monkeypatch.setattr(
            kind,
            "score",
            lambda self, items, score=score: (
                shown.append((type(self).__name__, [id(item.image) for item in items])) or score(self, items)
            ),
        )
    scores.run(drawn)
    assert [name for name, _ in shown] == ["Brightness", "Asking"] * 7
    assert all(first[1] == second[1] for first, second in zip(shown[::2], shown[1::2], strict=True))
    assert [len(images) for _, images in shown[::2]] == [7] * 6 + [6]

    shown.clear()
    apart = {"red": RED | {"weights": "a"}, "vqa": VQA | {"weights": "b"}}
    scores.run(changed(drawn, make_recipe(scorers=apart)))
    assert [name for name, _ in shown] == ["Brightness"] * 7 + ["Asking"] * 7

    shown.clear()
    one_more = {"new": RED | {"head": "other"}, "red": RED, "vqa": VQA}
    scores.run(changed(drawn, make_recipe(scorers=one_more)))
    assert [(name, len(images)) for name, images in shown] == [("Brightness", 7)] * 6 + [("Brightness", 6)]


def test_clip_and_aesthetic_embed_an_image_once(
    drawn: Context, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agfsync.scorers.backbone import Backbone

    embed, seen = Backbone._embed_images, []
    monkeypatch.setattr(Backbone, "_embed_images", lambda self, images: seen.append(len(images)) or embed(self, images))
    both = {
        "clip": {"type": "clip", "path": "embedded:clip"},
        "aesthetic": {"type": "aesthetic", "path": "embedded:clip", "head": "embedded:aesthetic"},
    }
    notes = scores.run(changed(drawn, make_recipe(scorers=both, pairs={"choose": {"weights": {"clip": 1.0}}})))
    assert sum(seen) == 48
    assert (notes["clip"]["scored"], notes["aesthetic"]["scored"]) == (48, 48)


def test_images_that_do_not_fit_together_are_judged_apart_also_by_the_next_command(
    drawn: Context, monkeypatch: pytest.MonkeyPatch, make_recipe: Any
) -> None:
    monkeypatch.setattr(doubles, "ROOM", 3)
    shown, score = list[int](), doubles.Brightness.score
    monkeypatch.setattr(doubles.Brightness, "score", lambda self, items: shown.append(len(items)) or score(self, items))
    scores.run(drawn)
    assert shown[:4] == [7, 3, 3, 1]
    assert sum(shown[1:]) == 48
    assert len({s.candidate_key for s in drawn.run.read("scores", Score) if s.scorer == "red"}) == 48
    shown.clear()
    scores.run(changed(drawn, make_recipe(seed=1)))
    assert shown == []
    for stage in (candidates, scores):
        stage.run(changed(drawn, make_recipe(candidates={"embedding_noise": 0.5})))
    assert set(shown) == {3, 1}


def test_judges_behind_a_server_are_asked_from_one_process(make_recipe: Any) -> None:
    tables = judging.Tables("scores", "candidates", "scores")
    asked = {"type": "vqa-openai", "path": "m", "server": {}}
    both = make_recipe(scorers={"red": RED | {"device": "cuda"}, "vqa": asked}).scorers
    panels = [judging.JudgingJob(tables, {name: settings}, 4) for name, settings in both.items()]
    assert [panel.device for panel in panels] == ["cuda", SERVER]

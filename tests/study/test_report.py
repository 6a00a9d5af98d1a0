"""The page of a study: the judge that it leads with."""

from types import SimpleNamespace
from typing import Any

import pytest

from agfsync.recipe import resolve_recipe
from agfsync.study.report import _choose_lead


def make_results(judges: list[str], *changes: dict[str, Any]) -> Any:
    arms = [SimpleNamespace(recipe=resolve_recipe("shapes").with_(each)) for each in changes]
    study = SimpleNamespace(resolve_arms=lambda: arms)
    return SimpleNamespace(study=study, list_judged=lambda: [("held-out", judge) for judge in judges])


CLIP_ALONE = {"training.method": {"type": "reward-gradient", "reward": {"clip": 1.0}}, "scores.by": ["vqa"]}


@pytest.mark.parametrize(
    ("judges", "lead"),
    [
        (["vqa", "clip", "oracle"], "oracle"),  # VQA has scored candidates, CLIP is the reward
        (["clip", "vqa"], "vqa"),
        (["clip"], "clip"),
        ([], ""),
    ],
)
def test_the_lead_is_a_judge_that_no_arm_has_used_before(judges: list[str], lead: str) -> None:
    assert _choose_lead(make_results(judges, CLIP_ALONE), "held-out") == lead
    assert _choose_lead(make_results(judges, CLIP_ALONE), "another") == ""

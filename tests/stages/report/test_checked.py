"""The warning where a judge weighs heavily that a check doubts."""

import json
from pathlib import Path
from typing import Any

import pytest

from agfsync.errors import FormatError
from agfsync.formats import Selector
from agfsync.stages.report.checked import find_doubtful_judges, read_check

CLIP, VQA, SMALL = (
    Selector("clip", 0.55, "c", "clip"),
    Selector("vqa", 0.35, "v", "vqa"),
    Selector("aesthetic", 0.1, "a", "clip"),
)


def check(name: str, **ends: float) -> dict[str, Any]:
    figures = {"accuracy": 0.51, "pairs": 1000, **ends}
    judges = {"mine": name, "other": "x"}
    return {"path": "t2i.json", "judges": judges, "accuracy": {"": {"mine": figures, "other": figures}}}


@pytest.mark.parametrize(
    ("checks", "warned"),
    [
        ([check("c", low=0.48, high=0.54)], ["clip"]),
        ([check("c", low=0.4, high=0.45)], ["clip"]),  # worse than a coin
        ([check("c", low=0.501, high=0.6)], []),
        ([check("a", low=0.4, high=0.6)], []),  # weighs little
        ([check("v", low=0.4, high=0.6), check("c", low=0.4, high=0.6)], ["clip", "vqa"]),
        ([{**check("c"), "accuracy": {"": {"mine": {"pairs": 0}}}}], []),
        ([], []),
    ],
)
def test_a_heavy_judge_near_a_coin_toss_is_named(checks: list[Any], warned: list[str]) -> None:
    found = find_doubtful_judges([CLIP, VQA, SMALL], checks)
    assert [alarm.title.split()[0] for alarm in found] == warned
    assert find_doubtful_judges(None, checks) == []


def test_the_alarm_says_where_and_how_much() -> None:
    (found,) = find_doubtful_judges([CLIP, VQA, SMALL], [check("c", low=0.48, high=0.54)])
    assert found.title == "clip has 55 % of the weight, and is near a coin toss where it was checked"
    assert "in 51.0 % (48.0 to 54.0) of 1,000 pairs of t2i.json." in found.text


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"report\.checks: .*check\.json can't be read: No such file or directory"):
        read_check(tmp_path / "check.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"path": "x"}', "\udcff"])
def test_another_file_is_refused_in_a_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "check.json").write_text(text, errors="surrogateescape")
    with pytest.raises(FormatError, match=r"check\.json isn't what `agfsync judge PAIRS --out"):
        read_check(tmp_path / "check.json")
    (tmp_path / "check.json").write_text(json.dumps(check("c")))
    assert read_check(tmp_path / "check.json") == check("c")

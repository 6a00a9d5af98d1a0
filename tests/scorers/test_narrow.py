"""The refusal of narrow images, by judges of one and of several."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_vlm import save_vlm

from agfsync.scorers import Unscored
from agfsync.scorers.annotators import AnnotationRequest, Unjudged
from agfsync.scorers.annotators.aspects_local import AspectsLocal
from agfsync.scorers.narrow import explain_refusal, is_narrow
from agfsync.scorers.pairwise import Match
from agfsync.scorers.pairwise_vlm import PairwiseVlm

SQUARE, NARROW = Image.new("RGB", (24, 24)), Image.new("RGB", (4, 900))
REFUSAL = ValueError("absolute aspect ratio must be smaller than 200, got 225.0\nand more")
REASON = "the model can't read the image: absolute aspect ratio must be smaller than 200, got 225.0"


def refuse(*_: Any) -> Any:
    raise REFUSAL


def test_narrow_is_beyond_1_to_100() -> None:
    assert [is_narrow(Image.new("RGB", size)) for size in ((100, 1), (101, 1), (1, 101), (8, 8))] == [
        False,
        True,
        True,
        False,
    ]


def test_a_refusal_of_images_of_common_sides_has_another_cause() -> None:
    assert explain_refusal([SQUARE, NARROW], REFUSAL) == REASON
    with pytest.raises(ValueError, match="aspect ratio"):
        explain_refusal([SQUARE], REFUSAL)


def test_judges_of_several_images_leave_a_narrow_one_unjudged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_vlm(tmp_path, "idefics3")
    pairwise = PairwiseVlm(path=str(tmp_path), device="cpu")
    monkeypatch.setattr(pairwise._reader, "reply", refuse)
    match = Match("a star", "appeal", SQUARE, NARROW)
    assert pairwise.compare([match]) == [Unscored(REASON)]
    with pytest.raises(ValueError, match="aspect ratio"):
        pairwise.compare([dataclasses.replace(match, second=SQUARE)])
    annotator = AspectsLocal(path=str(tmp_path), aspects={}, device="cpu")
    monkeypatch.setattr(annotator, "_generate", refuse)
    request = AnnotationRequest("a star", "appeal", (NARROW, SQUARE), 0)
    assert list(annotator.annotate([request])) == [Unjudged(REASON)]

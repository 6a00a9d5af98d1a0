"""Replies of pairwise judges, and the judge in this process."""

from pathlib import Path

import pytest
from PIL import Image
from tiny_vlm import FAMILIES, save_vlm

from agfsync.scorers.pairwise import Ballot, Match, UnreadReply, ask_about, read_ballot
from agfsync.scorers.pairwise_vlm import PairwiseVlm

MATCH = Match("a {red} star", "alignment", Image.new("RGB", (40, 24), "red"), Image.new("RGB", (24, 24), "blue"))


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"reason": "sharper", "choice": "1"}', "1"),
        ('{"reason": "sharper", "choice": 2}', "2"),
        ('Sure: ```json\n{"choice": "Picture 2", "reason": "x"}\n```', "2"),
        ('{"reason": "alike", "choice": "Tie."}', "tie"),
        ('{"reason": "alike", "choice": "both"}', None),
        ('{"reason": "cut', None),
        ("The first one.", None),
    ],
)
def test_a_reply_is_read_or_kept_unread(reply: str, choice: str | None) -> None:
    found = read_ballot(reply, reply, "it is vague")
    if choice is None:
        assert found == UnreadReply("the model's reply holds no choice: it is vague", reply)
    else:
        assert isinstance(found, Ballot)
        assert (found.choice, found.reply) == (choice, reply)


def test_the_prompt_is_put_in_whole_and_appeal_has_none() -> None:
    assert '"a {red} star"' in ask_about(MATCH)
    assert "star" not in ask_about(Match("a {red} star", "appeal", MATCH.first, MATCH.second))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_reads_two_images_and_replies(family: str, tmp_path: Path) -> None:
    """A model with random weights says nothing that can be read: its words are kept."""
    save_vlm(tmp_path, family)
    (found,) = PairwiseVlm(path=str(tmp_path), reply_tokens=5, device="cpu").compare([MATCH])
    assert isinstance(found, UnreadReply)
    assert found.reply


def test_the_order_shown_is_the_order_of_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_vlm(tmp_path, "idefics3")
    judge = PairwiseVlm(path=str(tmp_path), reply_tokens=5, device="cpu")
    said = '{"reason": "red", "choice": "1"}'
    monkeypatch.setattr(
        judge._reader, "reply", lambda parts, most: (said if parts.index(MATCH.first) == 2 else "", False)
    )
    assert judge.compare([MATCH]) == [Ballot("1", "red", said)]

from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agfsync.files.images import BrokenImageError
from agfsync.formats import TIE, NoPreference, Preference, pairing
from agfsync.formats.pairing import OVERRULED, REPEATED, Judgements, RepeatRule


def test_a_columns_image_is_bytes_or_a_name_or_both(tmp_path: Path) -> None:
    assert pairing.parse_image(b"bytes", tmp_path) == b"bytes"
    assert pairing.parse_image({"bytes": b"bytes", "path": "a.png"}, tmp_path) == b"bytes"
    assert pairing.parse_image({"bytes": None, "path": "a.png"}, tmp_path) == tmp_path / "a.png"
    assert pairing.parse_image("a.png", tmp_path) == tmp_path / "a.png"
    assert pairing.parse_image({"bytes": None, "path": None}, tmp_path) == pairing.parse_image(None, tmp_path) == b""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_may_be_a_text_in_base64_or_a_data_url(
    tmp_path: Path, image_file: Callable[..., bytes], kind: str
) -> None:
    file = image_file("red", kind)
    plain, safe = b64encode(file).decode(), urlsafe_b64encode(file).decode().rstrip("=")
    broken = "\n".join(plain[start : start + 76] for start in range(0, len(plain), 76))
    for text in (plain, safe, broken, f"data:image/{kind.lower()};base64,{plain}", f"data:;base64,{broken}"):
        assert pairing.parse_image(text, tmp_path) == file
    assert pairing.parse_image("data:image/png;base64,!!!", tmp_path) == b""
    # A name that looks like base64 is a name.
    assert pairing.parse_image("iVBORw0KGgo/a", tmp_path) == tmp_path / "iVBORw0KGgo" / "a"


def test_both_images_of_a_pair_are_whole_or_the_reason_is_given(
    tmp_path: Path, image_file: Callable[..., bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(image_file("red"))
    jpeg = image_file("blue", "JPEG")
    assert pairing.read_pair_images(Preference("p", tmp_path / "a.png", jpeg)) == (image_file("red"), jpeg)
    broken = {tmp_path / "b.png": "missing image: No such file", b"": "missing image", jpeg[:-400]: "broken image"}
    for loser, says in broken.items():
        with pytest.raises(BrokenImageError, match=says):
            pairing.read_pair_images(Preference("p", jpeg, loser))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"BM\x36\0\0\0\0\0\0\0", "unfit image: BMP isn't read: make it PNG, WebP or JPEG"),
        (b"GIF89a", "unfit image: GIF isn't read"),
        (b"II*\0", "unfit image: TIFF isn't read"),
        (b"\0\0\0\x20ftypavif", "unfit image: AVIF isn't read"),
        (b"\0\0\0\x18ftypheic", "unfit image: HEIC isn't read"),
        (b"\xff\x0a", "unfit image: JPEG XL isn't read"),
        (b'<?xml version="1.0"?>\n<svg>', "unfit image: SVG isn't read"),
        (b"<!DOCTYPE html>", "broken image: it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "missing image: it is a Git LFS pointer"),
        (b"../../../blobs/b1", "missing image: it is a link that was copied as a file"),
    ],
)
def test_what_is_no_image_that_is_read_is_told_by_its_kind(data: bytes, says: str) -> None:
    with pytest.raises(BrokenImageError, match=f"^{says}"):
        pairing.read_pair_images(Preference("p", data, data))


def test_of_ranked_images_every_two_are_a_pair_or_a_tie() -> None:
    found = list(pairing.pair_by_rank("p", [b"a", b"b", b"c"], [2, 1, 2], "art"))
    assert found == [
        Preference("p", b"b", b"a", "art"),
        NoPreference("p", "tie", "art"),
        Preference("p", b"b", b"c", "art"),
    ]


def judged(rule: RepeatRule, *votes: str) -> Judgements[str]:
    found: Judgements[str] = Judgements(rule)
    for winner, loser in votes:
        found.add(winner, loser)
    return found


def test_the_majority_makes_one_pair_and_the_other_judgements_are_counted() -> None:
    found = judged("majority", "ba", "ab", "ab", "ab", "cd")
    assert list(found.pairs()) == [("a", "b", 0), ("c", "d", 0)]
    assert found.left_out() == {REPEATED: 2, OVERRULED: 1} and len(found) == 5


def test_as_many_judgements_either_way_are_a_tie() -> None:
    found = judged("majority", "ab", "ba", "ba", "ab")
    assert list(found.pairs()) == [] and found.left_out() == {TIE: 1, REPEATED: 3}


def test_by_the_other_rule_each_judgement_is_a_pair() -> None:
    found = judged("all", "ab", "ba", "ab")
    assert list(found.pairs()) == [("a", "b", 0), ("a", "b", 1), ("b", "a", 0)] and found.left_out() == {}


@pytest.mark.parametrize("rule", ["majority", "all"])
@given(votes=st.lists(st.permutations("abc").map(lambda letters: "".join(letters[:2])), max_size=30))
def test_pairs_and_what_is_left_out_are_all_judgements(rule: RepeatRule, votes: list[str]) -> None:
    found = judged(rule, *votes)
    pairs = list(found.pairs())
    assert len(pairs) + found.left_out().total() == len(found) == len(votes)
    assert len(set(pairs)) == len(pairs)
    if rule == "majority":
        given_ = Counter(votes)
        assert {winner + loser for winner, loser, _ in pairs} == {v for v in given_ if given_[v] > given_[v[::-1]]}

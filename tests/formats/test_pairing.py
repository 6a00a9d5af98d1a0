from collections.abc import Callable
from pathlib import Path

import pytest

from agfsync.errors import FormatError
from agfsync.formats import NoPreference, Preference, pairing
from agfsync.pictures import BrokenPicture


def test_a_pair_set_names_no_picture_outside_of_its_folder(tmp_path: Path) -> None:
    assert pairing.inside(tmp_path, "a/b.png") == tmp_path / "a" / "b.png"
    for name in ("../secret.png", "/etc/passwd", "a/../../b.png"):
        with pytest.raises(FormatError, match="names a picture outside of its folder"):
            pairing.inside(tmp_path, name)


def test_a_columns_picture_is_bytes_or_a_name_or_both(tmp_path: Path) -> None:
    assert pairing.embedded(b"bytes", tmp_path) == b"bytes"
    assert pairing.embedded({"bytes": b"bytes", "path": "a.png"}, tmp_path) == b"bytes"
    assert pairing.embedded({"bytes": None, "path": "a.png"}, tmp_path) == tmp_path / "a.png"
    assert pairing.embedded("a.png", tmp_path) == tmp_path / "a.png"
    assert pairing.embedded({"bytes": None, "path": None}, tmp_path) == pairing.embedded(None, tmp_path) == b""


def test_both_pictures_of_a_pair_are_whole_or_it_is_told_why(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    jpeg = picture("blue", "JPEG")
    assert pairing.opened(Preference("p", tmp_path / "a.png", jpeg)) == (picture("red"), jpeg)
    broken = {tmp_path / "b.png": "missing image: No such file", b"": "missing image", jpeg[:-400]: "broken image"}
    for loser, says in broken.items():
        with pytest.raises(BrokenPicture, match=says):
            pairing.opened(Preference("p", jpeg, loser))


def test_of_ranked_pictures_every_two_are_a_pair_or_a_tie() -> None:
    found = list(pairing.by_rank("p", [b"a", b"b", b"c"], [2, 1, 2], "art"))
    assert found == [
        Preference("p", b"b", b"a", "art"),
        NoPreference("p", "tie", "art"),
        Preference("p", b"b", b"c", "art"),
    ]

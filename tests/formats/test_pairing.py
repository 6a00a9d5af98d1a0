from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from agfsync.files.images import BrokenImageError
from agfsync.formats import NoPreference, Preference, pairing


def test_a_columns_picture_is_bytes_or_a_name_or_both(tmp_path: Path) -> None:
    assert pairing.embedded(b"bytes", tmp_path) == b"bytes"
    assert pairing.embedded({"bytes": b"bytes", "path": "a.png"}, tmp_path) == b"bytes"
    assert pairing.embedded({"bytes": None, "path": "a.png"}, tmp_path) == tmp_path / "a.png"
    assert pairing.embedded("a.png", tmp_path) == tmp_path / "a.png"
    assert pairing.embedded({"bytes": None, "path": None}, tmp_path) == pairing.embedded(None, tmp_path) == b""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_may_be_a_text_in_base64_or_a_data_url(
    tmp_path: Path, picture: Callable[..., bytes], kind: str
) -> None:
    file = picture("red", kind)
    plain, safe = b64encode(file).decode(), urlsafe_b64encode(file).decode().rstrip("=")
    broken = "\n".join(plain[start : start + 76] for start in range(0, len(plain), 76))
    for text in (plain, safe, broken, f"data:image/{kind.lower()};base64,{plain}", f"data:;base64,{broken}"):
        assert pairing.embedded(text, tmp_path) == file
    assert pairing.embedded("data:image/png;base64,!!!", tmp_path) == b""
    # A name that looks like base64 is a name.
    assert pairing.embedded("iVBORw0KGgo/a", tmp_path) == tmp_path / "iVBORw0KGgo" / "a"


def test_both_pictures_of_a_pair_are_whole_or_it_is_told_why(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    jpeg = picture("blue", "JPEG")
    assert pairing.read_pictures(Preference("p", tmp_path / "a.png", jpeg)) == (picture("red"), jpeg)
    broken = {tmp_path / "b.png": "missing image: No such file", b"": "missing image", jpeg[:-400]: "broken image"}
    for loser, says in broken.items():
        with pytest.raises(BrokenImageError, match=says):
            pairing.read_pictures(Preference("p", jpeg, loser))


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
def test_what_is_no_picture_that_is_read_is_told_by_its_kind(data: bytes, says: str) -> None:
    with pytest.raises(BrokenImageError, match=f"^{says}"):
        pairing.read_pictures(Preference("p", data, data))


def test_of_ranked_pictures_every_two_are_a_pair_or_a_tie() -> None:
    found = list(pairing.by_rank("p", [b"a", b"b", b"c"], [2, 1, 2], "art"))
    assert found == [
        Preference("p", b"b", b"a", "art"),
        NoPreference("p", "tie", "art"),
        Preference("p", b"b", b"c", "art"),
    ]

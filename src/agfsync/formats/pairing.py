"""What pair sets have in common: their pictures, and how ranks make pairs. No format of its own."""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeGuard

from agfsync.files.images import BrokenImageError, decode_image
from agfsync.formats import TIE, NoPreference, Picture, Preference
from agfsync.formats.walking import locate

DATA_URL = re.compile(r"data:[^,]{0,200};base64,")
BASE64 = re.compile(r"(?:iVBORw0KGgo|[/_]9j[/_]|UklGR|R0lGOD|Qk|SUkq|TU0A|AAAA)[A-Za-z0-9+/=_\s-]*")
"""How a picture in base64 begins: PNG, JPEG, WebP, GIF, BMP, TIFF and those in the container of MP4."""
FEWER = "a prompt with fewer than two pictures"
SHORTEST = 64
"""Characters from which on such a text is a picture and no name."""

PICTURE_KINDS: Mapping[str, re.Pattern[bytes]] = {
    "BMP": re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "TIFF": re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    "AVIF": re.compile(rb".{4}ftyp(avif|avis)", re.DOTALL),
    "HEIC": re.compile(rb".{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "ICO": re.compile(rb"\0\0\x01\0"),
    "PSD": re.compile(rb"8BPS"),
    "SVG": re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", re.DOTALL),
    "PDF": re.compile(rb"%PDF"),
    "Git LFS pointer": re.compile(rb"version https://git-lfs"),
    "web page": re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE),
}
"""How files begin that aren't read as pictures, though people have them among theirs."""
LINK = re.compile(rb"(\.\.?[/\\])+[\w./\\-]+\s*")
"""What a link holds that became a file of its own when its folder was copied."""


def embedded(value: Any, *folders: Path) -> Picture:
    """Return a column's picture: its bytes, its name, base64 or a data URL, or datasets' struct of bytes and name.

    Raises:
        UnusableRow: a name outside of `folders`, see `locate`.
    """
    if isinstance(value, Mapping):
        return embedded(value.get("bytes") or value.get("path") or value.get("url"), *folders)
    if not isinstance(value, str):
        return value if isinstance(value, bytes) else b""
    if url := DATA_URL.match(value):
        return _decoded(value[url.end() :])
    if len(value) >= SHORTEST and BASE64.fullmatch(value):
        return _decoded(value)
    return locate(value, *folders) if value.strip() else b""


def _decoded(text: str) -> bytes:
    """Return the bytes that `text` is in base64, of either alphabet, padded or not; none where it is no base64."""
    plain = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def read_pictures(found: Preference) -> tuple[bytes, bytes]:
    """Return the files of a pair's winner and loser, both whole pictures.

    Raises:
        BrokenImageError: one of them isn't there or isn't one.
    """
    return _read(found.winner), _read(found.loser)


def _read(picture: Picture) -> bytes:
    if isinstance(picture, Path):
        try:
            picture = picture.read_bytes()
        except (OSError, ValueError) as failure:
            raise BrokenImageError(f"missing image: {getattr(failure, 'strerror', None) or failure}") from failure
    if not picture:
        raise BrokenImageError("missing image: the file holds none")
    if kind := kind_of(picture):
        raise BrokenImageError(kind)
    decode_image(picture)
    return picture


def kind_of(data: bytes) -> str:
    """Return why a file that begins like `data` isn't read, if that is for the kind that it is; else nothing."""
    kind = next((kind for kind, begins in PICTURE_KINDS.items() if begins.match(data[:4096])), "")
    if kind == "Git LFS pointer":
        return "missing image: it is a Git LFS pointer: fetch the file itself"
    if kind == "web page":
        return "broken image: it is a web page"
    if len(data) < 512 and LINK.fullmatch(data):
        return "missing image: it is a link that was copied as a file: copy the folder with its links"
    return f"unfit image: {kind} isn't read: make it PNG, WebP or JPEG" if kind else ""


def by_rank(
    prompt: str, pictures: Sequence[Picture], ranks: Sequence[Any], category: str, where: str = ""
) -> Iterator[Preference | NoPreference]:
    """Yield every two of a prompt's ranked pictures as a pair: the lower rank is better, equal ranks are a tie."""
    if len(pictures) < 2:
        yield NoPreference(prompt, FEWER, category, where)
    for (one, rank), (other, against) in combinations(zip(pictures, ranks, strict=True), 2):
        if not is_number(rank) or not is_number(against):
            yield NoPreference(prompt, "no rank", category, where)
        elif rank == against:
            yield NoPreference(prompt, TIE, category, where)
        else:
            yield Preference(prompt, *((one, other) if rank < against else (other, one)), category, where)


def is_number(value: Any) -> TypeGuard[float]:
    """True if `value` can be compared: NaN is what some programs write for a label that isn't there."""
    return isinstance(value, int | float) and value == value

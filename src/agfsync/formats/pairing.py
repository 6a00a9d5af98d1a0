"""Reads the images of pair sets, and turns ranks and repeated judgements into pairs. It isn't a format."""

import binascii
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any, Generic, Literal, TypeGuard, TypeVar

from agfsync.files.images import BrokenImageError, decode_image
from agfsync.formats import TIE, ImageSource, NoPreference, Preference
from agfsync.formats.paths import locate_image
from agfsync.records import digest

_K = TypeVar("_K", bound=Hashable)

TOO_FEW_IMAGES = "a prompt with fewer than two images"
SAME_IMAGE = "winner and loser are the same image"
REPEATED = "repeated judgement of the same two images"
OVERRULED = "overruled by most judgements of the same two images"
COPIED_LINK = re.compile(rb"(\.\.?[/\\])+[\w./\\-]+\s*")
"""The content of a symbolic link that was copied as a regular file."""

_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")
_BASE64 = re.compile(r"(?:iVBORw0KGgo|[/_]9j[/_]|UklGR|R0lGOD|Qk|SUkq|TU0A|AAAA)[A-Za-z0-9+/=_\s-]*")
"""An image in base64, by its beginning: PNG, JPEG, WebP, GIF, BMP, TIFF and formats in MP4's container."""
_SHORTEST_BASE64 = 64
"""A shorter text of this form is a file name."""
_OTHER_KINDS: Mapping[str, re.Pattern[bytes]] = {
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
"""Unsupported kinds of files that are often found among images -> their beginnings."""

_AGAINST = 1 << 32


def parse_image(value: Any, *folders: Path) -> ImageSource:
    """Return the image of a column's value: bytes, a name, base64, a data URL, or datasets' struct of bytes and path.

    Raises:
        UnusableRow: the name is outside of `folders`, see `locate_image`.
    """
    if isinstance(value, Mapping):
        return parse_image(value.get("bytes") or value.get("path") or value.get("url"), *folders)
    if not isinstance(value, str):
        return value if isinstance(value, bytes) else b""
    if url := _DATA_URL.match(value):
        return _decode_base64(value[url.end() :])
    if len(value) >= _SHORTEST_BASE64 and _BASE64.fullmatch(value):
        return _decode_base64(value)
    return locate_image(value, *folders) if value.strip() else b""


def _decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, padded or not; return no bytes if the text isn't base64."""
    plain = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def read_pair_images(found: Preference) -> tuple[bytes, bytes]:
    """Return the files of a pair's winner and loser, after checking that both are complete images.

    Raises:
        BrokenImageError: one of them is missing or isn't a complete image.
    """
    return read_image(found.winner), read_image(found.loser)


def read_image(image: ImageSource) -> bytes:
    """Return an image's file, after checking that it is a complete image.

    Raises:
        BrokenImageError: it is missing or isn't a complete image.
    """
    if isinstance(image, Path):
        try:
            image = image.read_bytes()
        except (OSError, ValueError) as failure:
            raise BrokenImageError(f"missing image: {getattr(failure, 'strerror', None) or failure}") from failure
    if not image:
        raise BrokenImageError("missing image: the file holds none")
    if reason := explain_kind(image):
        raise BrokenImageError(reason)
    decode_image(image)
    return image


def explain_kind(data: bytes) -> str:
    """Return the reason why `data` isn't read as an image; empty if it is none of the known unsupported kinds."""
    kind = next((kind for kind, begins in _OTHER_KINDS.items() if begins.match(data[:4096])), "")
    if kind == "Git LFS pointer":
        return "missing image: it is a Git LFS pointer: fetch the file itself"
    if kind == "web page":
        return "broken image: it is a web page"
    if len(data) < 512 and COPIED_LINK.fullmatch(data):
        return "missing image: it is a link that was copied as a file: copy the folder with its links"
    return f"unfit image: {kind} isn't read: make it PNG, WebP or JPEG" if kind else ""


def pair_by_rank(
    prompt: str, images: Sequence[ImageSource], ranks: Sequence[Any], category: str, where: str = ""
) -> Iterator[Preference | NoPreference]:
    """Yield all pairs of a prompt's ranked images: a lower rank is better, equal ranks are a tie."""
    if len(images) < 2:
        yield NoPreference(prompt, TOO_FEW_IMAGES, category, where)
    for (one, rank), (other, against) in combinations(zip(images, ranks, strict=True), 2):
        if not is_number(rank) or not is_number(against):
            yield NoPreference(prompt, "no rank", category, where)
        elif rank == against:
            yield NoPreference(prompt, TIE, category, where)
        else:
            yield Preference(prompt, *((one, other) if rank < against else (other, one)), category, where)


def is_number(value: Any) -> TypeGuard[float]:
    """Return True if `value` is a number other than NaN, which some programs write for a missing label."""
    return isinstance(value, int | float) and value == value


RepeatRule = Literal["majority", "all"]
"""The rule for several judgements of the same two images: one pair by majority, or one pair for each judgement."""


def image_key(caption: str, image: bytes) -> str:
    """Return the key of a caption's image; equal files have the same key."""
    return digest("pair set's picture", caption, blake2b(image, digest_size=16).hexdigest())


@dataclass(slots=True)
class Judgements(Generic[_K]):
    """Judgements, by the keys of the two images. Only two keys and a number per pair are in memory.

    >>> judgements = Judgements("majority")
    >>> for winner, loser in ("ab", "ab", "ba"):
    ...     judgements.add(winner, loser)
    >>> list(judgements.pairs())
    [('a', 'b', 0)]
    """

    rule: RepeatRule
    _votes: dict[tuple[_K, _K], int] = field(default_factory=dict)
    """(winner, loser) of the first judgement -> the votes that agree, plus `_AGAINST` times the votes that disagree"""

    def add(self, winner: _K, loser: _K) -> None:
        """Add a judgement."""
        if (loser, winner) in self._votes:
            self._votes[loser, winner] += _AGAINST
        else:
            self._votes[winner, loser] = self._votes.get((winner, loser), 0) + 1

    def __len__(self) -> int:
        return sum(map(sum, map(_split_votes, self._votes.values())))

    def pairs(self) -> Iterator[tuple[_K, _K, int]]:
        """Yield winner and loser of each pair, and the number of equal pairs before it (0 with the rule "majority")."""
        for (one, other), both in self._votes.items():
            votes, against = _split_votes(both)
            if self.rule == "all":
                yield from ((one, other, number) for number in range(votes))
                yield from ((other, one, number) for number in range(against))
            elif votes != against:
                yield (one, other, 0) if votes > against else (other, one, 0)

    def left_out(self) -> Counter[str]:
        """Return the number of judgements that don't become pairs, by reason."""
        counts: Counter[str] = Counter()
        for votes, against in map(_split_votes, self._votes.values() if self.rule == "majority" else ()):
            overruled = 0 if votes == against else min(votes, against)
            counts[TIE] += votes == against
            counts[OVERRULED] += overruled
            counts[REPEATED] += votes + against - 1 - overruled
        return +counts


def _split_votes(both: int) -> tuple[int, int]:
    against, votes = divmod(both, _AGAINST)
    return votes, against

"""The metadata of image files: removed without being read, except for the orientation.

Texts, colour profiles, previews and EXIF blocks do not affect any pixel that a model sees, and decoders fail on them:
Pillow refuses texts of more than a megabyte, and fails on inconsistent EXIF blocks. So the decoder gets the file
without them. Only the orientation's tag is read, here, so that the rest of the EXIF block can do no harm.
"""

import re
import struct
import zlib
from dataclasses import dataclass

PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SHAPING = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT"})
"""the ancillary chunks of a PNG that affect what is shown: transparent colours and frames"""
_EXIF_MARK = b"Exif\0\0"
_ORIENTATION, _SHORT = 0x0112, 3
"""the tag, and the only type that it may have"""
_MOST_ENTRIES = 1 << 12
"""how many entries of an EXIF directory are searched at most"""
_COMPLETE = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
"""the application segments that define a JPEG's colour space: marker -> beginning and least size in bytes"""
_APPLICATION = frozenset({*range(0xE0, 0xF0), 0xFE})
"""the markers of a JPEG's application segments and comments"""
_NEXT_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
"""A marker, except restart markers and the escaped 0xFF (FF 00), which occur within a JPEG's pixels."""
_SCAN, _END, _ALONE = 0xDA, 0xD9, (0x01, 0xD8)
"""the markers before the pixels and at the end of the image, and those without a segment"""


class DamagedFileError(ValueError):
    """An image file that is incomplete, or has a wrong checksum."""


@dataclass(frozen=True, slots=True)
class Essence:
    """An image file without the data that affects no pixel, and its EXIF block, if any."""

    file: bytes
    exif: bytes = b""


def extract_essence(file: bytes) -> Essence:
    """Return the part of `file` that a decoder needs; for a WebP and for unknown formats this is the whole file.

    Raises:
        DamagedFileError: a checksum of a PNG is wrong, or the end of a JPEG is missing. struct.error: a PNG ends early.
    """
    if file.startswith(PNG):
        return _extract_png(file)
    if file.startswith(_JPEG):
        return _extract_jpeg(file)
    return Essence(file)


def read_orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block, 1 to 8; 1 (upright) if it has none.

    Only a single value of the type SHORT counts, as in browsers (EXIF 3.0, 4.6.4). No other tag is used.
    """
    while exif.startswith(_EXIF_MARK):
        exif = exif[len(_EXIF_MARK) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (place,) = struct.unpack_from(f"{order}I", exif, 4)
    if place + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(f"{order}H", exif, place)
    for entry in range(place + 2, min(place + 2 + 12 * min(count, _MOST_ENTRIES), len(exif) - 9), 12):
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", exif, entry)
        if tag == _ORIENTATION:
            return value if (kind, values) == (_SHORT, 1) and 1 <= value <= 8 else 1
    return 1


def _extract_png(png: bytes) -> Essence:
    """Return the chunks of a PNG that affect its pixels. The checksum of every chunk is verified."""
    place, kept, exif = len(PNG), [PNG], b""
    kind = b""
    while kind != b"IEND":
        size, kind = struct.unpack_from(">I4s", png, place)
        end = place + 12 + size
        content = memoryview(png)[place + 8 : end - 4]
        if zlib.crc32(content, zlib.crc32(kind)) != struct.unpack_from(">I", png, end - 4)[0]:
            raise DamagedFileError("a checksum is wrong")
        if not kind[0] & 0x20 or kind in _SHAPING:  # critical chunks have a capital first letter
            kept.append(png[place:end])
        elif kind == b"eXIf":
            exif = exif or bytes(content)
        place = end
    return Essence(b"".join(kept), exif)


def _extract_jpeg(jpeg: bytes) -> Essence:
    """Return the first image of a JPEG; data after its end, such as a preview, is also removed."""
    place, kept, exif = 2, [_JPEG], b""
    # There may be fill bytes between segments, which every decoder skips.
    while found := _NEXT_MARKER.search(jpeg, place):
        begin, place = found.span()
        marker = jpeg[place - 1]
        if marker in _ALONE:
            continue
        content = _read_segment(jpeg, place)
        place += 2 + len(content)
        if marker == _SCAN:
            kept.append(jpeg[begin : _find_end_of_scans(jpeg, place)])
            return Essence(b"".join(kept), exif)
        if marker not in _APPLICATION or _is_complete(marker, content):
            kept.append(jpeg[begin:place])
        elif marker == 0xE1 and content.startswith(_EXIF_MARK):
            exif = exif or content
    raise DamagedFileError("its end is missing")


def _read_segment(jpeg: bytes, place: int) -> bytes:
    """Return the content of the segment at `place`, where its length is."""
    size = int.from_bytes(jpeg[place : place + 2])
    content = jpeg[place + 2 : place + size]
    if size < 2 or len(content) != size - 2:
        raise DamagedFileError("its end is missing")
    return content


def _is_complete(marker: int, content: bytes) -> bool:
    begins, least = _COMPLETE.get(marker, (b"", 0))
    return bool(begins) and content.startswith(begins) and len(content) >= least


def _find_end_of_scans(jpeg: bytes, place: int) -> int:
    """Return the end of an image, given the start of its first scan's data at `place`.

    Raises:
        DamagedFileError: the end is missing.
    """
    while found := _NEXT_MARKER.search(jpeg, place):
        if jpeg[found.end() - 1] == _END:
            return found.end()
        place = found.end() + 2 + len(_read_segment(jpeg, found.end()))
    raise DamagedFileError("its end is missing")

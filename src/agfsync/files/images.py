"""Encode and decode images, only in formats that are safe to open.

A file is accepted if its image is unambiguous: a complete PNG, WebP or JPEG of one still image, 8 bits per channel,
opaque, in grey, palette or RGB, of a reasonable size. The image is rotated by its EXIF orientation, since people have
seen and rated it that way. Images that can't be converted to RGB without a guess are refused with the reason: 16 bits
per channel, CMYK, transparent parts, several frames. Data after the end of the image, colour profiles, texts and the
rest of the EXIF are ignored, as the models ignore them.

The checksums of all chunks of a PNG are verified. WebP and JPEG have none: only missing data is detected.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageOps

from agfsync.files.metadata import PNG, DamagedFileError, extract_essence, read_orientation

_FORMATS = ("PNG", "WEBP", "JPEG")
MOST_PIXELS = 1 << 25
"""The most pixels of an image, 100 MB as RGB; a whole batch of images is in memory at a time."""
_MOST_SLENDER = 64
"""The greatest ratio of the sides: a scorer scales the shorter side to 224 pixels or more, and so the longer one."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> the transposition that makes the image upright; Pillow counts degrees anticlockwise."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""a PNG's colour type -> its number of channels"""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""the passes of an interlaced PNG (Adam7): first column and row, steps between columns and rows"""


class BrokenImageError(ValueError):
    """Bytes that are not a complete image of a known format, or an image with ambiguous colours."""


def encode_png(image: Image.Image) -> bytes:
    """Return `image` as RGB PNG, lossless. Level 1 is five times faster than the default, and hardly larger."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def encode_pngs(images: Sequence[Image.Image]) -> list[bytes]:
    """Return each of `images` as PNG, several encoded in parallel."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(encode_png, images))


def fit_to_size(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return `image` scaled to fill this size and cropped at the centre; unchanged if it has this size."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def measure_cut(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Return how much `fit_to_size` crops at the top and at the left, in pixels of the scaled image."""
    scale = max(width / image.width, height / image.height)
    return round((image.height * scale - height) / 2), round((image.width * scale - width) / 2)


def decode_image(data: bytes) -> Image.Image:
    """Return the RGB image in `data`, a PNG, WebP or JPEG, upright.

    Raises:
        BrokenImageError: the image is incomplete, or isn't accepted (see the module's docstring).
    """
    try:
        essence = extract_essence(data)
        with Image.open(io.BytesIO(essence.file), formats=_FORMATS) as image:
            _check_size(*image.size)
            _check_kind(image, data)
            if data.startswith(PNG):
                _check_rows(essence.file)
            turn = _TURNS.get(read_orientation(essence.exif or image.info.get("exif", b"")))
            shown = _convert_opaque(image)
            return shown if turn is None else shown.transpose(turn)
    except (BrokenImageError, MemoryError):
        raise
    except DamagedFileError as failure:
        raise BrokenImageError(f"broken image: {failure}") from failure
    except Exception as failure:  # Decoders may raise any exception.
        name = type(failure).__name__
        raise BrokenImageError(f"broken image: {'it is damaged' if name == 'error' else name}") from failure


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise BrokenImageError(f"broken image: {width} x {height} is more than {MOST_PIXELS} pixels")
    if max(width, height) > _MOST_SLENDER * min(width, height):
        raise BrokenImageError(f"broken image: {width} x {height} is too slender for an image")


def _check_kind(image: Image.Image, data: bytes) -> None:
    # A JPEG may also hold several images, such as a preview: every viewer shows the first.
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise BrokenImageError("unfit image: it is animated")
    # Pillow reads 16-bit colour as 8-bit, but 16-bit grey as white: only the header shows the depth.
    if image.mode.startswith(("I", "F")) or (data.startswith(PNG) and data[24] == 16):
        raise BrokenImageError("unfit image: it has 16 bits a channel: make it 8")
    if image.mode == "CMYK":
        raise BrokenImageError("unfit image: its colours are CMYK: make it RGB")


def _convert_opaque(image: Image.Image) -> Image.Image:
    """Return `image` in RGB. Raises BrokenImageError if it isn't opaque."""
    if image.mode == "P" and max(image.tobytes()) >= len(image.getpalette() or ()) // 3:
        raise BrokenImageError("broken image: it has colours that aren't in its palette")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise BrokenImageError("unfit image: it has transparent parts: put it on a background")
    return image.convert("RGB")


def _check_rows(png: bytes) -> None:
    """Check that a PNG has all its rows: Pillow accepts a PNG with missing rows, and shows them black."""
    place, inflated, pixels = len(PNG), 0, zlib.decompressobj()
    header: tuple[int, ...] = ()
    while place < len(png):
        size, kind = struct.unpack_from(">I4s", png, place)
        content, place = memoryview(png)[place + 8 : place + 8 + size], place + 12 + size
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", content)
        elif kind == b"IDAT":
            # One byte too many is enough to refuse the file: the rest could be gigabytes.
            inflated += len(pixels.decompress(content, _count_bytes(*header) - inflated + 1))
    if not pixels.eof or inflated != _count_bytes(*header):
        raise BrokenImageError("broken image: it has not as many rows as it says")


def _count_bytes(width: int, height: int, depth: int, colour: int, _: int, __: int, interlaced: int) -> int:
    """Return the size in bytes of a PNG's inflated pixels: each row of each pass begins with a byte for its filter."""
    size = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        size += rows * (1 + -(-columns * _CHANNELS[colour] * depth // 8)) if columns > 0 else 0
    return size

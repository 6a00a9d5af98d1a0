"""Files that aren't good images, each under a name that says why, and good ones that look odd."""

import base64
import gzip
import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CUTS = 12
"""places at which each good file is cut"""
FOREIGN = ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PCX", "SGI", "JPEG2000", "AVIF", "ICNS", "DDS", "PDF", "EPS")
FOREIGN_TEXTS = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>',
    "html": b"<!doctype html><html><body><img src=x onerror=alert(1)></body></html>",
    "psd": b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 16, 16, 8, 3) + bytes(64),
    "json": b'{"image": "cat.png"}',
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07nothing\x94.",
    "elf": b"\x7fELF" + bytes(60),
    "riff of sound": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28),
    "icc": struct.pack(">I4s", 128, b"lcms") + bytes(28) + b"acsp" + bytes(88),
    "error page": b"429 Too Many Requests",
}
SIZES = (
    *((0, 0), (0, 16), (16, 0), (1, 100_000), (100_000, 1), (60_000, 60_000), (12_000, 10_000), (10_000, 9_000)),
    *((2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1), (8000, 8000), (16, 17), (17, 16)),
    *((15, 16), (16, 15), (160, 160), (16, 1025), (4096, 4096), (1, 1)),
)
"""That a header gives where the pixels are of 16 x 16."""


def make_image(width: int = 16, height: int = 16, mode: str = "RGB") -> Image.Image:
    """A gradient with a bar, so that turning or cutting it shows."""
    gradient = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    gradient.paste("red", (0, 0, width // 2, height // 4))
    return gradient.convert(mode)


def saved(image: Image.Image, kind: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def chunk(kind: bytes, content: bytes, spoil: int = 0) -> bytes:
    """A PNG's chunk; `spoil` is added to its checksum."""
    checksum = (zlib.crc32(content, zlib.crc32(kind)) + spoil) % 2**32
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width: int, height: int, pixels: bytes, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """A PNG of these inflated `pixels`, whatever its header says."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")
    return SIGNATURE + parts


def rows(width: int, height: int, pixel: bytes = b"\x40\x80\xc0") -> bytes:
    return (b"\0" + pixel * width) * height


@cache
def whole() -> dict[str, bytes]:
    """A good file of every kind."""
    plain = make_image(48, 32)
    return {
        **{f"png {mode}": saved(plain.convert(mode), "PNG") for mode in ("1", "L", "P", "RGB", "RGBA", "LA")},
        "jpeg": saved(plain, "JPEG"),
        "jpeg progressive": saved(plain, "JPEG", progressive=True),
        "jpeg grey": saved(plain.convert("L"), "JPEG"),
        "webp": saved(plain, "WEBP"),
        "webp lossless": saved(plain, "WEBP", lossless=True),
    }


@cache
def odd_but_good() -> dict[str, bytes]:
    """Good images that are easily taken for bad ones, or the other way round."""
    plain = make_image(48, 32)
    exif = {turn: Image.Exif() for turn in range(1, 9)}
    for turn, each in exif.items():
        each[0x0112] = turn
    odd = {f"turned {turn} {kind}": saved(plain, kind, exif=e) for turn, e in exif.items() for kind in ("PNG", "WEBP")}
    odd |= {f"{name}, then garbage": file + b"garbage" * 9 for name, file in whole().items()}
    interlaced = _interlaced(5, 3)
    return odd | {
        "with a preview": saved(plain, "MPO", save_all=True, append_images=[plain.resize((8, 8))]),
        "interlaced": interlaced,
        "4 bits": png(3, 2, b"\0\x12\x30" * 2, depth=4, colour=0),
        "pixels in many chunks": _in_pieces(whole()["png RGB"]),
        "as slender as may be": saved(make_image(64, 1), "PNG"),
        "of one pixel": saved(make_image(1, 1), "PNG"),
    }


@cache
def malformed() -> dict[str, bytes]:
    """Files that must be refused, by what is wrong with them."""
    return {
        **{f"{name} cut at {place}": file[:place] for name, file in whole().items() for place in _cuts(len(file))},
        **{f"really a {kind}": saved(make_image(), kind) for kind in FOREIGN},
        **{f"really {name}": data for name, data in FOREIGN_TEXTS.items()},
        **{f"header says {w} x {h}": png(w, h, rows(16, 16)) for w, h in SIZES},
        **{
            f"jpeg says {w} x {h}": _resized_jpeg(w, h) for w, h in ((0, 0), (0, 9), (60_000, 60_000), (65_535, 65_535))
        },
        **{f"{name} of zeros": bytes(size) for name, size in (("nothing", 0), ("a byte", 1), ("a megabyte", 1 << 20))},
        **dict(_garbage()),
        **dict(_depths_and_colours()),
        **dict(_frames()),
        **dict(_spoilt_pngs()),
        **dict(_bombs()),
        **dict(_mangled()),
    }


def _cuts(length: int) -> set[int]:
    return {length * place // CUTS for place in range(CUTS)} | {length - 1}


def _garbage() -> Iterator[tuple[str, bytes]]:
    for name in ("png RGB", "jpeg", "webp lossless"):
        for seed in range(8):
            head = whole()[name][: 12 + 4 * seed]
            yield f"{name}, garbage after {len(head)} bytes", head + random.Random(seed).randbytes(400)
    yield "noise", random.Random(9).randbytes(4000)


def _depths_and_colours() -> Iterator[tuple[str, bytes]]:
    for colour, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        yield f"16 bits, {channels} channels", png(8, 8, rows(8, 8, b"\x80\x01" * channels), depth=16, colour=colour)
    yield "16 bits of grey by Pillow", saved(Image.new("I;16", (8, 8), 40_000), "PNG")
    for progressive in (False, True):
        name = f"cmyk{', progressive' if progressive else ''}"
        yield name, saved(make_image(mode="CMYK"), "JPEG", progressive=progressive)
    half = make_image(mode="RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    for kind in ("PNG", "WEBP"):
        yield f"transparent {kind}", saved(half, kind)
    yield "transparent grey", saved(half.convert("LA"), "PNG")
    yield "a transparent colour", saved(Image.new("RGB", (8, 8), (3, 4, 5)), "PNG", transparency=(3, 4, 5))
    yield "a transparent grey", saved(Image.new("L", (8, 8), 3), "PNG", transparency=3)
    yield "a transparent palette", saved(make_image(mode="P"), "PNG", transparency=0)
    yield "colours beyond the palette", saved(Image.new("P", (8, 8), 3), "PNG")
    for depth, colour in ((3, 0), (8, 1), (8, 5), (16, 3), (4, 2), (32, 2), (0, 0)):
        yield f"depth {depth} of colour type {colour}", png(8, 8, rows(8, 8), depth=depth, colour=colour)


def _frames() -> Iterator[tuple[str, bytes]]:
    for kind in ("PNG", "WEBP", "GIF"):
        for count in (2, 3, 9):
            frames = [make_image().rotate(10 * n) for n in range(count)]
            yield f"{kind} of {count} frames", saved(frames[0], kind, save_all=True, append_images=frames[1:])


def _spoilt_pngs() -> Iterator[tuple[str, bytes]]:
    file = whole()["png RGB"]
    parts = _parts(file)
    for place, (kind, content) in enumerate(parts):
        others = [chunk(*each) for each in parts]
        spoilt = [*others[:place], chunk(kind, content, spoil=1), *others[place + 1 :]]
        yield f"wrong checksum of {kind!r}", SIGNATURE + b"".join(spoilt)
        yield f"no {kind!r}", SIGNATURE + b"".join(others[:place] + others[place + 1 :])
    yield "chunks in reverse", SIGNATURE + b"".join(chunk(*each) for each in reversed(parts))
    yield "a chunk of 4 GB", file[:8] + b"\xff\xff\xff\xff" + file[12:]
    yield "pixels of noise", SIGNATURE + chunk(*parts[0]) + chunk(b"IDAT", b"noise" * 9) + chunk(b"IEND", b"")
    for bit in range(0, 8 * len(file), len(file) // 5):
        flipped = bytearray(file)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(flipped)


def _bombs() -> Iterator[tuple[str, bytes]]:
    for edge in (8000, 13_000):
        yield f"bomb of {edge} pixels square", png(edge, edge, bytes((3 * edge + 1) * edge))
    yield "pixels that inflate to 200 MB", png(16, 16, bytes(200_000_000))


@cache
def passed_over() -> dict[str, bytes]:
    """Good images beside which lies what nobody reads, and what Pillow refuses to read."""
    good, files = whole()["png RGB"], dict[str, bytes]()
    for kind in (b"zTXt", b"iCCP", b"iTXt"):
        middle = b"name\0\1\0\0\0" if kind == b"iTXt" else b"name\0\0"
        for name, size in (("100 MB", 100_000_000), ("5 MB", 5_000_000)):
            text = chunk(kind, middle + zlib.compress(bytes(size), 1))
            files[f"{kind!r} that inflates to {name}"] = good[:33] + text + good[33:]
        files[f"{kind!r} of noise"] = good[:33] + chunk(kind, middle + random.Random(3).randbytes(99)) + good[33:]
    many = b"".join(chunk(b"tEXt", b"name\0" + bytes(1 << 20)) for _ in range(70))
    files["70 MB of texts"] = good[:33] + many + good[33:]
    files["texts after the pixels"] = good[:-12] + chunk(b"tEXt", b"name\0" + b"x" * (3 << 20)) + good[-12:]
    for kind in (b"tEXt", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"bKGD", b"eXIf", b"hIST", b"sBIT", b"prVt"):
        files[f"{kind!r} without content"] = good[:33] + chunk(kind, b"") + good[33:]
    jpeg = whole()["jpeg"]
    segments = {
        0xE0: b"JFIF\0",
        0xE1: b"http://ns.adobe.com/xap/1.0/\0<",
        0xE2: b"MPF\0II*\0",
        0xED: b"Photoshop 3.0\0",
    }
    for marker, content in {**segments, 0xEE: b"Adobe", 0xFE: b"\xff\xda\xff\xd9"}.items():
        segment = bytes((0xFF, marker)) + struct.pack(">H", 2 + len(content)) + content
        files[f"jpeg with a spoilt {content!r}"] = jpeg[:2] + segment + jpeg[2:]
    return files


def _mangled() -> Iterator[tuple[str, bytes]]:
    for name, file in whole().items():
        yield f"{name} in base64", base64.b64encode(file)
        yield f"{name} in a data URI", b"data:image/png;base64," + base64.b64encode(file)
        yield f"{name}, gzipped", gzip.compress(file, mtime=0)
        yield f"{name} as UTF-8", file.decode("latin-1").encode()
        yield f"{name} behind a mark", b"\xef\xbb\xbf" + file


def _parts(file: bytes) -> list[tuple[bytes, bytes]]:
    place, parts = len(SIGNATURE), []
    while place < len(file):
        (size,) = struct.unpack_from(">I", file, place)
        parts.append((file[place + 4 : place + 8], file[place + 8 : place + 8 + size]))
        place += size + 12
    return parts


def _in_pieces(file: bytes) -> bytes:
    head, *_, end = _parts(file)
    pixels = b"".join(content for kind, content in _parts(file) if kind == b"IDAT")
    pieces = [(b"IDAT", pixels[start : start + 7]) for start in range(0, len(pixels), 7)]
    return SIGNATURE + b"".join(chunk(*each) for each in (head, *pieces, end))


def _interlaced(width: int, height: int) -> bytes:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = [(len(range(x, width, across)), len(range(y, height, down))) for x, y, across, down in passes]
    return png(width, height, b"".join(rows(w, h) for w, h in sizes if w), interlaced=1)


def _resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose frame header says another size."""
    file = bytearray(whole()["jpeg"])
    place = file.index(b"\xff\xc0")
    file[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(file)

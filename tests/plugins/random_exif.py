"""EXIF blocks full of rubbish, and what they nevertheless say of the orientation.

`nice -n 15 python tests/plugins/random_exif.py 12000` tries that many in JPEG, PNG and WebP; a test tries 300.
"""

import io
import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

Turn = Callable[[np.ndarray], np.ndarray]

TURNED: Mapping[int, Turn] = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
"""What makes pixels HWC upright, by the orientation that EXIF gives for how they are stored."""
TAGS = (0x010E, 0x010F, 0x0100, 0x0112, 0x011A, 0x011B, 0x0131, 0x0213, 0x8769, 0x8825, 0xA005, 0x927C, 0x9286, 0xEA1C)
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}


def directory(entries: list[tuple[int, int, int, bytes]], order: str = "<", tail: bytes = b"") -> bytes:
    """A TIFF of one directory; an entry is its tag, type, number of values, and four bytes."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries) + tail


def turned_by(value: int, order: str = "<") -> tuple[int, int, int, bytes]:
    """The entry that turns an image as it should be done."""
    return 0x0112, 3, 1, struct.pack(f"{order}HH", value, 0)


def random_block(rng: random.Random) -> bytes:
    """A block that is nearly right, spoilt, or noise."""
    how = rng.random()
    if how < 0.1:
        return rng.randbytes(rng.randrange(60))
    order = rng.choice("<>")
    entries = [_random_entry(rng) for _ in range(rng.randrange(12))]
    if rng.random() < 0.7:
        entries.insert(rng.randint(0, len(entries)), turned_by(rng.randrange(11), order))
    block = directory(entries, order, rng.randbytes(rng.randrange(80)))
    if how < 0.3:
        return block[: rng.randrange(len(block))]
    if how < 0.5:
        spoilt = bytearray(block)
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        return bytes(spoilt)
    return block


def _random_entry(rng: random.Random) -> tuple[int, int, int, bytes]:
    tag = rng.choice(TAGS) if rng.random() < 0.7 else rng.randrange(1 << 16)
    kind = rng.choice([*SIZES, 0, 14, 255, 65535])
    count = rng.choice([0, 1, 1, 2, 3, 8, 99, 1 << 16, (1 << 32) - 1])
    value = rng.choice([rng.randbytes(4), struct.pack("<I", rng.randrange(200)), struct.pack(">I", rng.randrange(200))])
    return tag, kind, count, value


def orientation(block: bytes) -> int:
    """Read by the letter, another way than the product does: entry by entry, from slices."""
    endian = {b"II*\0": "little", b"MM\0*": "big"}.get(block[:4])
    if endian is None or len(block) < 8:
        return 1

    def number(start: int, size: int) -> int:
        return int.from_bytes(block[start : start + size], endian)  # type: ignore[arg-type]

    first = number(4, 4)
    if len(block) < first + 2:
        return 1
    starts = range(first + 2, min(len(block) - 9, first + 2 + 12 * number(first, 2)), 12)
    found = [start for start in starts if number(start, 2) == 0x0112]
    if not found or (number(found[0] + 2, 2), number(found[0] + 4, 4)) != (3, 1):
        return 1
    return value if 1 <= (value := number(found[0] + 8, 2)) <= 8 else 1


def stored(width: int = 24, height: int = 16) -> Image.Image:
    """An image whose every turn is another one, also after JPEG."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.paste("red", (0, 0, width // 3, height // 4))
    return image


def in_jpeg(block: bytes) -> bytes:
    file = io.BytesIO()
    stored().save(file, "JPEG", quality=95)
    content = b"Exif\0\0" + block
    return file.getvalue()[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content + file.getvalue()[2:]


def in_png(block: bytes) -> bytes:
    file = io.BytesIO()
    stored().save(file, "PNG")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    return file.getvalue()[:33] + chunk + file.getvalue()[33:]


def in_webp(block: bytes) -> bytes:
    """Put together by hand: a writer might mend what is to be rubbish."""
    file = io.BytesIO()
    stored().save(file, "WEBP", lossless=True)
    pixels = file.getvalue()[12:]
    size = (24 - 1).to_bytes(3, "little") + (16 - 1).to_bytes(3, "little")
    chunks = _riff(b"VP8X", b"\x08\0\0\0" + size) + pixels + _riff(b"EXIF", block)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _riff(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


INTO = {"JPEG": in_jpeg, "PNG": in_png, "WEBP": in_webp}


def faults(count: int, seed: int = 0) -> Counter[str]:
    """What is wrong after `count` blocks, each in every kind of file: crashes, refusals, wrong turns."""
    from agfsync.files.images import BrokenImageError, decode_image

    plain = {kind: np.asarray(decode_image(into(b""))) for kind, into in INTO.items()}
    rng, found = random.Random(seed), Counter[str]()
    for _ in range(count):
        block = random_block(rng)
        for kind, into in INTO.items():
            try:
                shown = np.asarray(decode_image(into(block)))
            except BrokenImageError as refusal:
                found[f"{kind} refused: {refusal}"] += 1
            except Exception as crash:
                found[f"{kind} crashed: {type(crash).__name__}"] += 1
            else:
                found[f"{kind} wrong"] += not np.array_equal(shown, TURNED[orientation(block)](plain[kind]))
                found[f"turned {orientation(block)}"] += 1
    return found


if __name__ == "__main__":
    print(dict(faults(int(sys.argv[1]))))

"""What surrounds the pixels: passed over, but for the orientation."""

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed_images import chunk, passed_over, whole
from PIL import Image
from random_exif import INTO, TURNED, directory, faults, orientation, stored, turned_by

from agfsync.files.images import BrokenImageError, decode_image
from agfsync.files.metadata import extract_essence, read_orientation

CASES = Path(__file__).parents[2] / "shared" / "cases"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", INTO)
def test_an_image_is_turned_by_the_tag(kind: str, value: int, order: str) -> None:
    upright = np.asarray(decode_image(INTO[kind](b"")))
    assert np.abs(upright.astype(int) - np.asarray(stored())).mean() <= (8 if kind == "JPEG" else 0)
    for prefix in (b"", b"Exif\0\0"):
        block = prefix + directory([turned_by(value, order)], order)
        assert np.array_equal(np.asarray(decode_image(INTO[kind](block))), TURNED[value](upright))


WRONG = {
    "text": (0x0112, 2, 2, b"6\0\0\0"),
    "rational": (0x0112, 5, 1, struct.pack("<I", 26)),
    "two values": (0x0112, 3, 2, struct.pack("<HH", 6, 6)),
    "no value": (0x0112, 3, 0, struct.pack("<HH", 6, 0)),
    "byte": (0x0112, 1, 1, b"\6\0\0\0"),
    "long": (0x0112, 4, 1, struct.pack("<I", 6)),
    "signed": (0x0112, 8, 1, struct.pack("<hH", 6, 0)),
    "undefined": (0x0112, 7, 1, b"\6\0\0\0"),
    "0": turned_by(0),
    "9": turned_by(9),
    "65535": turned_by(65535),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", INTO)
def test_a_tag_of_another_type_or_range_turns_nothing(kind: str, name: str) -> None:
    block = directory([WRONG[name]], tail=struct.pack("<II", 6, 1))
    assert decode_image(INTO[kind](block)).tobytes() == decode_image(INTO[kind](b"")).tobytes()


@pytest.mark.parametrize(
    ("block", "value"),
    [
        (b"", 1),
        (b"Exif\0\0", 1),
        (b"II*\0", 1),
        (b"II*\0\xff\xff\xff\xff", 1),
        (b"MM\0*\0\0\0\x08\xff\xff", 1),
        (b"XX" + directory([turned_by(6)])[2:], 1),
        (directory([turned_by(6)])[:-2], 6),
        (directory([turned_by(6)])[:-3], 1),
        (directory([turned_by(3), turned_by(6)]), 3),
        (directory([(0x8769, 4, 1, b"\xff\xff\xff\xff"), turned_by(8)]), 8),
        (b"Exif\0\0Exif\0\0" + directory([turned_by(5)]), 5),
    ],
)
def test_a_block_that_is_cut_or_lies_is_read_as_far_as_it_goes(block: bytes, value: int) -> None:
    assert read_orientation(block) == value


def test_random_blocks_break_nothing_and_turn_as_they_say() -> None:
    found = faults(300, seed=1)
    turned = {name: count for name, count in found.items() if name.startswith("turned")}
    assert sum(turned.values()) == 900 and len(turned) == 8
    assert all(count == 0 for name, count in found.items() if name not in turned), found


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_bytes_of_any_kind_are_some_orientation(block: bytes) -> None:
    for each in (block, b"II*\0\x08\0\0\0" + block, b"MM\0*\0\0\0\x08" + block):
        assert read_orientation(each) == orientation(each) in range(1, 9)


@pytest.mark.slow
def test_what_nobody_reads_is_passed_over_whatever_it_is() -> None:
    for name, file in passed_over().items():
        plain = whole()["jpeg" if name.startswith("jpeg") else "png RGB"]
        assert decode_image(file).tobytes() == decode_image(plain).tobytes(), name
    assert len(passed_over()) >= 25


def test_it_is_not_even_inflated() -> None:
    file = passed_over()["b'zTXt' that inflates to 100 MB"]
    tracemalloc.start()
    decode_image(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_but_its_checksum_is_verified() -> None:
    good = whole()["png RGB"]
    for kind in (b"zTXt", b"iCCP", b"eXIf", b"prVt"):
        with pytest.raises(BrokenImageError, match="a checksum is wrong"):
            decode_image(good[:33] + chunk(kind, b"name\0\0", spoil=1) + good[33:])


def test_what_shapes_the_pixels_is_kept() -> None:
    for name, file in whole().items():
        essence = extract_essence(file).file
        with Image.open(io.BytesIO(file)) as before, Image.open(io.BytesIO(essence)) as after:
            assert before.convert("RGBA").tobytes() == after.convert("RGBA").tobytes(), name
    clear = Image.new("P", (8, 8), 3)
    clear.putpalette(bytes(range(30)))
    file = io.BytesIO()
    clear.save(file, "PNG", transparency=3)
    with pytest.raises(BrokenImageError, match="transparent"):
        decode_image(file.getvalue())


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "jpeg grey"])
def test_a_jpeg_ends_at_its_end_whatever_lies_before_and_after_it(name: str) -> None:
    good = whole()[name]
    preview = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(good)) + b"Exif\0\0" + good  # which has an end of its own
    for tail in (b"", b"\xff\xda garbage", good[: len(good) // 2]):
        assert decode_image(good[:2] + preview + good[2:] + tail).tobytes() == decode_image(good).tobytes()
    for cut in range(len(good) // 3, len(good) - 1, 37):
        with pytest.raises(BrokenImageError):
            decode_image(good[:2] + preview + good[2:cut])


def test_whatever_a_decoder_raises_is_a_broken_image_but_not_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for failure in (AttributeError, ZeroDivisionError, KeyError, RecursionError, AssertionError, NotImplementedError):
        monkeypatch.setattr(Image.Image, "convert", _raising(failure))
        with pytest.raises(BrokenImageError, match=f"broken image: {failure.__name__}"):
            decode_image(whole()["jpeg"])
    monkeypatch.setattr(Image.Image, "convert", _raising(MemoryError))
    with pytest.raises(MemoryError):
        decode_image(whole()["jpeg"])


def _raising(failure: type[Exception]) -> object:
    def convert(*_: object, **__: object) -> None:
        raise failure

    return convert


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases aren't here")
def test_the_cases_as_they_were_met() -> None:
    """Pillow#8363 and #7839."""
    for path in sorted(CASES.glob("I1-big-text/*/*.png")):
        assert decode_image(path.read_bytes()).size == (24, 16)
    turned = {path.stem: decode_image(path.read_bytes()).size for path in CASES.glob("I2-exif/winner/*.jpg")}
    upright = {"orient-rational", "orient-text", "orient-two"}
    assert len(turned) == 15
    assert {name: (24, 16) if name in upright else (16, 24) for name in turned} == turned
    unfit = {"cmyk", "empty", "half", "html", "sixteen", "webpalpha"}
    for path in CASES.glob("I3-kinds/winner/*.*"):
        if path.suffix != ".txt" and path.stem not in unfit:
            decode_image(path.read_bytes())
        elif path.suffix != ".txt":
            with pytest.raises(BrokenImageError):
                decode_image(path.read_bytes())

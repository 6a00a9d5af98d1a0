import io

import pytest
from PIL import Image

from agfsync.files import images
from agfsync.files.images import BrokenImageError, decode_image, encode_png, fit_to_size, measure_cut

IMAGE = Image.linear_gradient("L").convert("RGB")


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    IMAGE.save(buffer, format=kind)
    return buffer.getvalue()


def test_what_is_encoded_comes_back_to_the_pixel() -> None:
    assert decode_image(encode_png(IMAGE)).tobytes() == IMAGE.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_known_formats_are_opened(kind: str) -> None:
    assert decode_image(saved(kind)).size == IMAGE.size


@pytest.mark.parametrize(
    "data", [b"", b"nothing", saved("GIF"), saved("TIFF"), saved("PNG")[:300], saved("JPEG")[:300]]
)
def test_anything_else_is_broken(data: bytes) -> None:
    with pytest.raises(BrokenImageError, match="broken image"):
        decode_image(data)


def test_an_image_too_large_to_be_meant_well_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_png(IMAGE)
    monkeypatch.setattr(images, "MOST_PIXELS", 40_000)
    with pytest.raises(BrokenImageError, match="256 x 256 is more than 40000 pixels"):
        decode_image(data)


def test_an_image_is_fitted_by_scaling_and_cutting_evenly() -> None:
    wide = Image.new("RGB", (30, 10), "red")
    wide.paste("blue", (9, 0, 21, 10))
    assert fit_to_size(wide, 30, 10) is wide
    small = fit_to_size(wide, 5, 5)
    assert small.size == (5, 5) and small.getpixel((2, 2))[2] > 250


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (12, 8), (7, 7), (20, 10)])
def test_what_is_cut_off_is_what_the_image_no_longer_shows(size: tuple[int, int]) -> None:
    """Of an image whose colours are its coordinates the first pixel tells where it comes from."""
    width, height = size
    image = Image.new("RGB", size)
    image.putdata([(2 * x, 2 * y, 0) for y in range(height) for x in range(width)])
    top, left = measure_cut(image, 10, 5)
    red, green, _ = fit_to_size(image, 10, 5).getpixel((0, 0))
    scale = max(10 / width, 5 / height)
    # The middle of the first pixel, half a pixel after what was cut off; a whole one of the source is 2 of colour.
    assert (red / 2 + 0.5) * scale == pytest.approx(left + 0.5, abs=0.55)
    assert (green / 2 + 0.5) * scale == pytest.approx(top + 0.5, abs=0.55)
    assert measure_cut(image, width, height) == (0, 0)

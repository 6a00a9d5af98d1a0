"""Pictures to pair, and the real files of public benchmarks where they lie beside the checkout."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """The file of a picture of one colour."""

    def make(color: str = "red", kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, color).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def real() -> Callable[[str], Path]:
    """A real file by its name; the test is skipped where there is none."""

    def find(name: str) -> Path:
        if not (SHARED / name).is_file():
            pytest.skip(f"no {name} in {SHARED}: the files of others aren't part of this project")
        return SHARED / name

    return find

"""Images to pair, and the real files of public benchmarks, if they lie next to the checkout."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from agfsync.formats import Dataset, WrittenPair
from agfsync.records import Caption, Question

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def image_file() -> Callable[..., bytes]:
    """The file of an image of one colour."""

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


@pytest.fixture
def dataset(image_file: Callable[..., bytes]) -> Dataset:
    """Six captions, four questions on the first two, and a pair of each caption: red wins over blue, the last ties."""
    captions = [Caption(f"c{i}", f"prompt {i}", "odd" if i % 2 else "even", "train") for i in range(6)]
    asked = [("c0", "Is it red?", "It"), ("c0", "Is it there?", "it"), ("c0", "Is there a cat?", "cat")]
    questions = [Question(t, key, t, "yes", element, "object") for key, t, element in asked]
    questions.append(Question("q", "c1", "Is it red?", "yes", "", "color"))
    pairs = [
        WrittenPair(
            key=f"p{i}",
            prompt=caption.text,
            category=caption.category,
            winner=image_file("red"),
            loser=image_file("blue"),
            winner_key=f"w{i}",
            loser_key=f"l{i}",
            winner_score=50.0,
            loser_score=50.0 if i == 5 else 20.0,
            winner_model="a model",
            loser_model="a model",
            of_prompt=1,
        )
        for i, caption in enumerate(captions)
    ]
    return Dataset("name", "2026-01-02T03:04:05+00:00", {"images": "a model"}, captions, questions, iter(pairs))

"""What every scorer that loads a model keeps to."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_language import FakeServer

from agfsync import catalog
from agfsync.errors import AgfsyncError, ModelError
from agfsync.files.images import encode_png
from agfsync.recipe import Server
from agfsync.scorers import Item, Measurement, Scorer, Unscored
from agfsync.scorers.batch import ImageToScore, decode_images, score_images
from agfsync.stages.spending import ACCOUNT

MODELS: dict[str, dict[str, str]] = {
    "vqa": {"path": "t5"},
    "vlm": {"path": "vlm"},
    "vqascore": {"path": "vlm"},
    "clip": {"path": "clip"},
    "aesthetic": {"path": "clip", "head": "aesthetic"},
    "pickscore": {"path": "clip"},
    "hpsv2": {"path": "clip", "weights": "hps.safetensors"},
    "hpsv2.1": {"path": "clip", "weights": "hps.safetensors"},
    "hpsv3": {"path": "qwen2", "weights": "HPSv3.safetensors"},
    "imagereward": {"path": "matcher", "weights": "reward.safetensors"},
    "vp-score": {"path": "matcher", "weights": "reward.safetensors"},
}
Build = Callable[[str], Scorer]
NAMES = [
    name
    for name, place in catalog.CATALOG["scorers"].items()
    if place.startswith("agfsync.scorers.") and ".annotators." not in place and name != "unifiedreward"
]
"""All but the one whose model has to write sentences, which random weights don't."""


@pytest.fixture
def build(folders: Path, onlooker: FakeServer) -> Build:
    """Makes the scorer of a name as a stage does."""

    def make(name: str) -> Scorer:
        settings: dict[str, Any] = {key: str(folders / place) for key, place in MODELS.get(name, {}).items()}
        if name not in MODELS:
            settings = {"path": "fake", "server": Server(base_url=onlooker.url).model_dump(exclude=ACCOUNT)}
        made: Scorer = catalog.build("scorers", settings | {"type": name, "revision": None, "device": "cpu"})
        return made

    return make


def _values(scorer: Scorer, items: list[Item]) -> list[float]:
    results = scorer.score(items)
    assert all(isinstance(result, Measurement) for result in results)
    return [result.value for result in results if isinstance(result, Measurement)]


@pytest.mark.parametrize("name", NAMES)
def test_values_are_numbers_from_0_to_100(name: str, build: Build, items: list[Item]) -> None:
    values = _values(build(name), items)
    assert len(values) == len(items)
    assert all(math.isfinite(value) and 0 <= value <= 100 for value in values)
    assert len(set(values)) > 2, "images of noise should not all be worth the same"


@pytest.mark.parametrize("name", NAMES)
def test_an_item_is_worth_the_same_in_any_batch_and_order(name: str, build: Build, items: list[Item]) -> None:
    scorer = build(name)
    together = _values(scorer, items)
    alone = [_values(scorer, [item])[0] for item in items]
    backwards = _values(scorer, items[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-3)
    assert together == pytest.approx(backwards, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_image_has_a_reason_and_leaves_the_others_alone(name: str, build: Build, items: list[Item]) -> None:
    scorer = build(name)
    files = [encode_png(items[0].image), encode_png(items[1].image)[:-40], encode_png(items[2].image)]
    images = [
        ImageToScore(f"s{n}", f"c{n}", item.prompt, item.questions, image)
        for n, (item, image) in enumerate(zip(items, decode_images(files), strict=False))
    ]
    first, middle, last = (judged.score for judged in score_images(scorer, name, images))
    assert (middle.value, middle.reason) == (None, "broken image: it is damaged")
    assert [first.value, last.value] == pytest.approx(_values(scorer, [items[0], items[2]]), abs=1e-3)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "vqa"])
def test_half_precision_is_worth_nearly_the_same(name: str, dtype: str, folders: Path, items: list[Item]) -> None:
    settings = {key: str(folders / place) for key, place in MODELS[name].items()} | {"device": "cpu"}
    full, half = (catalog.find("scorers", name)(**settings, dtype=each) for each in ("fp32", dtype))
    assert _values(half, items) == pytest.approx(_values(full, items), abs=4 if dtype == "bf16" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_no_items_no_results(name: str, build: Build) -> None:
    assert list(build(name).score([])) == []


@pytest.mark.parametrize("name", NAMES)
def test_only_a_scorer_that_asks_needs_questions(name: str, build: Build, items: list[Item]) -> None:
    scorer = build(name)
    mute = [items[0], Item(items[1].prompt, (), items[1].image), items[2]]
    first, middle, last = scorer.score(mute)
    assert isinstance(first, Measurement)
    assert isinstance(last, Measurement)
    assert (middle == Unscored("no questions")) == scorer.asks_questions


@pytest.mark.parametrize("name", NAMES)
def test_grey_transparent_and_oblong_images_are_judged(name: str, build: Build, items: list[Item]) -> None:
    images = [items[0].image.convert(mode) for mode in ("L", "RGBA", "P")]
    images += [items[0].image.resize(size) for size in ((8, 64), (64, 8), (1, 1))]
    assert len(_values(build(name), [Item("a star", items[0].questions, image) for image in images])) == 6


@pytest.mark.parametrize("name", MODELS)
def test_a_missing_model_is_one_line(name: str, folders: Path, tmp_path: Path) -> None:
    settings = {key: str(folders / place) for key, place in MODELS[name].items()}
    for model in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError, match=str(model)) as raised:
            catalog.find("scorers", name)(**settings | {"path": str(model)})
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, places in MODELS.items() for key in places if key != "path"]
)
def test_missing_weights_are_one_line(name: str, key: str, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"a pickle")
    settings = {"path": str(folders / MODELS[name]["path"]), "device": "cpu"}
    for place in (tmp_path / "nowhere", tmp_path, tmp_path / "weights.pt"):
        with pytest.raises(ModelError, match=str(place)) as raised:
            catalog.find("scorers", name)(**settings | {key: str(place)})
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["vqa", "clip"])
def test_a_head_where_there_is_none_is_an_error(name: str, folders: Path) -> None:
    with pytest.raises(AgfsyncError, match=f"a {name} scorer has no head: leave out head"):
        catalog.build("scorers", {"type": name, "path": str(folders / "clip"), "head": "embedded:aesthetic"})


def test_a_models_kind_is_checked(folders: Path) -> None:
    for name, wrong in (("clip", "t5"), ("vqa", "clip"), ("imagereward", "clip"), ("hpsv2", "blip"), ("hpsv3", "clip")):
        with pytest.raises(ModelError, match=f"{wrong} is a .* model: "):
            catalog.find("scorers", name)(path=str(folders / wrong), device="cpu")

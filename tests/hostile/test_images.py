"""Hundreds of files that aren't good images, thrown at all that takes one: none gets in, and none breaks it."""

import dataclasses
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import malformed_images
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from malformed_images import make_image, malformed, odd_but_good, saved, whole
from PIL import Image, ImageOps

from agfsync.errors import BudgetError
from agfsync.files.images import BrokenImageError, decode_image
from agfsync.formats import Preference
from agfsync.formats.binarized import Binarized
from agfsync.formats.folders import Folders
from agfsync.formats.pairing import read_pair_images
from agfsync.formats.pick_a_pic import PickAPic
from agfsync.records import IMAGE, Candidate, add_huggingface_metadata
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.batch import ImageToScore, decode_images, score_images
from agfsync.stages import candidates, captions
from agfsync.stages.context import Context

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


@pytest.fixture(scope="module")
def bad() -> Mapping[str, bytes]:
    return malformed()


@pytest.fixture
def good() -> bytes:
    return saved(make_image(), "PNG")


def refused(files: Mapping[str, bytes], take: Callable[[bytes], Any]) -> Counter[str]:
    """The reasons for which `take` refused `files`, all of them."""
    accepted, reasons = [], Counter[str]()
    for name, file in files.items():
        try:
            take(file)
            accepted.append(name)
        except BrokenImageError as reason:
            reasons[str(reason)] += 1
    assert not accepted
    return reasons


def test_no_malformed_image_is_accepted_and_each_says_why(bad: Mapping[str, bytes]) -> None:
    reasons = refused(bad, decode_image)
    assert reasons.total() == len(bad) >= 200
    assert all("\n" not in reason and reason.startswith(("broken image: ", "unfit image: ")) for reason in reasons)
    for kind in ("animated", "16 bits", "CMYK", "transparent", "slender", "checksum", "pixels", "rows", "palette"):
        assert any(kind in reason for reason in reasons), kind
    print(f"\nmalformed images: {len(bad)} tried, 0 accepted, 0 crashed; {dict(reasons)}")


def test_good_images_that_look_odd_are_what_they_show() -> None:
    for name, file in (whole() | odd_but_good()).items():
        shown = decode_image(file)
        with Image.open(io.BytesIO(file)) as image:
            assert shown.mode == "RGB", name
            assert shown.tobytes() == ImageOps.exif_transpose(image).convert("RGB").tobytes(), name


def test_an_image_is_turned_as_its_exif_says() -> None:
    upright = decode_image(odd_but_good()["turned 1 PNG"])
    turned = decode_image(odd_but_good()["turned 6 PNG"])
    assert turned.size == upright.size[::-1]
    assert turned.tobytes() == upright.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_a_scorer_is_shown_none_of_them_and_the_good_ones_keep_their_place(
    bad: Mapping[str, bytes], good: bytes
) -> None:
    class Width:
        asks_questions = False

        def score(self, items: Sequence[Item]) -> Sequence[Measurement | Unscored]:
            return [Measurement(item.image.width) for item in items]

    files = [file for each in bad.values() for file in (each, good)]
    images = [ImageToScore(f"s{n}", f"c{n}", "", (), image) for n, image in enumerate(decode_images(files))]
    scores = [each.score for each in score_images(Width(), "width", images)]
    assert [each.value for each in scores[1::2]] == [16.0] * len(bad)
    assert all(each.value is None and each.reason for each in scores[0::2])


def test_no_pair_set_gives_one_as_a_pair(tmp_path: Path, bad: Mapping[str, bytes], good: bytes) -> None:
    struct = [{"prompt": n, "chosen": {"bytes": file}, "rejected": {"bytes": good}} for n, file in bad.items()]
    labelled = [
        {"caption": name, "jpg_0": good, "jpg_1": file, "label_0": 0.0, "label_1": 1.0} for name, file in bad.items()
    ]
    pq.write_table(pa.Table.from_pylist(struct), tmp_path / "struct.parquet")
    pq.write_table(pa.Table.from_pylist(labelled), tmp_path / "labelled.parquet")
    for format_, name in ((Binarized(), "struct"), (PickAPic(), "labelled")):
        pairs = list(format_.pairs(tmp_path / f"{name}.parquet"))
        assert all(isinstance(pair, Preference) for pair in pairs)
        files = {str(n): pair for n, pair in enumerate(pairs)}
        assert refused(files, read_pair_images).total() == len(bad)  # type: ignore[arg-type]


def test_a_wrong_type_under_a_right_name_is_no_pair(tmp_path: Path, bad: Mapping[str, bytes], good: bytes) -> None:
    for number, file in enumerate(bad.values()):
        for side, content in (("winner", file), ("loser", good)):
            path = tmp_path / side / f"{number}{('.png', '.jpg', '.jpeg', '.webp')[number % 4]}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            path.with_suffix(".txt").write_text(f"a picture of {number}")
    pairs = {str(n): pair for n, pair in enumerate(Folders().pairs(tmp_path))}
    assert refused(pairs, read_pair_images).total() == len(bad)  # type: ignore[arg-type]


def test_the_candidates_of_a_run_hold_none_of_them_and_the_run_counts_why(
    context: Context, make_recipe: Any, tmp_path: Path, bad: Mapping[str, bytes], good: bytes
) -> None:
    """A Hugging Face dataset, whose schema says that its columns are images."""
    rows = [
        {"prompt": f"prompt {number}", "chosen": {"bytes": file}, "rejected": {"bytes": good}}
        for number, file in enumerate(bad.values())
    ]
    other = saved(make_image(24, 24), "PNG")
    rows.insert(100, {"prompt": "a good one", "chosen": {"bytes": other}, "rejected": {"bytes": good}})
    schema = pa.schema([("prompt", pa.string()), ("chosen", IMAGE), ("rejected", IMAGE)])
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, add_huggingface_metadata(schema)), tmp_path / "set" / "train.parquet")
    given = dataclasses.replace(
        context, recipe=make_recipe(pairs={"source": str(tmp_path / "set")}, failure_budget=1.0)
    )
    captions.run(given)
    notes = candidates.run(given)
    kept = {c.key: c for c in given.run.read("candidates", Candidate)}
    assert {c.image for c in kept.values()} == {good, other}
    assert (notes["pairs"], sum(notes["left_out"].values())) == (1, len(bad))
    strict = dataclasses.replace(context, recipe=make_recipe(pairs={"source": str(tmp_path / "set")}))
    with pytest.raises(BudgetError, match=rf"candidates: {len(bad)} of {len(bad) + 1} pairs skipped: .* image: "):
        candidates.run(strict)


def test_what_a_run_keeps_is_read_by_datasets(tmp_path: Path) -> None:
    """Every odd but good image is one to Hugging Face's reader too, and of the same pixels."""
    files = [odd_but_good()[f"turned {turn} PNG"] for turn in range(1, 9)]
    schema = pa.schema([("image", IMAGE)])
    rows = [{"image": {"bytes": file, "path": None}} for file in files]
    pq.write_table(pa.Table.from_pylist(rows, add_huggingface_metadata(schema)), tmp_path / "train.parquet")
    read = datasets.load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "c"))
    for file, row in zip(files, read["train"], strict=True):
        assert row["image"].convert("RGB").tobytes() == decode_image(file).tobytes()


def test_the_files_are_made_and_not_copied() -> None:
    assert len(set(malformed().values())) >= 200
    assert not set(malformed().values()) & set((whole() | odd_but_good()).values())
    assert malformed_images.CUTS >= 10

"""Which images are shown, and what is said of them."""

import base64
import io
import os
from typing import Any

from PIL import Image

from agfsync.records import Pair
from agfsync.stages.report import galleries
from agfsync.stages.report.evidence import gather_evidence
from agfsync.stages.report.galleries import find_extremes, make_data_uris, spread_pairs


def png(edge: int, noise: bool = False) -> bytes:
    file = io.BytesIO()
    image = (
        Image.frombytes("RGB", (edge, edge), os.urandom(3 * edge * edge)) if noise else Image.new("RGB", (edge, edge))
    )
    image.save(file, "PNG")
    return file.getvalue()


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def pair(number: int) -> Pair:
    return Pair(f"{number}", f"c{number}", "w", "l", float(number), 0.0, float(number))


def test_gains_and_losses_are_the_ends_of_the_judges_range(made_up: Any) -> None:
    context = made_up(train=3, held_out=90)
    evidence = gather_evidence(context.run, context.recipe)
    gain = {
        c.caption_key: c.aligned - c.base for c in evidence.comparisons if c.judge == "oracle" and not c.element_type
    }
    best, worst = find_extremes(evidence, "oracle", 6)
    assert len(best) == len(worst) == 3
    assert [gain[key] for key in best] == sorted(gain.values(), reverse=True)[:3]
    assert [gain[key] for key in worst] == sorted(gain.values())[:3]


def test_a_caption_that_did_not_move_is_neither_gain_nor_loss(made_up: Any) -> None:
    context = made_up(train=3, skill={"base": 1.0, "aligned": 1.0})
    assert find_extremes(gather_evidence(context.run, context.recipe), "oracle", 6) == ([], [])


def test_without_a_judge_the_weighted_sum_ranks(made_up: Any) -> None:
    context = made_up(train=3, held_out=90, oracle=False)
    best, worst = find_extremes(gather_evidence(context.run, context.recipe), None, 6)
    assert len(best) == len(worst) == 3


def test_pairs_shown_run_from_the_widest_margin_to_the_narrowest() -> None:
    assert [int(p.margin) for p in spread_pairs([pair(n) for n in range(1, 10)], 3)] == [9, 5, 1]
    assert [int(p.margin) for p in spread_pairs([pair(1), pair(2)], 3)] == [2, 1]
    assert len(spread_pairs([pair(1), pair(2)], 1)) == 1
    assert spread_pairs([], 3) == []


def test_small_images_stay_as_they_are() -> None:
    image = png(64)
    (uri,) = make_data_uris({"a": image}).values()
    assert uri.startswith("data:image/png;base64,")
    assert base64.b64decode(uri.partition(",")[2]) == image


def test_large_images_are_brought_down() -> None:
    image = opened(make_data_uris({"a": png(1024)})["a"])
    assert (image.format, image.size) == ("WEBP", (384, 384))


def test_a_format_is_known_by_its_first_bytes() -> None:
    files = {}
    for kind in ("PNG", "WEBP", "JPEG"):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, kind)
        files[kind.lower()] = file.getvalue()
    assert all(uri.startswith(f"data:image/{kind};") for kind, uri in make_data_uris(files).items())


def test_many_images_keep_to_the_budget(monkeypatch: Any) -> None:
    monkeypatch.setattr(galleries, "BUDGET", 200_000)
    uris = make_data_uris({str(i): png(256, noise=True) for i in range(8)})
    assert len(uris) == 8
    assert sum(map(len, uris.values())) < 280_000


def test_a_broken_image_is_left_out() -> None:
    assert set(make_data_uris({"broken": b"\x89PNG nothing", "whole": png(8)})) == {"whole"}

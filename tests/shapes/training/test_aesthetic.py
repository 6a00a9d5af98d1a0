import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agfsync.scorers import Item, Measurement
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.shapes.drawing import draw
from agfsync.shapes.scene import Scene
from agfsync.shapes.training import aesthetic, clip
from agfsync.shapes.training.aesthetic import BEST, WORST, rating, spoil
from agfsync.shapes.training.loop import Plan
from agfsync.shapes.training.tokenizers import clip_tokenizer

WAYS = [aesthetic._blur, aesthetic._grain, aesthetic._wash, aesthetic._coarsen, aesthetic._bend]


def damage(image: Image.Image, spoilt: Image.Image) -> float:
    return float(np.abs(np.asarray(image, float) - np.asarray(spoilt, float)).mean())


def test_degree_zero_leaves_a_picture_as_it_is(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    for scene in scenes(10):
        image = draw(scene)
        assert spoil(image, 0.0, rng).tobytes() == image.tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_spoils_more_by_degrees(
    way: Callable[..., Image.Image], scenes: Callable[[int], Iterator[Scene]]
) -> None:
    images = [draw(scene) for scene in scenes(8)]
    harm = [
        np.mean([damage(image, way(image, degree, random.Random(n))) for n, image in enumerate(images)])
        for degree in (0.05, 0.3, 0.6, 1.0)
    ]
    assert harm[0] > 0 and harm == sorted(harm) and harm[-1] > 3
    spoilt = way(images[0], 0.5, random.Random(0))
    assert spoilt.size == (64, 64) and spoilt.mode == "RGB"
    assert spoilt.tobytes() == way(images[0], 0.5, random.Random(0)).tobytes()


def test_all_ways_come_up(scenes: Callable[[int], Iterator[Scene]]) -> None:
    image = draw(next(scenes(1)))
    ways = {way(image, 1.0, rng).tobytes() for way in WAYS if way is not aesthetic._grain for rng in [random.Random(0)]}
    assert len(ways) == 4
    assert len({spoil(image, 1.0, random.Random(n)).tobytes() for n in range(30)}) > 8


def test_the_rating_falls_from_best_to_worst() -> None:
    assert [rating(degree) for degree in (0.0, 0.5, 1.0)] == [BEST, (BEST + WORST) / 2, WORST]


@pytest.mark.slow
def test_what_is_taught_is_a_head_that_the_scorer_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aesthetic, "POOL", 100)
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    model = clip.build(tokenizer).eval()
    plan = Plan("aesthetic", steps=30, batch=32, learning_rate=1e-2, ema=0.5)
    told: list[float] = []
    head = aesthetic.teach(model, tmp_path, lambda step, figures: told.append(figures["rating error"]), plan)
    assert told[-1] < told[0]
    model.save_pretrained(tmp_path / "clip")
    clip.processor(tokenizer).save_pretrained(tmp_path / "clip")
    head.half().save(tmp_path / "aesthetic")
    scorer = Aesthetic(model=str(tmp_path / "clip"), head=str(tmp_path / "aesthetic"))
    (word,) = scorer.score([Item("", (), Image.new("RGB", (64, 64), "white"))])
    assert isinstance(word, Measurement) and 0 < word.value <= 100

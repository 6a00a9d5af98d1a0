"""What scorers of one model share, and what they don't."""

import gc
import math
from pathlib import Path

import pytest
import torch

from agfsync.scorers import Item, Unscored
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.backbone import Backbone, measure_likeness, share_backbone
from agfsync.scorers.clip import Clip
from agfsync.scorers.pickscore import PickScore


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass through a vision tower had."""
    counts: list[int] = []
    embed = Backbone._embed_images
    monkeypatch.setattr(
        Backbone, "_embed_images", lambda self, images: counts.append(len(images)) or embed(self, images)
    )
    return counts


def test_scorers_of_one_model_see_an_image_once(folders: Path, items: list[Item], seen: list[int]) -> None:
    model = str(folders / "clip")
    scorers = (
        Clip(path=model, device="cpu"),
        Aesthetic(path=model, head=str(folders / "aesthetic"), device="cpu"),
        PickScore(path=model, device="cpu"),
    )
    apart = measure_likeness(Backbone(model, device="cpu"), items)
    seen.clear()
    results = [scorer.score(items[:4]) for scorer in scorers]
    results += [scorer.score(items[2:]) for scorer in scorers]
    assert seen == [4, 5]
    assert [each.value for each in results[0]] == pytest.approx([each.value for each in apart[:4]], abs=1e-3)
    assert results[0] == results[2]


def test_other_weights_dtypes_and_revisions_are_other_models(folders: Path) -> None:
    model = str(folders / "clip")
    first = share_backbone(model, None, "fp32", "cpu")
    assert share_backbone(model, None, "fp32", "cpu") is first
    others = [
        share_backbone(model, None, "bf16", "cpu"),
        share_backbone(model, "main", "fp32", "cpu"),
        share_backbone(model, None, "fp32", "cpu", str(folders / "hps.safetensors")),
    ]
    assert len({id(each) for each in (first, *others)}) == 4


def test_a_model_that_nobody_uses_is_let_go(folders: Path) -> None:
    scorer = Clip(path=str(folders / "clip"), dtype="fp16", device="cpu")
    key = (str(folders / "clip"), None, "fp16", "cpu", None)
    from agfsync.scorers.backbone import _OPEN

    assert key in _OPEN
    del scorer
    gc.collect()
    assert key not in _OPEN


def test_an_image_is_known_by_itself_and_not_by_its_place(folders: Path, items: list[Item], seen: list[int]) -> None:
    model = Backbone(str(folders / "clip"), device="cpu")
    a, b, c = (item.image for item in items[:3])
    first = model.embed_images([a, b, a])
    second = model.embed_images([c, b])
    assert seen == [2, 1]
    assert torch.equal(first[0], first[2]) and torch.equal(first[1], second[1])
    assert not torch.allclose(second[0], first[0], atol=1e-3)
    assert torch.allclose(model.embed_images([a])[0], first[0], atol=1e-6)


def test_a_prompt_is_embedded_once(folders: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Backbone(str(folders / "clip"), device="cpu")
    embedded: list[str] = []
    embed = model._embed_texts
    monkeypatch.setattr(model, "_embed_texts", lambda prompts: embedded.extend(prompts) or embed(prompts))
    measure_likeness(model, [items[0], items[0], items[1]])
    measure_likeness(model, [items[1], items[2]])
    assert embedded == [items[0].prompt, items[1].prompt, items[2].prompt]


def test_the_width_is_that_of_the_embeddings(folders: Path, items: list[Item]) -> None:
    for kind, width in (("clip", 8), ("siglip", 16), ("siglip2", 16)):
        model = Backbone(str(folders / kind), device="cpu")
        assert model.embed_images([items[0].image]).shape == (1, width) == (1, model.width)


def test_what_is_no_number_is_unscored(folders: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    model = Backbone(str(folders / "clip"), device="cpu")
    monkeypatch.setattr(model, "embed_images", lambda images: torch.full((len(images), 8), math.nan))
    assert measure_likeness(model, items[:1]) == [Unscored("the model's embedding is not a number")]

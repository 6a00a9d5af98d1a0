from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agfsync.files.tensors import read_tensors, write_tensors
from agfsync.training.batches import EncodedPairs, draw_rows_of_step

CPU = torch.device("cpu")


def test_every_pair_comes_up_once_an_epoch() -> None:
    rows = torch.cat([draw_rows_of_step(0, step, 4, 10) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    assert draw_rows_of_step(0, 0, 7, 3).bincount().tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


def test_order_follows_from_seed_and_step() -> None:
    assert torch.equal(draw_rows_of_step(1, 3, 8, 100), draw_rows_of_step(1, 3, 8, 100))
    assert not torch.equal(draw_rows_of_step(1, 3, 8, 100), draw_rows_of_step(2, 3, 8, 100))


def test_winners_come_first_and_losers_under_the_same_prompts(pairs: EncodedPairs) -> None:
    batch = pairs.make_batch(torch.tensor([4, 1]), CPU)
    assert torch.equal(batch.latents_BCHW, pairs.latents_ICHW[[4, 1, 9, 6]])
    (name,) = pairs.conditioning
    assert torch.equal(batch.conditioning[name], pairs.conditioning[name][[1, 1, 1, 1]])


def test_what_is_told_of_images_is_each_ones_own_and_stands_for_the_prompts(pairs: EncodedPairs) -> None:
    (name,) = pairs.conditioning
    sizes = torch.arange(10.0).view(10, 1)
    told = replace(pairs, image_conditioning={"sizes": sizes, name: torch.zeros(10, 2)})
    batch = told.make_batch(torch.tensor([4, 1]), CPU, dropped=torch.tensor([True, False]))
    assert torch.equal(batch.conditioning["sizes"], sizes[[4, 1, 9, 6]])
    assert torch.equal(batch.conditioning[name], torch.zeros(4, 2))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_latents_come_back_as_they_lay_in_memory(
    pairs: EncodedPairs, tmp_path: Path, layout: torch.memory_format
) -> None:
    path, latents = tmp_path / "images.safetensors", pairs.latents_ICHW.contiguous(memory_format=layout)
    replace(pairs, latents_ICHW=latents).save(path, "a")
    kept = EncodedPairs.load(path, "a")
    assert kept is not None and torch.equal(kept.latents_ICHW, latents)
    assert kept.latents_ICHW.stride() == latents.stride()


def test_a_cache_without_a_format_counts_as_none(pairs: EncodedPairs, tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    replace(pairs, image_conditioning={"sizes": torch.arange(10.0)}).save(path, "a")
    kept, raw = EncodedPairs.load(path, "a"), read_tensors(path)
    assert kept is not None and torch.equal(kept.image_conditioning["sizes"], torch.arange(10.0))
    assert raw is not None
    write_tensors(path, raw.tensors, {"digest": "a"})
    assert EncodedPairs.load(path, "a") is None


def test_cache_comes_back_only_under_its_digest(pairs: EncodedPairs, tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    assert EncodedPairs.load(path, "a") is None
    pairs.save(path, "a")
    assert EncodedPairs.load(path, "b") is None
    kept = EncodedPairs.load(path, "a")
    assert kept is not None and len(kept) == 5
    rows = torch.tensor([0, 2])
    assert torch.equal(kept.make_batch(rows, CPU).latents_BCHW, pairs.make_batch(rows, CPU).latents_BCHW)
    assert kept.conditioning.keys() == pairs.conditioning.keys()
    path.write_bytes(path.read_bytes()[:-10])
    assert EncodedPairs.load(path, "a") is None

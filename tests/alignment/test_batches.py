from pathlib import Path

import torch

from agfsync.alignment.batches import EncodedPairs, rows_of_step

CPU = torch.device("cpu")


def test_every_pair_comes_up_once_an_epoch() -> None:
    rows = torch.cat([rows_of_step(0, step, 4, 10) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    assert rows_of_step(0, 0, 7, 3).bincount().tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


def test_order_follows_from_seed_and_step() -> None:
    assert torch.equal(rows_of_step(1, 3, 8, 100), rows_of_step(1, 3, 8, 100))
    assert not torch.equal(rows_of_step(1, 3, 8, 100), rows_of_step(2, 3, 8, 100))


def test_winners_come_first_and_losers_under_the_same_prompts(pairs: EncodedPairs) -> None:
    batch = pairs.batch(torch.tensor([4, 1]), CPU)
    assert torch.equal(batch.latents_BCHW, pairs.latents_ICHW[[4, 1, 9, 6]])
    (name,) = pairs.conditioning
    assert torch.equal(batch.conditioning[name], pairs.conditioning[name][[1, 1, 1, 1]])


def test_cache_comes_back_only_under_its_digest(pairs: EncodedPairs, tmp_path: Path) -> None:
    path = tmp_path / "pairs.safetensors"
    assert EncodedPairs.load(path, "a") is None
    pairs.save(path, "a")
    assert EncodedPairs.load(path, "b") is None
    kept = EncodedPairs.load(path, "a")
    assert kept is not None and len(kept) == 5
    rows = torch.tensor([0, 2])
    assert torch.equal(kept.batch(rows, CPU).latents_BCHW, pairs.batch(rows, CPU).latents_BCHW)
    assert kept.conditioning.keys() == pairs.conditioning.keys()
    path.write_bytes(path.read_bytes()[:-10])
    assert EncodedPairs.load(path, "a") is None

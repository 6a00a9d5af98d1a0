"""Diversity by hand, and CMMD against a naive second implementation."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from agfsync.errors import FormatError
from agfsync.stages.evaluation.spread import compare_cmmd, compute_cmmd, compute_diversity, list_reference

Embeddings = NDArray[np.float64]


def draw(count: int, width: int = 6, shift: float = 0.0, seed: int = 0) -> Embeddings:
    values = np.random.default_rng(seed).normal(size=(count, width)) + np.eye(1, width)[0] * shift
    found: Embeddings = values / np.linalg.norm(values, axis=1, keepdims=True)
    return found


def naive_cmmd(one: Embeddings, other: Embeddings) -> float:
    """Kernel by kernel, from the definition."""

    def kernel(x: Embeddings, y: Embeddings) -> float:
        return math.exp(-math.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * 10**2))

    def mean(a: Embeddings, b: Embeddings) -> float:
        return math.fsum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))

    return 1000 * (mean(one, one) + mean(other, other) - 2 * mean(one, other))


def test_cmmd_is_that_of_a_naive_implementation() -> None:
    one, other = draw(20), draw(31, shift=1.5, seed=1)
    assert compute_cmmd(one, other) == pytest.approx(naive_cmmd(one, other))
    assert compute_cmmd(one, one) == pytest.approx(0, abs=1e-9) and compute_cmmd(one, other) > 0.5


def test_rows_beyond_a_chunk_count(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = draw(20), draw(31, shift=1.5, seed=1)
    whole = compute_cmmd(one, other)
    monkeypatch.setattr("agfsync.stages.evaluation.spread._ROWS", 7)
    assert compute_cmmd(one, other) == pytest.approx(whole)


def test_diversity_is_the_mean_over_every_two() -> None:
    four = draw(4)
    by_hand = [1 - float(a @ b) for a, b in combinations(four, 2)]
    assert compute_diversity(four) == pytest.approx(100 * sum(by_hand) / 6)
    assert compute_diversity(np.repeat(four[:1], 3, axis=0)) == pytest.approx(0)


def test_the_interval_of_the_difference_holds_what_a_resampling_of_captions_gives() -> None:
    """The influence function's interval is about as wide as that of a bootstrap that computes CMMD anew."""
    reference = draw(60, shift=2.0, seed=5)
    base = [draw(2, shift=0.5, seed=10 + n) for n in range(40)]
    aligned = [draw(2, shift=1.2, seed=100 + n) for n in range(40)]
    found = compare_cmmd(base, aligned, reference, 500, 0)
    assert found["prompts"] == 40 and found["difference"] == pytest.approx(found["aligned"] - found["base"])
    assert found["low"] < found["difference"] < found["high"] < 0  # the aligned model's are closer
    draws, values = np.random.default_rng(0), []
    for _ in range(200):
        rows = draws.integers(0, 40, 40)
        one, other = (np.concatenate([each[n] for n in rows]) for each in (base, aligned))
        values.append(compute_cmmd(other, reference) - compute_cmmd(one, reference))
    assert found["high"] - found["low"] == pytest.approx(4 * float(np.std(values)), rel=0.35)


def test_a_reference_is_a_folder_of_images(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FormatError, match="isn't a folder with two images or more"):
            list_reference(folder)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert [file.name for file in list_reference(tmp_path)] == ["a.png", "b.png"]

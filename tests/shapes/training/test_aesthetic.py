from pathlib import Path

import pytest
import torch
from PIL import Image

from agfsync.scorers import Item, Measurement
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.heads import Head
from agfsync.shapes.training import aesthetic
from agfsync.shapes.training.aesthetic import (
    BEST,
    WORST,
    find_whitening,
    fold_whitening,
    measure_unevenness,
    prepare_aesthetic,
    rate_degree,
)
from agfsync.shapes.training.clip import build_clip, build_clip_processor
from agfsync.shapes.training.lessons import plan_lesson, teach
from agfsync.shapes.training.tokenizers import build_clip_tokenizer


def test_the_rating_falls_from_best_to_worst() -> None:
    assert [rate_degree(degree) for degree in (0.0, 0.5, 1.0)] == [BEST, (BEST + WORST) / 2, WORST]


def test_whitened_embeddings_vary_alike_in_every_direction_and_the_head_does_it_itself() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(4000, 6) * torch.tensor([5.0, 3.0, 1.0, 1.0, 0.5, 2.0]) + 4
    mean, whiten = find_whitening(embeddings)
    whitened = (embeddings - mean) @ whiten
    assert torch.allclose(torch.cov(whitened.T).diagonal(), torch.ones(6), atol=0.25)
    head = Head(6, (4,), activation="relu")
    expected = head(whitened)
    fold_whitening(head, mean, whiten)
    assert torch.allclose(head(embeddings), expected, atol=1e-4)


def test_erring_alike_on_every_number_of_things_is_even() -> None:
    counts = torch.tensor([1, 2, 1, 2])
    untouched = torch.tensor([True, True, False, False])
    assert measure_unevenness(torch.tensor([1.0, 1.0, -2.0, -2.0]), counts, untouched) == 0
    assert measure_unevenness(torch.tensor([1.0, 3.0, -2.0, -2.0]), counts, untouched) == 1
    assert measure_unevenness(torch.tensor([1.0]), counts[:1], untouched[:1]) == 0


@pytest.mark.slow
def test_a_head_learns_and_the_scorer_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_lesson(steps=30, batch=32, learning_rate=1e-2, ema=0.5)
    monkeypatch.setattr(aesthetic, "RATED_POOL", 100)
    monkeypatch.setattr(aesthetic, "AESTHETIC_PLAN", plan)
    torch.manual_seed(0)
    tokenizer = build_clip_tokenizer()
    build_clip(tokenizer).save_pretrained(tmp_path / "clip")
    build_clip_processor(tokenizer).save_pretrained(tmp_path / "clip")
    pupil = prepare_aesthetic(tmp_path)
    errors: list[float] = []
    teach(pupil, tmp_path / "checkpoints", lambda figures: errors.append(figures["rating error"]))
    assert errors[-1] < errors[0]
    pupil.save(tmp_path / "aesthetic")
    scorer = Aesthetic(path=str(tmp_path / "clip"), head=str(tmp_path / "aesthetic"))
    (score,) = scorer.score([Item("", (), Image.new("RGB", (64, 64), "white"))])
    assert isinstance(score, Measurement) and 0 < score.value <= 100

from pathlib import Path

import pytest
import torch
from PIL import Image

from agfsync.scorers import Item, Measurement
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.heads import Head
from agfsync.shapes.training import aesthetic, clip
from agfsync.shapes.training.aesthetic import BEST, WORST, _fold, _unevenness, _whitening, rating
from agfsync.shapes.training.loop import Plan
from agfsync.shapes.training.tokenizers import clip_tokenizer


def test_the_rating_falls_from_best_to_worst() -> None:
    assert [rating(degree) for degree in (0.0, 0.5, 1.0)] == [BEST, (BEST + WORST) / 2, WORST]


def test_whitened_embeddings_vary_alike_in_every_direction_and_the_head_does_it_itself() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(4000, 6) * torch.tensor([5.0, 3.0, 1.0, 1.0, 0.5, 2.0]) + 4
    mean, whiten = _whitening(embeddings)
    whitened = (embeddings - mean) @ whiten
    assert torch.allclose(torch.cov(whitened.T).diagonal(), torch.ones(6), atol=0.25)
    head = Head(6, (4,), activation="relu")
    expected = head(whitened)
    _fold(head, mean, whiten)
    assert torch.allclose(head(embeddings), expected, atol=1e-4)


def test_erring_alike_on_every_number_of_things_is_even() -> None:
    counts = torch.tensor([1, 2, 1, 2])
    untouched = torch.tensor([True, True, False, False])
    assert _unevenness(torch.tensor([1.0, 1.0, -2.0, -2.0]), counts, untouched) == 0
    assert _unevenness(torch.tensor([1.0, 3.0, -2.0, -2.0]), counts, untouched) == 1
    assert _unevenness(torch.tensor([1.0]), counts[:1], untouched[:1]) == 0


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
    scorer = Aesthetic(path=str(tmp_path / "clip"), head=str(tmp_path / "aesthetic"))
    (word,) = scorer.score([Item("", (), Image.new("RGB", (64, 64), "white"))])
    assert isinstance(word, Measurement) and 0 < word.value <= 100

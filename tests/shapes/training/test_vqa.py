import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from agfsync.scorers.vqa import Vqa
from agfsync.shapes.drawing import draw
from agfsync.shapes.scene import BACKGROUNDS, COLORS, MATERIALS, SHAPES, SIZES, Scene, Thing
from agfsync.shapes.training import vqa
from agfsync.shapes.training.tokenizers import word_tokenizer
from agfsync.shapes.training.vqa import CELLS, WIDTH, _Pupil, ask


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="module")
def pupil(tokenizer: PreTrainedTokenizerFast) -> _Pupil:
    torch.manual_seed(0)
    return _Pupil(vqa.build(tokenizer)).eval()


def test_half_of_what_is_asked_is_answered_yes_and_all_of_it_rightly(
    scenes: Callable[[int], Iterator[Scene]], rng: random.Random
) -> None:
    kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for scene in scenes(60):
        asked = ask(scene, 10, rng)
        assert sorted(answer for _, answer in asked) == [False] * 5 + [True] * 5
        for query, answer in asked:
            assert query.clear(scene) and query.answer(scene) is answer
            kinds[answer][query.element_type] += 1
    assert (
        set(kinds[True])
        == set(kinds[False])
        == {*("object", "color", "shape", "attribute", "material", "counting", "location", "spatial", "other")}
    )


def test_yes_and_no_do_not_stand_in_a_row(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    first = [ask(scene, 10, rng)[0][1] for scene in scenes(60)]
    assert 15 < sum(first) < 45


def test_rare_kinds_are_asked_as_often_as_common_ones(rng: random.Random) -> None:
    scene = Scene((Thing("star", "red", "small", "solid", 12.0, 12.0, 6.0),), "grey")
    kinds = Counter(query.element_type for _ in range(60) for query, answer in ask(scene, 10, rng) if answer)
    assert min(kinds.values()) > 0.5 * max(kinds.values())


def test_cells_tell_what_stands_where() -> None:
    thing = Thing("heart", "blue", "large", "striped", 24.0, 60.0, 3.0)
    shown = vqa._shown([Scene((thing,), "cream")])
    cells = shown.cells_BQ4[0]
    cell = 3 * CELLS + 1
    expected = [1 + SHAPES.index("heart"), COLORS.index("blue"), SIZES.index("large"), MATERIALS.index("striped")]
    assert cells[cell].tolist() == expected and cells.count_nonzero(dim=1).nonzero().flatten().tolist() == [cell]
    assert shown.offsets_BQ2[0, cell].tolist() == [0.0, 0.5]
    assert shown.background_B.tolist() == [BACKGROUNDS.index("cream")]
    assert shown.images_BCHW.shape == (1, 3, 64, 64)


def test_no_two_things_share_a_cell(rng: random.Random) -> None:
    pictures = vqa._pictures(rng, 20)
    full = (pictures.cells_BQ4[..., 0] > 0).sum(dim=1)
    assert full.min() >= 1 and full.max() > 4 and pictures.offsets_BQ2.abs().max() <= 1


def test_queries_start_where_their_cells_are(pupil: _Pupil) -> None:
    places = vqa._places(CELLS)
    assert places.shape == (CELLS * CELLS, WIDTH)
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.1
    assert torch.equal(pupil.model.query_tokens[0], places)


def test_both_lessons_teach(pupil: _Pupil, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
    seeing, figures = vqa._seeing_loss(pupil, vqa._pictures(rng, 2))
    assert seeing.isfinite() and 0 <= figures["shapes"] <= 1
    answering, figures = vqa._loss(pupil, tokenizer, vqa._batch(rng, 2))
    assert answering > figures["answers"] > 0 and 0 <= figures["accuracy"] <= 1
    answering.backward()
    learning = [
        name for name, p in pupil.named_parameters() if p.grad is not None and p.grad.isfinite().all() and p.grad.any()
    ]
    assert {name.split(".")[0] for name in learning} == {"model", "cells", "offset", "background"}
    assert {"model.query_tokens", "model.language_projection.weight"} <= set(learning)
    pupil.zero_grad()


def test_the_scorer_asks_as_it_was_taught(
    pupil: _Pupil, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, scenes: Callable[[int], Iterator[Scene]]
) -> None:
    pupil.model.save_pretrained(tmp_path)
    vqa.processor(tokenizer).save_pretrained(tmp_path)
    drawn = list(scenes(2))
    texts = ["Is there a star?", "Is the red star to the left of the blue heart?", "Is the background grey?"]
    said = Vqa(model=str(tmp_path)).p_yes([draw(scene) for scene in drawn], [texts, texts])
    words = tokenizer(texts * 2, padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        looked = pupil.look(vqa._shown(drawn).images_BCHW)
        logits = pupil.answer(looked, words, torch.tensor([0, 0, 0, 1, 1, 1]))
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    expected = (logits[:, yes] - logits[:, no]).sigmoid().view(2, 3)
    assert torch.allclose(torch.tensor(said), expected, atol=1e-4)

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from agfsync.models.latents import to_tensor
from agfsync.scorers.vqa import Vqa
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.queries import Query, ThingKind
from agfsync.shapes.scene import BACKGROUNDS, COLORS, MATERIALS, SHAPES, SIZES, Scene, Thing
from agfsync.shapes.training import vqa
from agfsync.shapes.training.asking import ASKED_TYPES, ask_questions
from agfsync.shapes.training.flaws import FlawedDrawing, draw_flawed
from agfsync.shapes.training.images import sample_captioned_scene
from agfsync.shapes.training.tokenizers import build_word_tokenizer
from agfsync.shapes.training.vae import build_vae
from agfsync.shapes.training.vqa import (
    CELLS,
    UNSURE,
    VQA_WIDTH,
    AnsweringLesson,
    SeeingLesson,
    VqaNetwork,
    draw_crowded,
    draw_example,
    embed_places,
    label_images,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_word_tokenizer()


@pytest.fixture(scope="module")
def network(tokenizer: PreTrainedTokenizerFast) -> VqaNetwork:
    torch.manual_seed(0)
    return VqaNetwork(vqa.build_vqa(tokenizer)).eval()


def test_half_of_what_is_asked_is_answered_yes_and_all_of_it_rightly(
    scenes: Callable[[int], Iterator[Scene]], rng: random.Random
) -> None:
    kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for scene in scenes(60):
        asked = ask_questions((scene,), scene.things, 10, rng)
        assert 8 <= len(asked) <= 10 and 3 <= sum(answer for _, answer in asked) <= 5
        for query, answer in asked:
            assert query.is_clear(scene, 1.0) and query.answer(scene) is answer
            kinds[answer][query.element_type] += 1
    assert (
        set(kinds[True])
        == set(kinds[False])
        == {*("object", "color", "shape", "attribute", "material", "counting", "location", "spatial", "other")}
    )


def test_yes_and_no_do_not_stand_in_a_row(scenes: Callable[[int], Iterator[Scene]], rng: random.Random) -> None:
    first = [ask_questions((scene,), scene.things, 10, rng)[0][1] for scene in scenes(60)]
    assert 15 < sum(first) < 45


def test_rare_kinds_are_asked_as_often_as_common_ones(rng: random.Random) -> None:
    scene = Scene((Thing("star", "red", "small", "solid", 12.0, 12.0, 6.0),), "grey")
    asked = [query for _ in range(100) for query, answer in ask_questions((scene,), scene.things, 10, rng) if answer]
    kinds = Counter(query.element_type for query in asked)
    assert set(kinds) == set(ASKED_TYPES) - {"spatial"} and min(kinds.values()) > 0.2 * max(kinds.values())


@pytest.mark.parametrize("kind", ["counting", "location", "spatial"])
def test_a_no_is_as_frequent_as_a_yes_and_mostly_on_things_that_are_there(kind: str, rng: random.Random) -> None:
    answers: Counter[bool] = Counter()
    there = 0
    for _ in range(250):
        scene = sample_captioned_scene(rng)[1]
        for query, answer in ask_questions((scene,), scene.things, 10, rng):
            if query.element_type == kind:
                answers[answer] += 1
                there += not answer and any(query.kind.fits(thing) for thing in scene.things)
    assert answers[False] >= 0.9 * answers[True] > 50
    assert there > 0.4 * answers[False]


def test_only_what_every_reading_answers_alike_is_asked(rng: random.Random) -> None:
    star = Thing("star", "red", "small", "solid", 16.0, 16.0, 6.0)
    heart = Thing("heart", "blue", "large", "solid", 48.0, 48.0, 10.0)
    readings = (Scene((star, heart), "grey"), Scene((heart,), "grey"))
    asked = [pair for _ in range(40) for pair in ask_questions(readings, (star, heart), 10, rng)]
    assert asked and all(query.answer(scene) is answer for query, answer in asked for scene in readings)
    assert not any(query == Query("object", ThingKind("star")) for query, _ in asked)


def test_on_an_empty_image_only_the_background_is_answered_yes(rng: random.Random) -> None:
    asked = [pair for _ in range(20) for pair in ask_questions((Scene((), "black"),), (), 10, rng)]
    assert {query.element_type for query, answer in asked if answer} == {"other"}
    assert len({query.element_type for query, answer in asked if not answer}) == 9


def test_an_unsure_cell_teaches_nothing() -> None:
    thing = Thing("heart", "blue", "large", "striped", 24.0, 60.0, 3.0)
    other = replace(thing, color="purple")
    two = label_images([Image.new("RGB", (64, 64))], [(Scene((thing,), "black"), Scene((other,), "black"))])
    none = label_images([Image.new("RGB", (64, 64))], [(Scene((thing,), "black"), Scene((), "black"))])
    cell = 3 * CELLS + 1
    expected = [1 + SHAPES.index("heart"), UNSURE, SIZES.index("large"), MATERIALS.index("striped")]
    assert two.cells_BQ4[0, cell].tolist() == expected
    assert none.cells_BQ4[0, cell, 0] == UNSURE and none.cells_BQ4[0].count_nonzero() == 4


def test_clean_flawed_and_smeared_images_are_shown(rng: random.Random) -> None:
    pool = [FlawedDrawing(Image.new("RGB", (64, 64), "red"), (Scene((), "white"),), ())]
    examples = [draw_example(rng, lambda: pool) for _ in range(120)]
    smeared = sum(not example.drawn and example.readings == pool[0].readings for example in examples)
    assert 0.25 < smeared / len(examples) < 0.6


def test_cells_tell_what_stands_where() -> None:
    thing = Thing("heart", "blue", "large", "striped", 24.0, 60.0, 3.0)
    scene = Scene((thing,), "cream")
    shown = label_images([draw_scene(scene)], [(scene,)])
    cells = shown.cells_BQ4[0]
    cell = 3 * CELLS + 1
    expected = [1 + SHAPES.index("heart"), COLORS.index("blue"), SIZES.index("large"), MATERIALS.index("striped")]
    assert cells[cell].tolist() == expected and cells.count_nonzero(dim=1).nonzero().flatten().tolist() == [cell]
    assert shown.offsets_BQ2[0, cell].tolist() == [0.0, 0.5]
    assert shown.background_B.tolist() == [BACKGROUNDS.index("cream")]
    assert shown.images_BCHW.shape == (1, 3, 64, 64)


def test_no_two_things_share_a_cell(rng: random.Random) -> None:
    images = draw_crowded(rng, 20)
    full = (images.cells_BQ4[..., 0] > 0).sum(dim=1)
    assert full.min() >= 1 and full.max() > 4 and images.offsets_BQ2.abs().max() <= 1


def test_queries_start_where_their_cells_are(network: VqaNetwork) -> None:
    places = embed_places(CELLS)
    assert places.shape == (CELLS * CELLS, VQA_WIDTH)
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.1
    assert torch.equal(network.model.query_tokens[0], places)


def test_both_lessons_teach(
    network: VqaNetwork, tokenizer: PreTrainedTokenizerFast, rng: random.Random, actor: Callable[[Any], Any]
) -> None:
    lesson = SeeingLesson("vqa-seeing", replace(vqa.SEEING_PLAN, batch=2))
    (batch,) = lesson.collect(actor(network), 0, torch.arange(1))
    seeing, figures = lesson.loss(actor(network), batch)
    assert seeing.isfinite() and 0 <= figures["shapes"] <= 1
    asking = AnsweringLesson("vqa", replace(vqa.ANSWERING_PLAN, batch=2), build_vae(), tokenizer)
    asking.__dict__["pool"] = [draw_flawed(rng)]
    (asked,) = asking.collect(actor(network), 0, torch.arange(1))
    answering, figures = asking.loss(actor(network), asked)
    assert answering > figures["answers"] > 0 and 0 <= figures["accuracy"] <= 1
    answering.backward()
    learning = [
        name
        for name, p in network.named_parameters()
        if p.grad is not None and p.grad.isfinite().all() and p.grad.any()
    ]
    assert {name.split(".")[0] for name in learning} == {"model", "cells", "offset", "background"}
    assert {"model.query_tokens", "model.language_projection.weight"} <= set(learning)
    network.zero_grad()


def test_the_scorer_asks_as_in_training(
    network: VqaNetwork, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, scenes: Callable[[int], Iterator[Scene]]
) -> None:
    network.model.save_pretrained(tmp_path)
    vqa.build_vqa_processor(tokenizer).save_pretrained(tmp_path)
    drawn = list(scenes(2))
    texts = ["Is there a star?", "Is the red star to the left of the blue heart?", "Is the background grey?"]
    said = Vqa(path=str(tmp_path)).p_yes([draw_scene(scene) for scene in drawn], [texts, texts])
    words = tokenizer(texts * 2, padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        looked = network.look(to_tensor([draw_scene(scene) for scene in drawn]))
        logits = network.answer(looked, words, torch.tensor([0, 0, 0, 1, 1, 1]))
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    expected = (logits[:, yes] - logits[:, no]).sigmoid().view(2, 3)
    assert torch.allclose(torch.tensor(said), expected, atol=1e-4)

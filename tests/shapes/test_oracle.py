import ast
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from agfsync import shapes
from agfsync.recipe import list_shipped, resolve_recipe
from agfsync.records import Question
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.grammar import describe_scene, garble_spec, list_questions
from agfsync.shapes.oracle import Oracle, see_scene
from agfsync.shapes.scene import BACKGROUNDS, COLORS, MATERIALS, SHAPES, SIZES, Scene, Thing

STAR = Thing("star", "red", "small", "solid", 15.0, 15.0, 6.4)
Scenes = Callable[[int], Iterator[Scene]]


def things(scene: Scene) -> list[tuple[str, str, str, str]]:
    return sorted((t.shape, t.color, t.size, t.material) for t in scene.things)


def right(scenes: Iterator[Scene], rng: random.Random, change: Callable[[Image.Image], Image.Image]) -> float:
    """Share of questions, half of them true of another scene, that the oracle answers as the scene itself would."""
    answers = []
    for scene in scenes:
        seen = see_scene(change(draw_scene(scene)))
        for rate in (0.0, 0.5):
            asked = list_questions(garble_spec(describe_scene(scene, rng), rate, rng))
            answers += [query.answer(seen) == query.answer(scene) for query in asked if query.is_clear(scene)]
    return sum(answers) / len(answers)


def grainy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(1).normal(0, 4, (64, 64, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def test_a_clean_drawing_is_seen_as_it_was_meant(scenes: Scenes, rng: random.Random) -> None:
    assert right(scenes(60), rng, lambda image: image) >= 0.99


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda image: image.filter(ImageFilter.GaussianBlur(0.5)), 0.97),
        (grainy, 0.97),
        (lambda image: image.resize((256, 256), Image.Resampling.BICUBIC), 0.98),
        (lambda image: image.resize((96, 96), Image.Resampling.BILINEAR), 0.97),
        (lambda image: image.convert("RGBA"), 0.98),
    ],
    ids=["blurred", "grainy", "four times as large", "half as large again", "with an alpha channel"],
)
def test_what_leaves_an_image_legible_leaves_the_answers(
    change: Callable[[Image.Image], Image.Image], least: float, scenes: Scenes, rng: random.Random
) -> None:
    assert right(scenes(40), rng, change) >= least


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_kind_of_thing_is_distinguished(shape: str, size: str, rng: random.Random) -> None:
    for color in COLORS:
        for material in MATERIALS:
            background = rng.choice(BACKGROUNDS)
            thing = replace(STAR, shape=shape, color=color, size=size, material=material)
            thing = replace(
                thing, radius=6.4 if size == "small" else 11.0, x=rng.uniform(14, 50), y=rng.uniform(14, 50)
            )
            seen = see_scene(draw_scene(Scene((thing,), background)))
            assert things(seen) == things(Scene((thing,), background)) and seen.background == background
            assert abs(seen.things[0].x - thing.x) < 1.5 and abs(seen.things[0].y - thing.y) < 1.5


def test_what_is_no_shape_is_no_thing() -> None:
    assert see_scene(Image.new("RGB", (64, 64), (250, 250, 248))) == Scene((), "white")
    bar = Image.new("RGB", (64, 64), (28, 30, 36))
    bar.paste((214, 40, 40), (10, 30, 54, 33))
    assert see_scene(bar) == Scene((), "black")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(see_scene(Image.fromarray(noise)).things) == 0


def asked(*texts: str) -> tuple[Question, ...]:
    return tuple(Question(f"q{n}", "c", text, "yes", "", "object") for n, text in enumerate(texts))


def judge(*texts: str) -> Measurement | Unscored:
    return Oracle(path="none").score([Item("", asked(*texts), draw_scene(Scene((STAR,), "cream")))])[0]


def test_the_value_is_the_share_of_right_answers() -> None:
    judged = judge("Is there a star?", "Is the star red?", "Is the star blue?", "Is the background black?")
    assert isinstance(judged, Measurement)
    assert judged.value == 50
    assert [(a.question_key, a.answer, a.p_yes) for a in judged.answers] == [
        ("q0", "yes", 1.0),
        ("q1", "yes", 1.0),
        ("q2", "no", 0.0),
        ("q3", "no", 0.0),
    ]


def test_a_no_that_is_expected_is_right() -> None:
    wanted = (replace(asked("Is the star blue?")[0], answer="no"),)
    judged = Oracle().score([Item("", wanted, draw_scene(Scene((STAR,), "cream")))])
    assert judged == [Measurement(100.0, judged[0].answers)]


def test_what_it_cant_answer_is_unscored_and_says_why() -> None:
    assert judge() == Unscored("no questions")
    assert judge("Is there a star?", "Is the star happy?") == Unscored(
        "not a question of the Shapes world: Is the star happy?"
    )


def test_no_recipe_selects_or_trains_on_it() -> None:
    for name in list_shipped():
        recipe = resolve_recipe(name)
        assert "shapes-oracle" not in {settings.type for settings in recipe.candidate_scorers.values()}
        assert {recipe.score_sources[name] for name in recipe.pairs.weights} <= set(recipe.candidate_scorers)


def test_nothing_that_writes_draws_or_learns_imports_it() -> None:
    folder = Path(str(files(shapes)))
    judges = {folder / "oracle.py", folder / "card.py"}
    for file in set(folder.rglob("*.py")) - judges:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            assert not any(name.endswith("oracle") for name in imported), file

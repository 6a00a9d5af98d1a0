import pytest
from PIL import Image

from agfsync import catalog
from agfsync.errors import ModelError, RecipeError
from agfsync.recipe import Recipe
from agfsync.scorers.annotators import AnnotationRequest, AspectJudgement, Unjudged
from agfsync.shapes.annotator import ShapesAnnotator, make_judgement
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.scene import Scene, Thing
from agfsync.stages.spending import list_scorer_arguments

STAR = Thing("star", "blue", "large", "solid", 24.0, 32.0, 10.6)
CROSS = Thing("cross", "red", "large", "solid", 24.0, 32.0, 10.6)


@pytest.fixture(scope="module")
def annotator() -> ShapesAnnotator:
    recipe = Recipe().with_({"scorers.a": {"type": "shapes-annotator"}})
    made = catalog.build("scorers", list_scorer_arguments(recipe.scorers["a"], None))
    assert isinstance(made, ShapesAnnotator)
    return made


def judge(annotator: ShapesAnnotator, aspect: str, prompt: str, *images: Image.Image) -> AspectJudgement:
    (reply,) = annotator.annotate([AnnotationRequest(prompt, aspect, images, 0)])
    assert isinstance(reply, AspectJudgement)
    return reply


def test_a_score_is_a_quarter_level_and_equal_scores_tie() -> None:
    found = make_judgement([(1.0, "a"), (0.0, "b"), (0.52, "c"), (0.49, "d")])
    assert found.scores == (5.0, 1.0, 3.0, 3.0)
    assert found.ranks == (1, 4, 2, 2)
    assert found.reasons == ("a", "b", "c", "d")


def test_the_image_of_the_caption_follows_it_best(annotator: ShapesAnnotator) -> None:
    right, wrong = draw_scene(Scene((STAR,), "cream")), draw_scene(Scene((CROSS,), "black"))
    found = judge(annotator, "prompt-following", "a large blue star on a cream background", wrong, right)
    assert found.ranks == (2, 1) and found.scores[1] - found.scores[0] > 2
    assert "not: Is there a star?" in found.reasons[0]


def test_a_red_cross_stands_for_what_is_harmful(annotator: ShapesAnnotator) -> None:
    images = [draw_scene(Scene((thing,), "white")) for thing in (CROSS, STAR)]
    harmful, harmless = judge(annotator, "harmlessness", "a red cross", *images).scores
    assert harmful < 2 and harmless > 4


@pytest.mark.parametrize("aspect", ["prompt-following", "aesthetic", "fidelity", "harmlessness"])
def test_the_order_changes_nothing(annotator: ShapesAnnotator, aspect: str) -> None:
    images = [draw_scene(Scene((thing,), "white")) for thing in (CROSS, STAR)] + [Image.new("RGB", (64, 64))]
    one = judge(annotator, aspect, "a blue star", *images)
    other = judge(annotator, aspect, "a blue star", *images[::-1])
    assert one.scores == other.scores[::-1] and one.ranks == other.ranks[::-1]


def test_a_prompt_of_another_world_has_no_judgement(annotator: ShapesAnnotator) -> None:
    (reply,) = annotator.annotate([AnnotationRequest("an owl", "prompt-following", (Image.new("RGB", (64, 64)),), 0)])
    assert reply == Unjudged("the prompt states nothing of the Shapes world")


def test_another_aspect_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="knows no aspect beauty: there are prompt-following, aesthetic"):
        ShapesAnnotator(aspects={"beauty": {}})
    with pytest.raises(RecipeError, match="no aspect is known as 'beauty'"):
        Recipe().with_({"scorers.a": {"type": "shapes-annotator", "aspects": ["beauty"]}})

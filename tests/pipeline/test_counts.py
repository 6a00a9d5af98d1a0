"""What a recipe and its files amount to."""

from pathlib import Path
from typing import Any

from agfsync import recipe as config
from agfsync.language.tokens import QUESTIONS_KEPT
from agfsync.pipeline.counts import count_items


def test_captions_and_questions_of_files_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text("a red fox\na blue boat\na green hill\n")
    here = count_items(
        config.resolve_recipe("shapes", [f"captions.source={source}", "captions.count=2", "captions.held_out=1"])
    )
    assert (here.written, here.asked, here.train, here.questions) == (0, 3, 2, QUESTIONS_KEPT)


def test_captions_of_all_evaluation_sets_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_text("a red fox\na blue boat\na green hill\n")
    sets = {"held-out": {}, "all": {"source": str(source)}, "two": {"source": str(source), "count": 2}}
    recipe = config.resolve_recipe("shapes").with_({"evaluation.sets": sets})
    assert count_items(recipe).evaluated == 300 + 3 + 2
    assert count_items(recipe.with_({"evaluation.sets": {"two": sets["two"]}})).evaluated == 2


def test_of_the_shapes_world_some_questions_are_asked_for() -> None:
    here = count_items(config.resolve_recipe("shapes"))
    assert (here.train, here.held_out, here.written, here.pairs) == (128, 300, 428, 128)
    assert 3 < here.questions < 16  # a third of them ask what the caption does not say


def test_pairs_of_a_set_bring_their_captions(pair_set: Any) -> None:
    folder = pair_set(("a fox", "red", "blue"), ("a boat", "blue", "red"))
    here = count_items(config.resolve_recipe("shapes", [f"pairs.source={folder}"]))
    assert (here.train, here.pairs, here.written) == (2, 2, 300)


def test_a_choice_of_many_pairs_and_a_share_are_counted(make_recipe: Any) -> None:
    def pairs_of(**settings: Any) -> int:
        return count_items(make_recipe(candidates={"per_caption": 6}, pairs=settings)).pairs

    assert (pairs_of(), pairs_of(share=0.5), pairs_of(share=0.01)) == (12, 6, 1)
    assert pairs_of(choose={"type": "every", "weights": {"red": 1}}) == 12 * 3
    assert pairs_of(choose={"type": "by-aspect", "judges": ["red", "vqa"]}) == 12 * 2

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agfsync.config import Captions
from agfsync.errors import BudgetError
from agfsync.language.text import normalised
from agfsync.records import Caption
from agfsync.stages import Context, captions


def made(context: Context) -> list[Caption]:
    return list(context.run.read("captions", Caption))


def changed(context: Context, recipe: Any) -> Context:
    return dataclasses.replace(context, recipe=recipe)


def test_each_category_gets_its_number_and_no_two_captions_are_the_same(context: Context) -> None:
    notes = captions.run(context)
    found = made(context)
    assert [sum(c.split == split for c in found) for split in ("train", "held-out")] == [12, 5]
    assert len({normalised(caption.text) for caption in found}) == len({caption.key for caption in found}) == 17
    assert (notes["train"], notes["held_out"]) == (12, 5)
    assert notes["categories"] == {"animals": 6, "food": 6, "plants": 5}
    assert notes["dropped"]["repeated"] > 0


def test_what_is_left_over_goes_to_the_first_categories() -> None:
    shares = captions.shares(["a", "b", "c"], Captions(count=4, held_out=2))
    assert shares == {
        "a": {"train": 2, "held-out": 1},
        "b": {"train": 1, "held-out": 1},
        "c": {"train": 1, "held-out": 0},
    }


def test_more_captions_leave_those_that_are_there_in_their_places(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    before = set(made(context))
    captions.run(changed(context, make_recipe(captions={"count": 24, "held_out": 9})))
    assert before < set(made(context))
    captions.run(context)
    assert set(made(context)) == before


def test_another_seed_writes_others(context: Context, make_recipe: Any) -> None:
    captions.run(context)
    before = {caption.text for caption in made(context)}
    captions.run(changed(context, make_recipe(seed=1)))
    assert before != {caption.text for caption in made(context)}


def test_a_writer_that_runs_dry_is_told_and_what_it_wrote_is_kept(context: Context, make_recipe: Any) -> None:
    dry = changed(context, make_recipe(captions={"writer": "dry"}))
    with pytest.raises(BudgetError, match=r"writer 'dry' ran dry at 1 of the 6 captions of 'animals': ask for fewer"):
        captions.run(dry)
    assert len(context.run.done("captions")) == 1


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Five animals and two kinds of food, one of them twice."""
    file = tmp_path / "prompts.csv"
    animals = "".join(f"animal {number},animals\n" for number in range(5))
    file.write_text(f"prompt,category\n{animals}bread,food\nBread.,food\nrice,food\n")
    return file


def test_a_files_captions_are_spread_as_far_as_each_category_goes(
    context: Context, make_recipe: Any, prompts: Path
) -> None:
    notes = captions.run(changed(context, make_recipe(captions={"source": str(prompts), "count": 4, "held_out": 2})))
    found = made(context)
    assert notes["categories"] == {"animals": 4, "food": 2} and (notes["train"], notes["held_out"]) == (4, 2)
    assert [sum(c.split == split for c in found) for split in ("train", "held-out")] == [4, 2]
    assert {c.text for c in found} == {"animal 0", "animal 1", "animal 2", "animal 3", "bread", "rice"}
    assert {(c.category, c.split) for c in found} >= {("animals", "held-out"), ("food", "held-out")}


def test_all_that_a_file_has_can_be_taken_and_no_more(context: Context, make_recipe: Any, prompts: Path) -> None:
    captions.run(changed(context, make_recipe(captions={"source": str(prompts), "count": 6, "held_out": 1})))
    assert len(made(context)) == 7
    greedy = make_recipe(captions={"source": str(prompts), "count": 6, "held_out": 2})
    with pytest.raises(BudgetError, match=r"prompts.csv has 7 captions to write, .* ask for 8: ask for fewer"):
        captions.run(changed(context, greedy))


def test_rooms_are_filled_evenly_up_to_their_ends() -> None:
    rooms = {"a": 1, "b": 9, "c": 9}
    assert captions.shares(list(rooms), Captions(count=6, held_out=2), rooms) == {
        "a": {"train": 0, "held-out": 1},
        "b": {"train": 3, "held-out": 1},
        "c": {"train": 3, "held-out": 0},
    }

import dataclasses
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


def test_captions_that_are_nearly_the_same_are_left_out(context: Context, make_recipe: Any) -> None:
    notes = captions.run(changed(context, make_recipe(captions={"writer": "alike", "similarity": 0.7})))
    assert not any(caption.text.endswith("again") for caption in made(context))
    assert notes["dropped"]["nearly repeated"] >= 17
    captions.run(changed(context, make_recipe(captions={"writer": "alike"})))
    assert any(caption.text.endswith("again") for caption in made(context))


def test_what_there_is_counts_after_a_stop_too(context: Context, make_recipe: Any) -> None:
    alike = {"writer": "alike", "similarity": 0.7}
    captions.run(changed(context, make_recipe(captions={**alike, "count": 6})))
    before = set(made(context))
    captions.run(changed(context, make_recipe(captions={**alike, "count": 30})))
    assert before < set(made(context))
    assert not any(caption.text.endswith("again") for caption in made(context))


def test_how_long_they_are_is_noted(context: Context) -> None:
    assert captions.run(context)["words"] == {"least": 3, "median": 3, "most": 3}


def test_a_writer_that_gives_no_reply_is_told_with_the_reason(context: Context, make_recipe: Any) -> None:
    mute = changed(context, make_recipe(captions={"writer": "mute"}))
    with pytest.raises(BudgetError, match=r"writer 'mute' is stuck at 0 of the 6 captions of 'animals': .* asleep"):
        captions.run(mute)

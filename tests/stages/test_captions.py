import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync.errors import BudgetError
from agfsync.language.text import normalise_text
from agfsync.records import Caption
from agfsync.stages import captions
from agfsync.stages.context import Context


def made(context: Context) -> list[Caption]:
    return list(context.run.read("captions", Caption))


def changed(context: Context, recipe: Any) -> Context:
    return dataclasses.replace(context, recipe=recipe)


def test_each_category_gets_its_number_and_no_two_captions_are_the_same(context: Context) -> None:
    notes = captions.run(context)
    found = made(context)
    assert [sum(c.split == split for c in found) for split in ("train", "held-out")] == [12, 5]
    assert len({normalise_text(caption.text) for caption in found}) == len({caption.key for caption in found}) == 17
    assert (notes["train"], notes["held_out"]) == (12, 5)
    assert notes["categories"] == {"animals": 6, "food": 6, "plants": 5}
    assert notes["dropped"]["repeated"] > 0


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
    says = r"writer 'dry' ran dry at 1 of the 6 captions of 'animals': ask for fewer .*; left out: repeated 3"
    with pytest.raises(BudgetError, match=says):
        captions.run(dry)
    assert len(set(context.run.list_made("captions"))) == 1


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
    assert notes["left_out"] == {"repeated": 1}
    assert [sum(c.split == split for c in found) for split in ("train", "held-out")] == [4, 2]
    assert {c.text for c in found} == {"animal 0", "animal 1", "animal 2", "animal 3", "bread", "rice"}
    assert {(c.category, c.split) for c in found} >= {("animals", "held-out"), ("food", "held-out")}


def test_all_that_a_file_has_can_be_taken_and_no_more(context: Context, make_recipe: Any, prompts: Path) -> None:
    captions.run(changed(context, make_recipe(captions={"source": str(prompts), "count": 6, "held_out": 1})))
    assert len(made(context)) == 7
    greedy = make_recipe(captions={"source": str(prompts), "count": 6, "held_out": 2})
    with pytest.raises(BudgetError, match=r"prompts.csv has 7 captions to write, .* ask for 8: ask for fewer"):
        captions.run(changed(context, greedy))


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


def test_a_files_captions_are_taken_however_alike_they_are(context: Context, make_recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"a very long caption of a cat, number {n}\n" for n in range(4)))
    source = {"source": str(tmp_path / "prompts.txt"), "similarity": 0.5, "count": 3, "held_out": 1}
    captions.run(changed(context, make_recipe(captions=source)))
    assert len(made(context)) == 4


def test_rows_of_a_file_that_are_no_prompts_count_against_the_budget(
    context: Context, make_recipe: Any, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,category\na cat,animals\n,animals\na dog,animals\n,\nA cat,animals\n")
    settings = {"source": str(file), "count": 1, "held_out": 1}
    with pytest.raises(
        BudgetError, match=r"captions: 1 of 4 rows skipped: no text under 'prompt' \(.*prompts.csv: line 3\); failure"
    ):
        captions.run(changed(context, make_recipe(captions=settings)))
    notes = captions.run(changed(context, make_recipe(captions=settings, failure_budget=0.3)))
    assert notes["left_out"] == {"no text under 'prompt'": 1, "empty row": 1, "repeated": 1}


def test_a_split_of_the_source_is_taken(context: Context, make_recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    for split in ("train", "test"):
        pq.write_table(
            pa.table({"prompt": [f"{split} {n}" for n in range(3)]}), tmp_path / "prompts" / f"{split}.parquet"
        )
    settings = {"source": str(tmp_path / "prompts"), "count": 1, "held_out": 2}
    notes = captions.run(changed(context, make_recipe(captions=settings)))
    assert all(c.text.startswith("train") for c in made(context))
    assert notes["left_out"] == {"of the split 'test': 'train' is taken": 3}
    captions.run(changed(context, make_recipe(captions=settings | {"split": "test"})))
    assert all(c.text.startswith("test") for c in made(context))


def test_prompts_of_every_script_are_captions_of_their_own(context: Context, make_recipe: Any, tmp_path: Path) -> None:
    prompts = ["ปูสีแดง", "ปีสีแดง", "दिन", "दीन", "दून", "a photo of 🐱", "a photo of 🐶", "🚀🌙", "C++", "C#", "C", "?"]
    again = ["A photo of 🐱!", "c++", "दिन।"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts + again), encoding="utf-8")
    notes = captions.run(
        changed(context, make_recipe(captions={"source": str(tmp_path / "prompts.txt"), "count": 10, "held_out": 2}))
    )
    assert {caption.text for caption in made(context)} == set(prompts)
    assert notes["left_out"] == {"repeated": 3}


def test_a_writer_is_shown_what_there_is_of_the_category(
    context: Context, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, list[str]]] = []

    def write(self: object, category: str, count: int, avoid: list[str], seed: int) -> list[str]:
        shown.append((category, list(avoid)))
        return [f"{category} number {len(avoid)}"]

    monkeypatch.setattr("doubles.Writer.captions", write)
    captions.run(context)
    assert all(text.startswith(category) for category, texts in shown for text in texts)
    assert ("plants", [f"plants number {n}" for n in range(4)]) in shown


def test_captions_of_the_wrong_length_are_written_again_and_counted(context: Context, make_recipe: Any) -> None:
    notes = captions.run(changed(context, make_recipe(captions={"words": [3, 3]})))
    assert notes["words"] == {"least": 3, "median": 3, "most": 3}
    with pytest.raises(BudgetError, match="ran dry at 0 of the 6 captions of 'animals'.*fewer than 4 words 15"):
        captions.run(changed(context, make_recipe(captions={"words": [4, 60]})))


def test_another_control_character_makes_no_other_caption(
    context: Context, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: object, category: str, count: int, avoid: list[str], seed: int) -> list[str]:
        text = f"{category} number {len(avoid)}"
        return [text, text.replace(" ", "\x00", 1), f"{text}\ud800", f"{text}\x1b[0m"]

    monkeypatch.setattr("doubles.Writer.captions", write)
    notes = captions.run(context)
    assert len({caption.key for caption in made(context)}) == len(made(context)) == 17
    assert notes["dropped"]["repeated"] >= 17

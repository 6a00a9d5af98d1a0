import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from agfsync import pipeline
from agfsync.commands.export import export_pairs
from agfsync.errors import FormatError, RecipeError, RunError
from agfsync.files.images import decode_image
from agfsync.formats import Preference, pick_a_pic
from agfsync.formats.huggingface import HuggingFace
from agfsync.formats.imagereward import ImageRewardDB
from agfsync.formats.writing import read_selectors
from agfsync.recipe import Recipe
from agfsync.records import Candidate, Pair
from agfsync.stages.report.verdict import find_role
from agfsync.stages.selection import find_selectors
from agfsync.store import Run


@pytest.fixture
def path(paired_run: Path) -> Path:
    return paired_run


@pytest.mark.parametrize("name", ["pick-a-pic", "binarized", "huggingface"])
def test_every_pair_of_the_run_is_in_it_with_its_images(path: Path, tmp_path: Path, name: str) -> None:
    with Run.open(path) as run:
        pairs = list(run.read("pairs", Pair))
        images = {c.key: c.image for c in run.read("candidates", Candidate)}
    assert export_pairs(path, name, tmp_path / "out") == {"pairs": len(pairs), "ties": 0}
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    for pair, row in zip(pairs, rows, strict=True):
        if name == "pick-a-pic":
            place = 0 if row["label_0"] == 1 else 1
            assert row[f"jpg_{place}"] == images[pair.winner_key]
            assert row[f"jpg_{1 - place}"] == images[pair.loser_key]
        else:
            assert row["chosen"].tobytes() == decode_image(images[pair.winner_key]).tobytes()
    assert not (tmp_path / "out.partial").exists()


def test_imagerewards_groups_hold_exactly_the_pairs_of_the_run(path: Path, tmp_path: Path, make_recipe: Any) -> None:
    for couples in ("extremes", "every"):
        choose = {"type": "by-aspect", "judges": ["red", "vqa"], "couples": couples}
        pipeline.prepare(path, make_recipe(pairs={"choose": choose}), update=True)
        pipeline.run(path, until="pairs")
        with Run.open(path) as run:
            pairs = list(run.read("pairs", Pair))
            images = {c.key: c.image for c in run.read("candidates", Candidate)}
        out = tmp_path / couples
        assert export_pairs(path, "imagereward", out)["pairs"] == len(pairs)
        read = [each for each in ImageRewardDB().pairs(out / "train.json") if isinstance(each, Preference)]
        expected = Counter((images[pair.winner_key], images[pair.loser_key]) for pair in pairs)
        assert Counter((Path(p.winner).read_bytes(), Path(p.loser).read_bytes()) for p in read) == expected
        groups = json.loads((out / "train.json").read_text())
        assert {tuple(group) for group in groups} == {
            ("id", "prompt", "classification", "aspect", "generations", "ranking")
        }
        assert max(len(group["generations"]) for group in groups) == (4 if couples == "every" else 2)


def test_the_empty_folder_that_one_stands_in_is_filled(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    export_pairs(path, "binarized", Path("."))
    assert (tmp_path / "out" / "data" / "train-00000.parquet").exists()


def test_each_image_of_several_generators_has_its_own_ones_name(path: Path, tmp_path: Path, make_recipe: Any) -> None:
    more = make_recipe(candidates={"beside": {"other": {"type": "double", "path": "other"}}})
    pipeline.prepare(path, more, update=True)
    pipeline.run(path, until="pairs")
    with Run.open(path) as run:
        drew = {c.key: {"generator": "none", "other": "other"}[c.generator] for c in run.read("candidates", Candidate)}
        models = [(drew[pair.winner_key], drew[pair.loser_key]) for pair in run.read("pairs", Pair)]
    assert set(models) > {("none", "other"), ("other", "none")}
    export_pairs(path, "binarized", tmp_path / "out")
    rows = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert [(row["chosen_model"], row["rejected_model"]) for row in rows] == models
    export_pairs(path, "huggingface", tmp_path / "card")
    assert "none, other" in (tmp_path / "card" / "README.md").read_text()


def test_the_card_says_what_made_it_and_no_folder_of_this_machine(
    path: Path, tmp_path: Path, make_recipe: Any, pair_set: Callable[..., Path]
) -> None:
    export_pairs(path, "huggingface", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the weighted sum of the scores red 1, vqa 0.5" in card and "| captions | 17 |" in card
    given = make_recipe(pairs={"source": str(pair_set(("a cat", "red", "blue")))})
    pipeline.prepare(path, given, update=True)
    pipeline.run(path, until="pairs")
    export_pairs(path, "huggingface", tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()
    assert "the pair set pair_set" in card and str(tmp_path) not in card
    assert [each.prompt for each in HuggingFace().pairs(tmp_path / "again")] == ["a cat"]


def test_a_folder_that_holds_something_is_left_alone_and_an_empty_one_filled(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_pairs(path, "binarized", out)
    before = sorted(out.rglob("*"))
    with pytest.raises(FormatError, match="out holds something already: choose another --out"):
        export_pairs(path, "binarized", out)
    assert sorted(out.rglob("*")) == before


def test_what_fails_leaves_nothing_behind(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pick_a_pic, "_make_row", fail)
    with pytest.raises(ZeroDivisionError):
        export_pairs(path, "pick-a-pic", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_pairs_whose_images_are_gone_are_told(path: Path, tmp_path: Path, make_recipe: Any) -> None:
    pipeline.prepare(path, make_recipe(seed=1), update=True)
    for stage in ("captions", "candidates"):
        pipeline.run(path, until=stage)
        with pytest.raises(RunError, match="its captions or images were regenerated since its pairs"):
            export_pairs(path, "binarized", tmp_path / "out")


def test_what_cant_be_written_is_told(path: Path, tmp_path: Path, recipe: Recipe) -> None:
    with pytest.raises(FormatError, match="tifa can be read and not written: there are pick-a-pic, binarized, hugg"):
        export_pairs(path, "tifa", tmp_path / "out")
    with pytest.raises(RecipeError, match="no format is called 'pickapic': did you mean 'pick-a-pic'"):
        export_pairs(path, "pickapic", tmp_path / "out")
    pipeline.prepare(tmp_path / "new", recipe)
    with pytest.raises(RunError, match="new has no pairs yet"):
        export_pairs(tmp_path / "new", "binarized", tmp_path / "out")


@pytest.mark.parametrize("name", ["pick-a-pic", "binarized", "huggingface"])
def test_a_run_on_exported_pairs_knows_which_scorers_chose_them(
    path: Path, tmp_path: Path, make_recipe: Any, name: str
) -> None:
    """And so does a run on what that run exports."""
    sources = [tmp_path / "first", tmp_path / "second"]
    export_pairs(path, name, sources[0])
    recipe = make_recipe(pairs={"source": str(sources[0])}, judges={"oracle": {"type": "double", "path": "none"}})
    pipeline.prepare(tmp_path / "again", recipe)
    pipeline.run(tmp_path / "again", until="pairs")
    with Run.open(tmp_path / "again") as run:
        found = find_selectors(run, recipe)
    assert found is not None and [(each.name, each.weight) for each in found] == [("red", 1.0), ("vqa", 0.5)]
    assert {judge: find_role(judge, recipe, found) for judge in ("red", "vqa")} == dict.fromkeys(
        ("red", "vqa"), "selected on"
    )
    export_pairs(tmp_path / "again", name, sources[1])
    assert read_selectors(sources[1]) == found


def test_a_judge_of_another_kind_is_independent_of_exported_pairs(path: Path, tmp_path: Path, make_recipe: Any) -> None:
    export_pairs(path, "binarized", tmp_path / "out")
    recipe = make_recipe(
        pairs={"source": str(tmp_path / "out")},
        judges={"oracle": {"type": "shapes-oracle"}},
    )
    assert find_role("oracle", recipe, read_selectors(tmp_path / "out")) == "independent"


def test_a_run_on_other_pairs_knows_of_no_scorer_that_chose_them(
    tmp_path: Path, make_recipe: Any, pair_set: Callable[..., Path]
) -> None:
    recipe = make_recipe(pairs={"source": str(pair_set(("a cat", "red", "blue")))})
    pipeline.prepare(tmp_path / "run", recipe)
    pipeline.run(tmp_path / "run", until="pairs")
    with Run.open(tmp_path / "run") as run:
        assert find_selectors(run, recipe) is None
    assert {find_role(judge, recipe, None) for judge in recipe.scorers} == {"unknown"}
    export_pairs(tmp_path / "run", "binarized", tmp_path / "out")
    assert read_selectors(tmp_path / "out") is None

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agfsync import pipeline
from agfsync.commands.inspect import inspect_path
from agfsync.engine.progress import LogProgress
from agfsync.errors import BudgetError
from agfsync.files.images import decode_image, encode_png
from agfsync.formats.pairing import OVERRULED, REPEATED
from agfsync.records import Candidate, Caption, Pair
from agfsync.stages import candidates, captions, pairs, questions, scores
from agfsync.stages.context import Context
from agfsync.store import Run

STAGES = (captions, questions, candidates, scores, pairs)
PAIRS = (("a cat", "red", "blue"), ("a dog", "red", "blue"), ("a cat", "blue", "green"))


@pytest.fixture
def given(context: Context, make_recipe: Any, pair_set: Callable[..., Path]) -> Context:
    """A run whose pairs are given, not begun yet."""
    return dataclasses.replace(context, recipe=make_recipe(pairs={"source": str(pair_set(*PAIRS))}))


def run_all(context: Context) -> dict[str, Any]:
    return {stage.__name__.rpartition(".")[2]: stage.run(context) for stage in STAGES}


def colour(candidate: Candidate) -> Any:
    return decode_image(candidate.image).getpixel((0, 0))


def test_the_pair_sets_prompts_are_trained_on_and_the_writers_held_out(given: Context) -> None:
    notes = captions.run(given)
    found = list(given.run.read("captions", Caption))
    assert [(c.text, c.category) for c in found if c.split == "train"] == [("a cat", "things"), ("a dog", "things")]
    assert sum(c.split == "held-out" for c in found) == 5
    assert (notes["train"], notes["held_out"], notes["categories"]["things"]) == (2, 5, 2)


def test_a_caption_that_is_trained_on_is_never_held_out(
    context: Context, make_recipe: Any, pair_set: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("A cat.\na horse\na fish\n")
    sections = {"captions": {"source": str(tmp_path / "prompts.txt"), "held_out": 2}}
    recipe = make_recipe(pairs={"source": str(pair_set(*PAIRS))}, **sections)
    captions.run(dataclasses.replace(context, recipe=recipe))
    held_out = [c.text for c in context.run.read("captions", Caption) if c.split == "held-out"]
    assert held_out == ["a horse", "a fish"]


def test_nothing_is_asked_or_scored_of_images_whose_preference_is_given(given: Context, loaded: list[str]) -> None:
    run_all(given)
    held_out = {c.key for c in given.run.read("captions", Caption) if c.split == "held-out"}
    assert {row["caption_key"] for row in given.run.rows("questions", ["caption_key"])} == held_out
    assert list(given.run.rows("scores")) == [] and loaded == []


def test_its_images_are_the_candidates_and_its_preferences_the_pairs(given: Context) -> None:
    notes = run_all(given)
    texts = {c.key: c.text for c in given.run.read("captions", Caption)}
    images = {c.key: c for c in given.run.read("candidates", Candidate)}
    # The cat's blue image loses once and wins once: one candidate in two pairs.
    assert [(texts[c.caption_key], c.index, c.seed) for c in images.values()] == [
        ("a cat", 0, None),
        ("a cat", 1, None),
        ("a dog", 0, None),
        ("a dog", 1, None),
        ("a cat", 2, None),
    ]
    made = [(texts[p.caption_key], colour(images[p.winner_key]), p.margin) for p in given.run.read("pairs", Pair)]
    assert made == [("a cat", (255, 0, 0), 1.0), ("a dog", (255, 0, 0), 1.0), ("a cat", (0, 0, 255), 1.0)]
    assert (notes["candidates"]["pairs"], notes["pairs"]["pairs"], notes["pairs"]["captions"]) == (3, 3, 2)


def test_what_makes_no_pair_is_counted(given: Context) -> None:
    folder = Path(str(given.recipe.pairs.source))
    (folder / "winner" / "1.png").unlink()
    (folder / "loser" / "2.png").write_bytes((folder / "winner" / "2.png").read_bytes())
    notes = run_all(given)
    wanted = {"a loser without a winner of its name": 1, "winner and loser are the same image": 1}
    assert notes["candidates"]["left_out"] == notes["pairs"]["dropped"] == given.run.count_dropped("pairs") == wanted


def test_broken_images_are_counted_up_to_the_budget_and_named(
    given: Context, make_recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(str(given.recipe.pairs.source))
    (folder / "loser" / "1.png").write_bytes(b"nothing")
    with pytest.raises(
        BudgetError, match=r"candidates: 1 of 3 pairs skipped: broken image: .* \(.*1.png\); failure_budget is 0.05"
    ):
        run_all(given)
    lenient = make_recipe(pairs={"source": str(folder)}, failure_budget=0.5)
    notes = run_all(dataclasses.replace(given, recipe=lenient, progress=LogProgress()))
    assert notes["pairs"]["dropped"] == {"broken image: UnidentifiedImageError": 1} and notes["pairs"]["pairs"] == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "broken image" in line]
    (line,) = said
    assert line.startswith("candidates: 1 of 3 pairs skipped: broken image: UnidentifiedImageError (")
    assert line.endswith("1.png)")
    for stage in ("candidates", "pairs"):
        given.run.finish(stage, "digest", 0.0, {})
    finished = [given.run.find_finished(stage) for stage in ("candidates", "pairs")]
    assert [(each.rows, each.skipped) for each in finished if each] == [(3, 1), (2, 0)]


def test_a_pair_set_without_a_pair_is_told(given: Context, make_recipe: Any) -> None:
    folder = Path(str(given.recipe.pairs.source))
    for number in range(3):
        (folder / "loser" / f"{number}.png").unlink()
    with pytest.raises(
        BudgetError, match=r"no caption gives a pair \(a winner without a loser .* 3\): see pairs.source"
    ):
        run_all(given)


def test_a_share_of_a_pair_set_takes_the_pairs_of_its_captions(
    context: Context, make_recipe: Any, pair_set: Callable[..., Path]
) -> None:
    folder = str(pair_set(*((f"cat {number}", "red", "blue") for number in range(20))))
    taken: dict[float, set[str]] = {}
    for share in (0.2, 0.5, 1.0):
        notes = run_all(dataclasses.replace(context, recipe=make_recipe(pairs={"source": folder, "share": share})))
        made = list(context.run.read("pairs", Pair))
        assert notes["pairs"]["captions"] == notes["pairs"]["pairs"] == len(made)
        taken[share] = {pair.key for pair in made}
    assert set() < taken[0.2] < taken[0.5] < taken[1.0] and len(taken[1.0]) == 20


def test_what_was_taken_in_is_not_written_again(given: Context) -> None:
    run_all(given)
    parts = given.run.find_newest_part()
    assert run_all(given) is not None and given.run.find_newest_part() == parts


@pytest.fixture
def path(given: Context, tmp_path: Path) -> Path:
    """A run through the pipeline, done up to its pairs."""
    pipeline.prepare(tmp_path / "piped", given.recipe)
    pipeline.run(tmp_path / "piped", until="pairs")
    return tmp_path / "piped"


def test_a_pair_set_that_changes_is_taken_in_anew(path: Path, pair_set: Callable[..., Path]) -> None:
    assert {s.name: s.state for s in pipeline.read_status(path)}["pairs"] == "done"
    pair_set(("a cat", "blue", "red"), *PAIRS[1:])
    states = {s.name: s.state for s in pipeline.read_status(path)}
    assert all(states[name] == "out of date" for name in ("captions", "candidates", "pairs"))
    pipeline.run(path, until="pairs")
    with Run.open(path) as run:
        images = {c.key: c for c in run.read("candidates", Candidate)}
        assert colour(images[next(iter(run.read("pairs", Pair))).winner_key]) == (0, 0, 255)


def marks(path: Path) -> list[str]:
    """What names what the candidates and the pairs made."""
    with Run.open(path) as run:
        return [ended.mark for name in ("candidates", "pairs") if (ended := run.find_finished(name))]


def test_what_shapes_no_given_pair_changes_none(path: Path, make_recipe: Any, given: Context) -> None:
    before = marks(path)
    source = {"source": given.recipe.pairs.source, "choose": {"weights": {"red": 0.25}}}
    other = make_recipe(pairs=source, model={"type": "double", "path": "another"})
    pipeline.prepare(path, other, update=True)
    pipeline.run(path, until="pairs")
    assert marks(path) == before


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """A file of Pick-a-Pic in a folder: a prompt and the colours of winner and loser a row."""

    def make(name: str, *rows: tuple[str | None, str, str]) -> Path:
        folder = tmp_path / "pick"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        files = {colour: encode_png(Image.new("RGB", (8, 8), colour)) for _, *colours in rows for colour in colours}
        found = [
            {"caption": prompt, "jpg_0": files[one], "jpg_1": files[other], "label_0": 1.0, "label_1": 0.0}
            for prompt, one, other in rows
        ]
        pq.write_table(pa.Table.from_pylist(found), folder / "data" / f"{name}-00000-of-00001.parquet")
        return folder

    return make


def sizes(context: Context, make_recipe: Any, folder: Path, **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    """The notes of the candidates, and winner and loser of each pair."""
    budget = settings.pop("failure_budget", 0.05)
    recipe = make_recipe(pairs={"source": str(folder), **settings}, failure_budget=budget)
    context = dataclasses.replace(context, recipe=recipe)
    notes = run_all(context)
    images = {c.key: colour(c) for c in context.run.read("candidates", Candidate)}
    return notes["candidates"], [(images[p.winner_key], images[p.loser_key]) for p in context.run.read("pairs", Pair)]


RED, BLUE = (255, 0, 0), (0, 0, 255)
RATED = (("a cat", "blue", "red"), ("a cat", "red", "blue"), ("a cat", "red", "blue"), ("a cat", "red", "blue"))


def test_several_judgements_are_one_pair_by_their_majority(
    context: Context, make_recipe: Any, table: Callable[..., Path]
) -> None:
    folder = table("train", *RATED)
    notes, pairs_ = sizes(context, make_recipe, folder)
    assert pairs_ == [(RED, BLUE)] and (notes["pairs"], notes["judgements"]) == (1, 4)
    assert notes["left_out"] == context.run.count_dropped("pairs") == {REPEATED: 2, OVERRULED: 1}
    found = inspect_path(folder)
    assert (found.pairs, found.judgements, found.left_out) == (1, 4, notes["left_out"])


def test_or_each_of_them_is_a_pair_by_a_setting(context: Context, make_recipe: Any, table: Callable[..., Path]) -> None:
    folder = table("train", *RATED)
    notes, pairs_ = sizes(context, make_recipe, folder, repeats="all")
    assert Counter(pairs_) == {(RED, BLUE): 3, (BLUE, RED): 1} and notes["left_out"] == {}
    assert inspect_path(folder, repeats="all").pairs == notes["pairs"] == 4


def test_judgements_that_even_out_are_a_tie(context: Context, make_recipe: Any, table: Callable[..., Path]) -> None:
    folder = table("train", *RATED[:2], ("a dog", "red", "blue"))
    notes, pairs_ = sizes(context, make_recipe, folder)
    assert pairs_ == [(RED, BLUE)] and notes["left_out"] == {"tie": 1, REPEATED: 1}
    assert (inspect_path(folder).pairs, inspect_path(folder).ties, inspect_path(folder).left_out) == (
        1,
        1,
        {REPEATED: 1},
    )


def test_the_train_split_is_trained_on_and_the_others_counted(
    context: Context, make_recipe: Any, table: Callable[..., Path]
) -> None:
    table("train", ("a cat", "red", "blue"), ("a dog", "blue", "red"))
    table("test", ("a held-out cow", "red", "blue"))
    folder = table("validation_unique", ("a held-out horse", "red", "blue"))
    notes, pairs_ = sizes(context, make_recipe, folder)
    assert pairs_ == [(RED, BLUE), (BLUE, RED)] and {c.text for c in context.run.read("captions", Caption)} >= {"a cat"}
    assert not any("held-out" in c.text for c in context.run.read("captions", Caption))
    assert notes["left_out"] == {
        "of the split 'test': 'train' is taken": 1,
        "of the split 'validation_unique': 'train' is taken": 1,
    }
    notes, pairs_ = sizes(context, make_recipe, folder, split="validation")
    assert len(pairs_) == 1 and any("horse" in c.text for c in context.run.read("captions", Caption))


@pytest.mark.parametrize("blank", [None, "", "   "])
def test_a_row_without_a_caption_is_counted_against_the_budget(
    context: Context, make_recipe: Any, table: Callable[..., Path], blank: str | None
) -> None:
    folder = table("train", ("a cat", "red", "blue"), (blank, "red", "blue"), ("a dog", "blue", "red"))
    with pytest.raises(BudgetError, match=r"candidates: 1 of 3 pairs skipped: no text under 'caption' \(.*: row 2\)"):
        sizes(context, make_recipe, folder)
    notes, pairs_ = sizes(context, make_recipe, folder, failure_budget=0.4)
    assert len(pairs_) == 2 and notes["left_out"] == {"no text under 'caption'": 1}
    assert notes["left_out_at"] == {"no text under 'caption'": ["data/train-00000-of-00001.parquet: row 2"]}
    assert inspect_path(folder).left_out == notes["left_out"] and inspect_path(folder).pairs == 2


def test_another_split_or_rule_makes_the_pairs_anew(
    path: Path, make_recipe: Any, given: Context, table: Callable[..., Path]
) -> None:
    source = {"source": given.recipe.pairs.source}
    for changed in ({"repeats": "all"}, {"split": "all"}):
        pipeline.prepare(path, make_recipe(pairs=source | changed), update=True)
        assert {s.name: s.state for s in pipeline.read_status(path)}["candidates"] == "out of date"


CASES = Path(__file__).parents[3] / "shared" / "cases"
SETS = sorted(path.name for path in CASES.glob("[FP]*") if not path.name.startswith("P6"))


@pytest.mark.long
@pytest.mark.parametrize("name", SETS)
def test_a_run_counts_what_inspecting_counts(context: Context, make_recipe: Any, name: str) -> None:
    found = inspect_path(CASES / name)
    notes, pairs_ = sizes(context, make_recipe, CASES / name, failure_budget=1.0)
    ties = notes["left_out"].pop("tie", 0)
    assert (len(pairs_), ties, notes["left_out"]) == (found.pairs, found.ties, found.left_out)
    assert notes["judgements"] == found.judgements

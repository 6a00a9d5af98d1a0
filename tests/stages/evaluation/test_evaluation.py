"""The stage with models that paint and judge by rule: what is drawn, from which seeds, and what is found again."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from agfsync import catalog
from agfsync.engine.progress import SilentProgress
from agfsync.errors import BudgetError, RecipeError, RunError
from agfsync.models import LORA_FILE
from agfsync.models.artefact import ModelArtefact
from agfsync.pipeline.checks import check_names
from agfsync.pipeline.plan import plan_stages
from agfsync.recipe import PartSettings, Recipe, check_recipe
from agfsync.recipe.models import StableDiffusionSettings
from agfsync.recipe.types import find_settings
from agfsync.records import Answer, Candidate, Caption, Comparison, Question, Score, derive_seed
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.pairwise import Ballot, Match
from agfsync.stages import evaluation, training
from agfsync.stages.context import Context
from agfsync.store import Run

DREW: list[tuple[str, int]] = []
"""Which model drew from which seed."""
BUILT: list[Mapping[str, Any]] = []
JUDGED: list[str] = []


class Painter:
    """Paints everything in the brightness of its model: the aligned one is brighter."""

    identity = "painter"

    def __init__(self, **settings: Any) -> None:
        BUILT.append(settings)
        self.aligned = "adapter" in settings or settings["path"].endswith("/model")

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> list[Image.Image]:
        assert embedding_noise == 0
        DREW.extend(("aligned" if self.aligned else "base", seed) for seed in seeds)
        return [Image.new("RGB", (4, 4), (200 if self.aligned else 100,) * 3) for _ in prompts]


class Brightness:
    asks_questions = False

    def __init__(self, *, path: str, **_: Any) -> None:
        self.blind = path == "blind"

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        JUDGED.extend(item.prompt for item in items)
        return [self._word(item) for item in items]

    def _word(self, item: Item) -> Measurement | Unscored:
        return (
            Unscored("too dark to see") if self.blind else Measurement(item.image.convert("L").getpixel((0, 0)) / 2.55)
        )  # type: ignore[operator]


class Axes(Brightness):
    """Embeds each of the base's images on another axis, and all of the aligned model's on the first one."""

    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        self.seen = getattr(self, "seen", 0)
        rows = []
        for image in images:
            self.seen += 1
            rows.append(0 if image.getpixel((0, 0)) == (200, 200, 200) else self.seen)
        return torch.eye(16)[rows]


class Asker(Brightness):
    asks_questions = True

    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        return [self._asked(item, "yes" if item.image.getpixel((0, 0))[0] > 150 else "no") for item in items]  # type: ignore[index]

    def _asked(self, item: Item, word: Any) -> Measurement:
        return Measurement(100.0 * (word == "yes"), tuple(Answer(q.key, word, 0.5) for q in item.questions))


class Referee:
    """Prefers the brighter image; asked about the look, the one shown first."""

    def __init__(self, *, path: str) -> None:
        self.path = path

    def compare(self, matches: Sequence[Match]) -> list[Ballot | Unscored]:
        JUDGED.extend(match.prompt for match in matches)
        return [Ballot("1" if self._is_first(match) else "2", "so it is", "raw") for match in matches]

    def _is_first(self, match: Match) -> bool:
        first, second = (image.convert("L").getpixel((0, 0)) for image in (match.first, match.second))
        return match.ask == "appeal" or first > second  # type: ignore[operator]


def recipe(**changes: Any) -> Recipe:
    painted = {
        "model": {"type": "painter", "path": "somewhere/base"},
        "scorers": {"bright": {"type": "bright", "path": "any"}, "oracle": {"type": "asker", "path": "any"}},
        "pairs": {"choose": {"weights": {"bright": 1.0}}},
        "evaluation": {"resamples": 50, "batch": 2},
    }
    return check_recipe(painted | changes, "test")


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """A run that has trained: three held-out captions with questions, one without, one to train on."""
    models = SimpleNamespace(Painter=Painter, Brightness=Brightness, Asker=Asker, Referee=Referee, Axes=Axes)
    monkeypatch.setitem(sys.modules, "ruled_models", models)
    monkeypatch.setitem(catalog.CATALOG["models"], "painter", "ruled_models:Painter")
    monkeypatch.setitem(catalog.CATALOG["scorers"], "bright", "ruled_models:Brightness")
    monkeypatch.setitem(catalog.CATALOG["scorers"], "axes", "ruled_models:Axes")
    monkeypatch.setitem(catalog.CATALOG["scorers"], "asker", "ruled_models:Asker")
    monkeypatch.setitem(catalog.CATALOG["pairwise"], "referee", "ruled_models:Referee")
    for told in (DREW, BUILT, JUDGED):
        told.clear()
    with Run.create(tmp_path / "run", "name: test\n") as run:
        captions = [Caption(f"c{i}", f"caption {i}", "things", "held-out" if i else "train") for i in range(5)]
        questions = {f"c{i}": [Question(f"q{i}", f"c{i}", "Is it?", "yes", "it", "object")] for i in range(4)}
        commit(run, "captions", {c.key: [c] for c in captions}, Caption)
        commit(run, "questions", questions, Question)
        train(run, "first")
        yield Context(run, recipe(), SilentProgress())


def commit(run: Run, table: str, units: Mapping[str, Any], kind: Any) -> None:
    run.commit(table, units, kind.schema)
    run.select(table, units)


def train(run: Run, digest: str) -> None:
    (run.path / "model").mkdir(exist_ok=True)
    ModelArtefact("pipeline", {"path": "somewhere/base"}).save(run.path / "model")
    run.finish("training", digest, 1.0, {})


def changed(context: Context, **changes: Any) -> Context:
    return Context(context.run, recipe(**changes), SilentProgress())


def test_both_models_draw_every_held_out_caption_from_the_same_seed(context: Context) -> None:
    evaluation.run(context)
    seeds = [derive_seed(0, "evaluation", f"c{i}") for i in (1, 2, 3)]
    assert [("base", s) for s in seeds] + [("aligned", s) for s in seeds] == DREW
    images = list(context.run.read("evaluation_images", Candidate))
    assert [(p.caption_key, p.generator) for p in images] == [
        (f"c{i}", m) for m in ("base", "aligned") for i in (1, 2, 3)
    ]


def test_every_scorer_and_every_judge_compares(context: Context) -> None:
    notes = evaluation.run(context)
    rows = list(context.run.read("evaluation", Comparison))
    assert {(r.judge, r.element_type) for r in rows} == {("bright", ""), ("oracle", ""), ("oracle", "object")}
    assert len(rows) == 9
    assert notes["captions"] == 3
    assert notes["judges"]["oracle"]["difference"] == 100.0
    assert notes["judges"]["bright"]["difference"] == pytest.approx(100 / 2.55)
    assert notes["judges"]["oracle"]["win_rate"] == 1.0
    assert len(list(context.run.read("evaluation_scores", Score))) == 12


def test_a_second_run_does_nothing_anew(context: Context) -> None:
    first = evaluation.run(context)
    for told in (DREW, BUILT, JUDGED):
        told.clear()
    assert evaluation.run(context) == first
    assert (DREW, BUILT, JUDGED) == ([], [], [])


def test_after_another_training_only_the_aligned_model_draws(context: Context) -> None:
    evaluation.run(context)
    DREW.clear()
    JUDGED.clear()
    train(context.run, "second")
    evaluation.run(context)
    assert {model for model, _ in DREW} == {"aligned"}
    assert len(JUDGED) == 3
    assert len(list(context.run.read("evaluation_images", Candidate))) == 6


def test_a_new_judge_judges_the_images_that_are_there(context: Context) -> None:
    evaluation.run(context)
    DREW.clear()
    bright, asker = {"type": "bright", "path": "any"}, {"type": "asker", "path": "any"}
    scorers = {"bright": bright, "oracle": asker, "second": bright}
    notes = evaluation.run(changed(context, scorers=scorers, evaluation={"resamples": 50}))
    assert DREW == []
    assert set(notes["judges"]) == {"bright", "oracle", "second"}


def test_the_aligned_model_is_a_folder_of_its_own(context: Context) -> None:
    evaluation.run(context)
    assert [built["path"] for built in BUILT] == ["somewhere/base", str(context.run.path / "model")]


def test_what_was_saved_has_its_own_parts(context: Context) -> None:
    """A UNet that the base takes from elsewhere isn't put onto the aligned model."""
    given = StableDiffusionSettings(path="somewhere/base", variant="fp16", unet=PartSettings(path="a/b"))
    other = Context(context.run, context.recipe.model_copy(update={"model": given}), SilentProgress())
    assert evaluation._list_arguments(other, "base") == given.arguments()
    aligned = evaluation._list_arguments(other, "aligned")
    assert [aligned[key] for key in ("variant", "vae", "unet", "revision")] == [None] * 4
    assert aligned["path"] == str(context.run.path / "model")


def test_or_a_lora_on_the_base(context: Context) -> None:
    ModelArtefact("adapters", {"path": "somewhere/base"}, (LORA_FILE,)).save(context.run.path / "model")
    evaluation.run(context)
    assert [built["path"] for built in BUILT] == ["somewhere/base", "somewhere/base"]
    assert BUILT[1]["adapter"] == context.run.path / "model"
    assert {model for model, _ in DREW} == {"base", "aligned"}


def test_without_an_aligned_model_it_says_what_to_do(context: Context) -> None:
    context.run.reopen("training")
    with pytest.raises(RunError, match="no aligned model .* type `agfsync training"):
        evaluation.run(context)


def test_a_judge_that_says_nothing_stops_the_run(context: Context) -> None:
    blind = {"bright": {"type": "bright", "path": "any"}, "oracle": {"type": "bright", "path": "blind"}}
    with pytest.raises(BudgetError, match="evaluation: 6 of 6 images skipped: no oracle score: too dark to see"):
        evaluation.run(changed(context, scorers=blind))
    notes = evaluation.run(changed(context, scorers=blind, failure_budget=1.0))
    assert notes["unscored"] == {"bright": {}, "oracle": {"too dark to see": 6}}
    assert set(notes["judges"]) == {"bright"}


def test_no_held_out_caption_is_an_empty_evaluation(context: Context) -> None:
    context.run.select("questions", ["c0"])
    notes = evaluation.run(context)
    assert (notes["captions"], notes["judges"], BUILT) == (0, {}, [])


def test_a_set_of_a_file_is_drawn_and_judged_by_its_own_scorers(context: Context, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a kite\na lighthouse\ncaption 0\n")
    sets = {"held-out": {}, "mine": {"source": str(tmp_path / "prompts.txt"), "by": ["bright"]}}
    notes = evaluation.run(changed(context, evaluation={"sets": sets, "resamples": 50}))
    assert (notes["set"], notes["captions"], set(notes["judges"])) == ("held-out", 3, {"bright", "oracle"})
    mine = notes["sets"]["mine"]["judges"]
    # "caption 0" is trained on.
    assert {name: figures["prompts"] for name, figures in mine.items()} == {"bright": 2}
    assert mine["bright"]["difference"] == pytest.approx(100 / 2.55)
    rows = list(context.run.read("evaluation", Comparison))
    assert {(row.set, row.judge) for row in rows} == {
        ("held-out", "bright"),
        ("held-out", "oracle"),
        ("mine", "bright"),
    }
    assert len(list(context.run.read("evaluation_scores", Score))) == 2 * 3 * 2 + 2 * 2
    assert [c.text for c in context.run.read("evaluation_captions", Caption)] == ["a kite", "a lighthouse"]


def test_another_set_draws_no_held_out_image_again(context: Context, tmp_path: Path) -> None:
    evaluation.run(context)
    DREW.clear()
    (tmp_path / "prompts.txt").write_text("a kite\n")
    sets = {"held-out": {}, "mine": {"source": str(tmp_path / "prompts.txt")}}
    evaluation.run(changed(context, evaluation={"sets": sets, "resamples": 50}))
    assert [model for model, _ in DREW] == ["base", "aligned"]


def test_a_set_may_be_a_part_of_a_file_spread_over_its_categories(context: Context, tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text(
        "prompt,category\n" + "".join(f"{c}{n},{c}\n" for n in range(4) for c in "ab")
    )
    sets = {"mine": {"source": str(tmp_path / "prompts.csv"), "count": 2, "by": ["bright"]}}
    notes = evaluation.run(changed(context, evaluation={"sets": sets, "resamples": 50}))
    assert (notes["set"], notes["captions"]) == ("mine", 2) and "sets" not in notes
    assert [c.text for c in context.run.read("evaluation_captions", Caption)] == ["a0", "b0"]


def test_a_judge_that_asks_judges_the_prompts_of_a_set_that_have_questions(context: Context, tmp_path: Path) -> None:
    """Any number of sets beside the held-out captions: without questions, partly with, and with."""
    (tmp_path / "bare.txt").write_text("a kite\na lighthouse\n")
    (tmp_path / "some.jsonl").write_text(
        '{"prompt": "a fox", "questions": [{"question": "is there a fox?", "answer": "yes"}]}\n{"prompt": "a hen"}\n'
    )
    sets: dict[str, Any] = {"held-out": {}, "bare": {"source": str(tmp_path / "bare.txt")}}
    sets["some"] = {"source": str(tmp_path / "some.jsonl")}
    there = changed(context, evaluation={"sets": sets, "resamples": 50})
    check_names(there.recipe)
    notes = evaluation.run(there)
    judged = {name: {j: f["prompts"] for j, f in of["judges"].items()} for name, of in notes["sets"].items()}
    assert judged == {"bare": {"bright": 2}, "some": {"bright": 2, "oracle": 1}}
    assert notes["unscored"] == {"bright": {}, "oracle": {}} and set(notes["judges"]) == {"bright", "oracle"}


def test_a_set_that_no_judge_can_judge_is_refused_before_anything_runs(context: Context, tmp_path: Path) -> None:
    (tmp_path / "bare.txt").write_text("a kite\n")
    sets = {"held-out": {}, "bare": {"source": str(tmp_path / "bare.txt"), "by": ["oracle", "bright"]}}
    with pytest.raises(RecipeError, match="bare.txt has no questions, and oracle can only judge by questions"):
        check_names(recipe(evaluation={"sets": sets}))


def test_a_judge_of_yes_and_no_alone_is_refused_where_other_answers_are_asked_for(
    context: Context, tmp_path: Path
) -> None:
    asked = '{"prompt": "a fox", "questions": [{"question": "how many foxes?", "answer": "one"}]}'
    (tmp_path / "open.jsonl").write_text(asked)
    sets = {"held-out": {}, "open": {"source": str(tmp_path / "open.jsonl")}}
    says = r'sets.open: open.jsonl asks for other answers .* "how many foxes\?", and oracle can only say yes or no'
    with pytest.raises(RecipeError, match=says):
        check_names(recipe(evaluation={"sets": sets}))
    with pytest.raises(RecipeError, match="captions.source: open.jsonl asks for other answers"):
        check_names(recipe(captions={"source": str(tmp_path / "open.jsonl"), "count": 1}))


class Steered:
    """A method that trains nothing and steers the sampling."""

    needs, trains = "nothing", "nothing"

    def __init__(self, strength: float = 1.0) -> None: ...


def test_a_method_that_trains_nothing_steers_the_base(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ruled_models"], "Steered", Steered, raising=False)
    monkeypatch.setitem(catalog.CATALOG["methods"], "steered", "ruled_models:Steered")
    find_settings.cache_clear()
    method = {"method": {"type": "steered", "strength": 20.0}}
    there = changed(context, training=method)
    assert [stage.name for stage in plan_stages(there.recipe)] == [
        "captions",
        "questions",
        "training",
        "evaluation",
        "report",
    ]
    assert training.run(there) == {"steps": 0}
    evaluation.run(there)
    assert BUILT[-1]["steering"] == {"type": "steered", "strength": 20.0} and "adapter" not in BUILT[-1]
    assert "steering" not in BUILT[0]


def test_a_set_that_is_judged_pairwise_takes_the_images_of_another(context: Context) -> None:
    arena = {"of": "held-out", "pairwise": {"type": "referee", "path": "any", "asks": ["alignment", "appeal"]}}
    paired = changed(context, evaluation={"resamples": 50, "batch": 2, "sets": {"held-out": {}, "arena": arena}})
    notes = evaluation.run(paired)
    assert len(DREW) == 6
    figures = notes["pairwise"]["arena"]
    assert [(f["wins"], f["ties"], f["first"]) for f in figures.values()] == [(3, 0, 0.5), (0, 3, 1.0)]
    assert notes["judges"] == evaluation.run(context)["judges"]
    JUDGED.clear()
    assert evaluation.run(paired)["pairwise"] == notes["pairwise"]
    assert JUDGED == []


def test_several_images_of_a_caption_show_the_diversity_and_a_reference_the_distance(
    context: Context, tmp_path: Path
) -> None:
    first = evaluation.run(context)
    assert "diversity" not in first and "cmmd" not in first
    DREW.clear()
    JUDGED.clear()
    for name in "ab":
        Image.new("RGB", (4, 4), (200, 200, 200)).save(tmp_path / f"{name}.png")
    settings = {"resamples": 50, "per_caption": 3, "reference": str(tmp_path), "embedding": "bright"}
    scorers = {"bright": {"type": "axes", "path": "any"}, "oracle": {"type": "asker", "path": "any"}}
    more = changed(context, scorers=scorers, evaluation=settings)
    notes = evaluation.run(more)
    # The first images are found again, and only they are judged.
    seeds = [derive_seed(0, "evaluation", f"c{i}", n) for i in (1, 2, 3) for n in (1, 2)]
    assert [("base", s) for s in seeds] + [("aligned", s) for s in seeds] == DREW
    assert notes["judges"]["oracle"] == first["judges"]["oracle"]
    assert len(list(context.run.read("evaluation_images", Candidate))) == 6
    diversity, cmmd = notes["diversity"], notes["cmmd"]
    assert (diversity["prompts"], diversity["per_caption"], diversity["embedding"]) == (3, 3, "bright")
    assert (diversity["base"], diversity["aligned"], diversity["difference"]) == (100, 0, -100)
    assert cmmd["aligned"] == pytest.approx(0, abs=1e-9) and cmmd["base"] > 5 and cmmd["reference"] == 2
    DREW.clear()
    assert evaluation.run(more) == notes and DREW == []


def test_an_embedding_must_be_there_and_give_embeddings(context: Context, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="name it under evaluation.embedding; scorers has bright, oracle"):
        recipe(evaluation={"per_caption": 2})
    with pytest.raises(RecipeError, match="evaluation.embedding: 'bright', a bright scorer, gives no embeddings"):
        check_names(recipe(evaluation={"per_caption": 2, "embedding": "bright"}))
    clip = {"clip": {"type": "clip", "path": "embedded:clip"}}
    weighed = {"choose": {"weights": {"clip": 1.0}}}
    assert recipe(scorers=clip, pairs=weighed, evaluation={"per_caption": 2}).embedding == "clip"
    assert recipe(scorers=clip, pairs=weighed).embedding is None

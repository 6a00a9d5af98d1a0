"""The stage reward on a run's pairs: the splits, the artefact, the accuracies, and a run that goes on where it was."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_annotator import FakeAnnotator
from fake_language import FakeServer
from safetensors.torch import load_file

from agfsync import catalog, pipeline
from agfsync.errors import RecipeError, RunError
from agfsync.models.artefact import ModelArtefact
from agfsync.recipe import Recipe
from agfsync.recipe.reward import Reward
from agfsync.records import Pair
from agfsync.scorers import Item, Measurement
from agfsync.stages import reward
from agfsync.stages.context import Context, digest_scorer
from agfsync.stages.own_reward import bind_scorers, choose_split

NETWORK = {"type": "clip-head", "path": "embedded:clip", "hidden": [8, 4], "frozen": 1.0, "device": "cpu"}
SECTION = {"method": {"type": "bradley-terry", "network": NETWORK}, "steps": 4, "batch": 6, "learning_rate": 1e-3}
SECTION |= {"precision": "fp32", "checkpoint_every": 2, "validation": 0.25, "test": 0.25}
VP = {"type": "vp-score", "path": "run:reward", "device": "cpu", "dtype": "fp32"}


UP_TO_PAIRS = ("captions", "questions", "candidates", "scores", "pairs")


@pytest.fixture
def paired(open_done: Callable[..., Context], make_recipe: Any) -> Context:
    """A run with every pair of the candidates of 24 captions."""
    choose = {"type": "every", "weights": {"red": 1.0, "vqa": 0.5}}
    recipe = make_recipe(
        captions={"writer": "double", "count": 24, "held_out": 5},
        pairs={"choose": choose},
        reward=SECTION,
        evaluation={"resamples": 50},
    )
    return open_done(recipe, *UP_TO_PAIRS)


def changed(context: Context, **changes: Any) -> Context:
    recipe = context.recipe.with_({f"reward.{key}": value for key, value in changes.items()})
    return replace(context, recipe=recipe)


def test_the_artefact_is_a_standardised_reward_of_the_training_images(paired: Context) -> None:
    notes = reward.run(paired)
    folder = paired.run.path / "reward"
    assert {"model.json", "model.safetensors", "config.json", "tokenizer.json", "README.md"} <= {
        each.name for each in folder.iterdir()
    }
    assert ModelArtefact.load(folder).kind == "reward"
    scorer = catalog.build("scorers", {"type": "vp-score", "path": str(folder), "device": "cpu"})
    split = reward.load_pairs(paired, reward.load_network(paired.recipe))
    trained = [split.keys[int(row)] for row in split.data.select(split.train).images]
    texts = {row["key"]: row["text"] for row in paired.run.rows("captions")}
    drawn = {row["key"]: row for row in paired.run.rows("candidates") if row["key"] in trained}
    from agfsync.files.images import decode_image

    items = [Item(texts[r["caption_key"]], (), decode_image(r["image"]["bytes"])) for r in drawn.values()]
    values = torch.tensor([each.value for each in scorer.score(items) if isinstance(each, Measurement)])
    rewards = scorer.standardise(values)
    assert float(rewards.mean()) == pytest.approx(0, abs=1e-2)
    assert float(rewards.std(correction=0)) == pytest.approx(1, abs=1e-2)
    assert json.dumps(notes) and notes["steps"] == 4 and 0 <= notes["best_step"] <= 4
    assert "| reward model |" in (folder / "README.md").read_text()


def test_the_splits_are_of_prompts_and_a_larger_share_contains_the_smaller(paired: Context) -> None:
    model = reward.load_network(paired.recipe)
    captions_of = {}
    for share in (1.0, 0.5):
        split = reward.load_pairs(changed(paired, share=share), model)
        captions_of[share] = [
            {split.records[int(n)].caption_key for n in part} for part in (split.train, split.validation, split.test)
        ]
        train, validation, test = captions_of[share]
        assert not train & validation and not train & test and not validation & test
    assert captions_of[0.5][0] < captions_of[1.0][0]
    assert captions_of[0.5][1:] == captions_of[1.0][1:]


def test_every_scorer_is_measured_on_the_same_pairs(paired: Context) -> None:
    table = reward.run(paired)["accuracy"][""]
    assert list(table) == ["reward model", "red", "vqa"]
    assert len({figures["pairs"] for figures in table.values()}) == 1
    # The pairs were chosen by their sum: both can be recounted from the scores.
    values = {
        (row["scorer"], row["candidate_key"]): row["value"]
        for row in paired.run.rows("scores", ["scorer", "candidate_key", "value"])
    }
    tested = [
        pair
        for pair in paired.run.read("pairs", Pair)
        if choose_split(pair.caption_key, reward.require_reward(paired.recipe)) == "test"
    ]
    for name in ("red", "vqa"):
        gaps = [values[name, pair.winner_key] - values[name, pair.loser_key] for pair in tested]
        expected = sum((gap > 0) + (gap == 0) / 2 for gap in gaps) / len(gaps)
        assert table[name]["accuracy"] == pytest.approx(expected)
        assert table[name]["difference"] == pytest.approx(table["reward model"]["accuracy"] - expected)


def test_another_judge_of_the_table_trains_nothing_again(paired: Context, loaded: list[str]) -> None:
    reward.run(paired)
    before = load_file(paired.run.path / "reward" / "model.safetensors")
    log = (paired.run.path / "reward_training" / "metrics.jsonl").read_text()
    recipe = paired.recipe.with_({"scorers.late": {"type": "double", "path": "late"}})
    table = reward.run(replace(paired, recipe=recipe))["accuracy"][""]
    assert list(table) == ["reward model", "red", "vqa", "late"] and "late" in loaded
    after = load_file(paired.run.path / "reward" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (paired.run.path / "reward_training" / "metrics.jsonl").read_text() == log


def test_pairs_of_other_aspects_can_be_left_out_of_the_training(
    open_done: Callable[..., Context], make_recipe: Any
) -> None:
    recipe = make_recipe(
        captions={"writer": "double", "count": 24, "held_out": 5},
        pairs={"choose": {"type": "by-aspect", "judges": ["red", "vqa"]}},
        reward=SECTION | {"aspects": ["red"]},
    )
    context = open_done(recipe, *UP_TO_PAIRS)
    split = reward.load_pairs(context, reward.load_network(recipe))
    assert {split.records[int(n)].aspect for n in torch.cat([split.train, split.validation])} == {"red"}
    assert {split.records[int(n)].aspect for n in split.test} == {"red", "vqa"}
    assert set(reward.run(context)["accuracy"]) == {"", "red", "vqa"}
    with pytest.raises(RunError, match=r"no pair is left for train: make pairs of more captions, or see reward\."):
        reward.run(changed(context, aspects=["other"]))


def test_a_scorer_of_the_run_counts_by_the_weights_and_not_by_the_place(paired: Context, tmp_path: Path) -> None:
    recipe = paired.recipe.with_({"scorers.vp": VP})
    assert bind_scorers(recipe, paired.run) is recipe
    names = []
    for mark in ("one", "two"):
        paired.run.finish("reward", mark, 0.0, {})
        bound = bind_scorers(recipe, paired.run).scorers["vp"]
        assert bound.path == str(paired.run.path.resolve() / "reward") and bound.is_own
        names.append(digest_scorer("vp", bound))
        moved = bound.model_copy(update={"path": "/elsewhere"})
        assert digest_scorer("vp", moved) == names[-1]
    assert names[0] != names[1]


def test_the_run_ends_with_the_reward_model_where_nothing_else_is_trained(tmp_path: Path, make_recipe: Any) -> None:
    recipe = make_recipe(
        captions={"writer": "double", "count": 24, "held_out": 5},
        reward=SECTION,
        training={"method": {"type": "none"}},
    )
    names = [stage.name for stage in pipeline.plan_stages(recipe)]
    assert names == ["captions", "questions", "candidates", "scores", "pairs", "reward", "report"]
    pipeline.prepare(tmp_path / "run", recipe)
    pipeline.run(tmp_path / "run")
    assert pipeline.is_up_to_date(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<section id="reward">' in page and '<th scope="row">reward model</th>' in page


def test_a_method_that_draws_waits_for_the_reward_model() -> None:
    with_vp = {"reward": SECTION, "scorers.vp": VP}
    method = {"type": "policy-gradient", "loss": "ppo", "reward": {"vp": 1.0}}
    planned = {s.name: s.after for s in pipeline.plan_stages(Recipe().with_(with_vp | {"training.method": method}))}
    assert planned["training"] == ("captions", "reward")
    assert planned["evaluation"] == ("questions", "training", "reward")
    assert planned["reward"] == ("pairs",)
    alone = {s.name: s.after for s in pipeline.plan_stages(Recipe().with_({"reward": SECTION}))}
    assert alone["training"] == ("pairs",) and alone["evaluation"] == ("questions", "training")
    assert "reward" not in {s.name for s in pipeline.plan_stages(Recipe())}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scorers.vp": VP}, "scorers.vp has the path run:reward, but the recipe has no section reward"),
        (
            {"reward": SECTION, "scorers.vp": VP, "pairs.choose": {"type": "every", "weights": {"vp": 1.0}}},
            "pairs.choose names 'vp', the run's own reward model, which is trained on its pairs: it can't score",
        ),
        ({"reward": SECTION, "scorers.vp": VP, "scores.by": ["vp"]}, "scores.by names 'vp', the run's own reward"),
        (
            {"reward": SECTION, "scorers.vp": VP, "training.method": {"type": "best", "reward": {"vp": 1.0}}},
            "training.method names 'vp', the run's own reward model",
        ),
        ({"training.method": SECTION["method"]}, "bradley-terry trains a reward model: give it in a section reward"),
        ({"reward": {"method": {"type": "dpo"}}}, "reward.method dpo trains no reward model: take bradley-terry"),
        ({"reward": SECTION | {"by": ["who"]}}, "reward.by names no scorer 'who'"),
        ({"reward": SECTION | {"accumulate": 9}}, "accumulate splits the 6 pairs of reward.batch into 9 parts"),
        (
            {"reward": SECTION, "scorers.vp": VP, "training.watch": {"by": "vp"}},
            "training.watch.by names 'vp', the run's own reward model, which learnt from the same pairs",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as raised:
        Recipe().with_(changes)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_epochs_become_steps() -> None:
    recipe = Recipe().with_({"reward": {"method": SECTION["method"], "epochs": 1.5, "batch": 10}})
    assert isinstance(recipe.reward, Reward)
    assert reward.make_plan(recipe.with_({"reward.precision": "fp32"}), 100).steps == 15


@pytest.mark.slow
def test_an_annotator_is_measured_by_the_scores_that_it_has_given(
    tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-for-the-annotator")
    with FakeServer(answer=FakeAnnotator()) as served:
        gpt = {"type": "aspects-openai", "path": "fake", "server": {"base_url": served.url}}
        recipe = make_recipe(
            captions={"writer": "double", "count": 12, "held_out": 2},
            scorers={"gpt": gpt, "red": {"type": "double", "path": "none"}},
            scores={"by": ["gpt"]},
            pairs={"choose": {"type": "by-aspect", "judges": ["gpt", "gpt.aesthetic"], "couples": "every"}},
            reward=SECTION,
            training={"method": {"type": "none"}},
        )
        pipeline.prepare(tmp_path / "run", recipe)
        pipeline.run(tmp_path / "run", until="reward")
    (noted,) = (s.finished.notes for s in pipeline.read_status(tmp_path / "run") if s.name == "reward" and s.finished)
    table = noted["accuracy"]
    assert set(table) == {"", "gpt", "gpt.aesthetic"}
    assert {"reward model", "gpt", "gpt.aesthetic", "red"} <= set(table[""])
    # It agrees with the pairs that it chose itself.
    assert table["gpt.aesthetic"]["gpt.aesthetic"]["accuracy"] == 1

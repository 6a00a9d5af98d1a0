"""Rounds: each draws with the model before it and trains it further; the stop rule, kills, the alarm, and the page."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from agfsync import cli, pipeline
from agfsync.errors import RecipeError, RunError
from agfsync.models.artefact import ModelArtefact
from agfsync.recipe import Recipe, dump_recipe
from agfsync.records import Caption, Comparison
from agfsync.stages import training
from agfsync.store import Run
from agfsync.study import rounds
from agfsync.study.hacking import find_round_alarms
from agfsync.study.rounds import (
    are_rounds_done,
    find_shortfall,
    locate_round,
    make_round_recipe,
    read_rounds,
    run_with_rounds,
)
from agfsync.study.verifying import verify_runs

pytestmark = pytest.mark.long

TRAINING = {"steps": 2, "batch": 2, "learning_rate": 1e-3, "precision": "fp32", "method": {"beta": 500.0}}


@pytest.fixture
def recipe(tiny_generator: Path, make_recipe: Any) -> Recipe:
    """Two rounds of four new captions each, on a random model."""
    model = {"type": "stable-diffusion", "path": str(tiny_generator), "device": "cpu", "sampling": {"steps": 2}}
    found: Recipe = make_recipe(
        model=model,
        training=TRAINING,
        captions={"count": 4, "held_out": 8},
        candidates={"per_caption": 2},
        engine={"type": "local"},
        evaluation={"resamples": 50},
        rounds={"count": 2},
    )
    return found


def read_captions(path: Path, split: str) -> set[str]:
    with Run.open(path) as run:
        return {caption.text for caption in run.read("captions", Caption) if caption.split == split}


def read_weights(path: Path) -> bytes:
    return (path / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


def test_a_round_draws_with_the_model_before_it_and_shares_the_rest(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    path, second = tmp_path / "run", tmp_path / "run" / "rounds" / "2"
    (tmp_path / "mine.yaml").write_text(dump_recipe(recipe))
    assert cli.main(["run", str(tmp_path / "mine.yaml"), "--out", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"round-1 seed 0    done  {path}",
        f"round-2 seed 0    done  {second}",
        f"rounds: {path / 'rounds.html'}",
    ]
    ours, theirs = (read_captions(each, "train") for each in (path, second))
    assert len(ours) == len(theirs) == 4 and not ours & theirs
    assert read_captions(path, "held-out") == read_captions(second, "held-out")
    with Run.open(path) as first, Run.open(second) as later:
        drawn = set(first.list_made("evaluation_images"))
        # The aligned model's eight images are the only new ones, and theirs the only new scores.
        assert len(set(later.list_made("evaluation_images")) - drawn) == 8 == len(drawn) / 2
        rows = list(later.rows("candidates", ["index", "generator"]))
        trained = first.find_finished("training")
        assert {row["index"] for row in rows} == {2, 3} and trained is not None
        assert not {row["generator"] for row in rows} & {r["generator"] for r in first.rows("candidates")}
    start = pipeline_recipe(second).start
    assert start is not None and start.mark == trained.mark and start.path == str(path / "model")
    table = pq.read_table(path / "rounds.parquet").to_pylist()
    assert {row["arm"] for row in table} == {"base", "round-1", "round-2"}
    of = {row["arm"]: row for row in table if row["judge"] == "red"}
    assert of["round-2"]["over"] == pytest.approx(of["round-2"]["gain"] - of["round-1"]["gain"])
    assert of["round-1"]["over"] is None
    page = (path / "rounds.html").read_text()
    assert "over the previous round" in page.lower() and page.count('<img src="data:') == 3 * 6
    assert cli.main(["study", "table", str(path)]) == 0 and "| round-2 | 1 |" in capsys.readouterr().out
    before = {each: each.stat().st_mtime_ns for each in path.rglob("*") if each.is_file()}
    assert cli.main(["run", str(tmp_path / "mine.yaml"), "--out", str(path)]) == 0
    assert before == {each: each.stat().st_mtime_ns for each in path.rglob("*") if each.is_file()}
    assert verify_runs(path) == pipeline.verify(path) + pipeline.verify(second)
    own = {each.name for each in (path / "evaluation_images").iterdir()}
    part = next(each for each in (second / "evaluation_images").iterdir() if each.name not in own)
    part.write_bytes(part.read_bytes()[::-1])
    assert cli.main(["verify", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(second) in error and part.name in error


def pipeline_recipe(path: Path) -> Recipe:
    with Run.open(path) as run:
        return pipeline.read_recipe(run)


def test_stopped_anywhere_and_typed_again_rounds_end_with_the_same_model(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pipeline.prepare(whole, recipe)
    run_with_rounds(whole)
    pipeline.prepare(stopped, recipe)
    pipeline.run(stopped)

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    for module, name in [
        (rounds, "fork_run"),
        (pipeline, "prepare"),
        (training, "train"),
    ]:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, name, stop)
            run_with_rounds(stopped)
        assert not are_rounds_done(stopped)
    run_with_rounds(stopped)
    assert are_rounds_done(stopped)
    for number in (1, 2):
        assert read_weights(locate_round(stopped, number)) == read_weights(locate_round(whole, number))
    assert read_weights(whole) != read_weights(locate_round(whole, 2))


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 3.0}], ids=["whole", "lora"])
def test_the_reference_is_the_base_or_the_round_before(tmp_path: Path, recipe: Recipe, lora: Any) -> None:
    path = tmp_path / "run"
    recipe = recipe.with_({"training.lora": lora, "training.steps": 4, "training.learning_rate": 0.1})
    pipeline.prepare(path, recipe)
    pipeline.run(path, until="training")
    base = network_output(training._load_denoiser(recipe, None).network)
    for reference in ("base", "previous"):
        later = make_round_recipe(recipe.with_({"rounds.reference": reference}), 2, path / "model", "mark")
        denoiser = training._load_denoiser(later, later.start)
        actor = training._prepare_actor(later, denoiser, training._build_method(later))
        start = network_output(denoiser.network)
        assert not torch.equal(start, base) and actor.reference is not None
        arguments = ModelArtefact.load(path / "model").extend_arguments(recipe.model.arguments(), path / "model")
        drawn_with = network_output(training.catalog.build("models", arguments).network)
        assert torch.allclose(start, drawn_with, atol=1e-5)
        with torch.no_grad():
            for each in denoiser.network.parameters():
                each += 0.01 * each.requires_grad
        trained = network_output(denoiser.network)
        with actor.reference() as frozen:
            assert torch.equal(network_output(frozen), base if reference == "base" else start)
        assert torch.equal(network_output(denoiser.network), trained) and not torch.equal(trained, start)


def network_output(network: Any) -> torch.Tensor:
    """Return a prediction for fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, network.config.in_channels, 8, 8, generator=generator)
    states = torch.randn(1, 4, network.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return network(noisy, torch.tensor([500]), encoder_hidden_states=states).sample.clone()


def test_a_lora_of_another_rank_is_not_trained_further(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "run"
    recipe = recipe.with_({"training.lora": {"rank": 2}})
    pipeline.prepare(path, recipe)
    pipeline.run(path, until="training")
    later = make_round_recipe(recipe, 2, path / "model", "mark")
    with pytest.raises(Exception, match="fits no LoRA of rank 3"):
        wider = later.with_({"training.lora": {"rank": 3}})
        training._prepare_actor(wider, training._load_denoiser(wider, wider.start), training._build_method(wider))
    with pytest.raises(Exception, match="holds adapters.*change training.lora"):
        pipeline.prepare(tmp_path / "other", later.with_({"training.lora": None}))


def test_rounds_end_where_the_judge_gains_too_little(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe.with_({"rounds": {"count": 4, "stop": {"by": "watched", "gain": 1.0}}} | WATCHED)
    key = ("held-out", "watched")
    # Paired by caption: round 1 gains (2 + 3 + 1) / 3 = 2, round 2 (4 - 2) / 2 = 1, round 3 (1 + 0.5) / 2 = 0.75.
    values = [
        {key: {"a": 1.0, "b": 1.0, "c": 1.0}},
        {key: {"a": 3.0, "b": 4.0, "c": 2.0}},
        {key: {"a": 7.0, "b": 2.0}},
        {key: {"a": 8.0, "b": 2.5, "c": 90.0}},
    ]
    places = {locate_round(tmp_path, number): found for number, found in enumerate(values[1:], 1)}
    monkeypatch.setattr(rounds, "read_base_values", lambda path: values[0])
    monkeypatch.setattr(rounds, "_read_evaluated", lambda place: places.get(place, {}))
    assert [find_shortfall(tmp_path, recipe, number) for number in (1, 2, 3, 4)] == [None, None, 0.75, None]
    strict = recipe.with_({"rounds.stop.gain": 2.5})
    assert find_shortfall(tmp_path, strict, 1) == 2.0
    assert find_shortfall(tmp_path, recipe.with_({"rounds.stop": None}), 3) is None
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    found = read_rounds(tmp_path)
    assert list(found.arms) == ["round-1", "round-2", "round-3"]
    assert found.ended == "Ended after round 3: watched gained +0.8, less than rounds.stop.gain 1."
    places[locate_round(tmp_path, 2)] = {key: {"z": 1.0}}
    with pytest.raises(RunError, match=r"watched has judged no caption of held-out in both rounds"):
        find_shortfall(tmp_path, recipe, 2)


WATCHED = {"scorers.watched": {"type": "shapes-oracle"}}


def test_an_alarm_tells_that_trained_judges_rise_while_the_watched_one_falls() -> None:
    captions = [f"c{n}" for n in range(30)]
    flat = dict.fromkeys(captions, 50.0)

    def moved(by: float) -> dict[str, float]:
        return {caption: 50.0 + by + 0.1 * (n % 3) for n, caption in enumerate(captions)}

    found = find_round_alarms({"oracle": [flat, moved(5), moved(2)], "vqa": [flat, moved(4), moved(7)]}, "oracle", 999)
    assert [alarm.title for alarm in found] == ["Reward hacking? Round 2 is worse by the watched judge"]
    assert found[0].text == "From round 1 to round 2 the method raised vqa by +3.0, while oracle fell by 3.0."
    for oracle, vqa in [((5, 6), (4, 7)), ((5, 2), (4, 3)), ((5, 5), (4, 7))]:
        values = {"oracle": [flat, *map(moved, oracle)], "vqa": [flat, *map(moved, vqa)]}
        assert not find_round_alarms(values, "oracle", 999)
    few = {
        judge: [dict(list(each.items())[:19]) for each in of] for judge, of in {"oracle": [moved(5), moved(2)]}.items()
    }
    assert not find_round_alarms(few | {"vqa": [moved(1), moved(9)]}, "oracle", 999)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rounds.count": 1}, "rounds.count: .*greater than or equal to 2"),
        ({"rounds.refrence": "base"}, "unknown key 'rounds.refrence': did you mean 'reference'"),
        ({"training.method": {"type": "none"}}, "rounds: none trains no model"),
        ({"training.method": {"type": "syngen"}}, "rounds: syngen trains no model"),
        ({"pairs.source": "/there"}, "leave out pairs.source"),
        ({"rounds.stop": {"by": "red"}}, "rounds.stop.by names 'red', which the method learns from"),
        ({"rounds.stop": {"by": "blue"}}, "no scorer 'blue' judges an evaluation set 'held-out'"),
        ({"rounds.stop": {"by": "red", "set": "mine"}}, "judges an evaluation set 'mine'"),
        ({**WATCHED, "rounds.stop": {"by": "watched"}, "captions.held_out": 0}, "set captions.held_out"),
    ],
)
def test_rounds_that_make_no_sense_are_refused_in_a_line(recipe: Recipe, changes: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as refused:
        recipe.with_(changes)
    assert "\n" not in str(refused.value)


def test_a_file_must_have_enough_captions_for_all_rounds(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"a thing of kind {number}" for number in range(15)))
    changes = {"captions.source": str(tmp_path / "prompts.txt"), "captions.held_out": 8, "captions.count": 4}
    says = r"prompts.txt has 15 captions, and 2 rounds of new ones need 16"
    with pytest.raises(RecipeError, match=says):
        pipeline.check_names(recipe.with_(changes))
    pipeline.check_names(recipe.with_(changes | {"captions.held_out": 7}))
    pipeline.check_names(recipe.with_(changes | {"rounds.captions": "same"}))


def test_an_arm_of_a_study_may_have_rounds(tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_recipe(recipe.with_({"rounds": None})))
    best = {"type": "best", "reward": {"red": 1.0}}
    arms = {"dreamsync": {"training.method": best, "rounds": {"count": 2, "captions": "same"}}, "one": {}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": "tiny.yaml", "resamples": 50, "arms": arms}))
    path, arm = tmp_path / "study", tmp_path / "study" / "arms" / "dreamsync" / "seed-0"
    assert cli.main(["study", str(tmp_path / "mine.yaml"), "--out", str(path)]) == 0
    assert f"dreamsync seed 0    done  {arm}" in capsys.readouterr().out
    assert read_captions(arm, "train") == read_captions(arm / "rounds" / "2", "train")
    with Run.open(arm / "rounds" / "2") as run:
        last = [row.aligned - row.base for row in run.read("evaluation", Comparison) if row.judge == "red"]
    (row,) = (
        r for r in pq.read_table(path / "table.parquet").to_pylist() if (r["arm"], r["judge"]) == ("dreamsync", "red")
    )
    assert row["gain"] == pytest.approx(fmean(last))
    assert 'href="arms/dreamsync/seed-0/rounds/2/report.html"' in (path / "study.html").read_text()


def test_a_round_has_the_first_ones_settings_and_a_start(recipe: Recipe, tmp_path: Path) -> None:
    later = make_round_recipe(recipe.with_({"evaluation.controls": ["by-lot"]}), 3, tmp_path, "mark")
    assert later.rounds is None and later.captions.skip == 8 and later.evaluation.controls == ()
    assert later.start is not None and (later.start.round, later.start.reference) == (2, "previous")
    same = make_round_recipe(recipe.with_({"rounds.captions": "same"}), 3, tmp_path, "mark")
    assert same.captions == recipe.captions
    with pytest.raises(RunError, match="a run whose recipe has no rounds"):
        (tmp_path / "recipe.yaml").write_text(dump_recipe(later))
        read_rounds(tmp_path)

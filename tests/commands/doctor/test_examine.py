"""The whole examination, as the command line tells it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_language import FakeServer

from agfsync import cli, pipeline
from agfsync import recipe as config
from agfsync.commands.doctor import machine
from agfsync.models.published import read_config
from agfsync.recipe import dump_recipe


@pytest.fixture
def doctor(
    speed: machine.Speed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Exit code and what is told to programs; nothing is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    # What is on disk and in memory is another on every machine.
    monkeypatch.setattr(machine, "read_free_space", lambda path: 1e15)
    monkeypatch.setattr(machine, "read_memory", lambda device: 1e15)
    there = set(tmp_path.rglob("*"))

    def examine(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = cli.main(["doctor", *arguments, "--json"])
        assert {path for path in tmp_path.rglob("*") if "hub" not in path.parts} <= there
        found = json.loads(capsys.readouterr().out)
        assert len(set(found["missing"])) == len(found["missing"]), "each line once"
        return code, found

    return examine


def _stages(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["stage"]: each for each in found["stages"]}


@pytest.mark.slow
def test_the_demo_can_begin(doctor: Callable[..., Any]) -> None:
    code, found = doctor("shapes")
    assert (code, found["can_begin"], found["missing"], found["download"]) == (0, True, [], 0)
    assert list(_stages(found)) == [name for name in pipeline.NAMES if name not in ("controls", "reward")]
    for stage in ("candidates", "scores", "training", "evaluation"):
        assert 0.5e9 < _stages(found)[stage]["memory"] < 2e9
        assert 1 < _stages(found)[stage]["seconds"] < 600
    assert found["notes"] == ["scorers.oracle: what a shapes-oracle scorer takes isn't known; it is in no figure"]


@pytest.mark.long
def test_a_recipe_whose_models_cant_be_had_is_reckoned_all_the_same(
    doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agfsync.commands.doctor.missing._is_reached", lambda url: False)
    code, found = doctor("sd15-lora")
    assert code == 2 and not found["can_begin"]
    stages = _stages(found)
    for stage in ("candidates", "scores", "training", "evaluation"):
        assert stages[stage]["memory"] > 1e9 and stages[stage]["seconds"] > 60
    assert stages["questions"]["requests"] == 6 * 4200
    assert any("no key for api.openai.com: set OPENAI_API_KEY" in line for line in found["missing"])
    assert sum("the cache on this machine doesn't hold all of it" in line for line in found["missing"]) == 6


@pytest.mark.long
def test_every_generator_is_in_the_figures(doctor: Callable[..., Any], tiny_generator: Path) -> None:
    """Those that draw beside the one that is aligned, and what takes the place of a model's own UNet."""
    scorers = "scorers={vqa: {type: vqa-openai, path: m, server: {base_url: 'http://localhost:1'}}}"
    common = ("shapes", "--set", scorers, "--set", "pairs.choose.weights={vqa: 1}")
    _, alone = doctor(*common)
    _, two = doctor(*common, "--set", f"candidates.beside={{other: {{path: '{tiny_generator}', dtype: fp32}}}}")
    _, exchanged = doctor(*common, "--set", f"model.unet={tiny_generator}")
    alone, two, exchanged = map(_stages, (alone, two, exchanged))
    assert two["candidates"]["models"] == ["generator", tiny_generator.name]
    for what in ("disk", "seconds"):
        assert two["candidates"][what] > alone["candidates"][what]
    assert two["scores"]["requests"] == 2 * alone["scores"]["requests"]
    assert two["training"] == alone["training"]
    for stage in ("candidates", "training"):
        assert exchanged[stage]["seconds"] < alone[stage]["seconds"]


@pytest.mark.slow
def test_a_card_need_not_be_here(doctor: Callable[..., Any]) -> None:
    """Its memory is that of the networks alone, its time isn't known, and what it hasn't is missing."""
    fp32 = ("--set", "training.precision=fp32")  # on some processors auto is bf16
    (_, here), (_, card), (code, small) = (
        doctor("shapes", *fp32, *card) for card in ((), ("--card", "24"), ("--card", "1"))
    )
    mine, its = _stages(here), _stages(card)
    for stage in ("candidates", "scores", "training", "evaluation"):
        assert its[stage]["seconds"] is None and 0 < its[stage]["memory"] < mine[stage]["memory"]
    assert card["can_begin"] and card["device"] == "the card"
    assert code == 2 and "training takes about" in small["missing"][0] and "the card has 400 MB" in small["missing"][0]


def test_what_the_shipped_recipes_name_is_known_offline() -> None:
    for name in config.list_shipped():
        recipe = config.resolve_recipe(name)
        assert read_config(recipe.model.path, name="model_index.json")
        for scorer in recipe.scorers.values():
            if scorer.path and not (scorer.is_own or scorer.aspect_names):
                assert read_config(scorer.path)


@pytest.mark.slow
def test_other_peoples_types_are_not_known_and_no_crash(
    doctor: Callable[..., Any], make_recipe: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path.parent / f"{tmp_path.name}.yaml"
    path.write_text(dump_recipe(make_recipe()))
    code, found = doctor(str(path))
    (missing,) = found["missing"]
    assert code == 2 and missing.startswith("a model of the type double draws and is scored, but can't be trained")
    assert _stages(found)["candidates"]["memory"] is None
    assert any(note.startswith("scorers.red: what a double scorer takes isn't known") for note in found["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.device=cuda:7", "model.device: no device 'cuda:7'"),
        ("training.precision=fp16", "training.precision fp16 needs an accelerator"),
        ("training.optimizer=adamw8bit", "needs the package bitsandbytes"),
        ("model.path=embedded:nothing", "no embedded model 'embedded:nothing'"),
        ("captions.source=/nowhere.txt", "/nowhere.txt: no such file or folder"),
    ],
)
def test_what_is_missing_is_told(
    doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, setting: str, says: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: None)
    code, found = doctor("shapes", "--set", setting)
    assert code == 2
    assert [line for line in found["missing"] if says in line]


def test_a_scorer_that_isnt_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "shapes", "--set", "scorers.clip.type=clop"]) == 2
    assert "no scorer is called 'clop'" in capsys.readouterr().err


@pytest.mark.slow
def test_what_doesnt_fit_is_told(doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_free_space", lambda path: 1e6)
    monkeypatch.setattr(machine, "read_memory", lambda device: 0.7e9)
    code, found = doctor("shapes", "--set", "engine.workers=1")
    assert code == 2
    told = " ".join(found["missing"])
    assert "training takes about" in told and "lower training.batch" in told and "are free at" in told
    assert "candidates takes" not in told


@pytest.mark.slow
def test_a_server_a_price_and_a_cap(doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FakeServer() as server:
        model = (
            f"{{type: openai, path: words, base_url: '{server.url}', prices: {{input: 1, output: 2}}, max_cost: 0.001}}"
        )
        arguments = ("--set", f"questions.writer={model}")
        code, found = doctor("shapes", *arguments)
        assert code == 0 and not server.bodies
    asked = _stages(found)["questions"]
    assert asked["requests"] == 428 * 6 and asked["cost"] > 1
    assert any("stops at questions.writer.max_cost = 0.001" in note for note in found["notes"])
    code, found = doctor("shapes", *arguments)
    assert code == 2 and any("questions.writer: no server answers at 127.0.0.1" in line for line in found["missing"])


@pytest.mark.slow
def test_an_annotators_requests(doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with FakeServer() as server:
        gpt = f"{{type: aspects-openai, path: judge, server: {{base_url: '{server.url}'}}}}"
        choose = "{type: by-aspect, judges: [gpt.aesthetic], couples: every}"
        changes = ("--set", f"scorers.gpt={gpt}", "--set", f"pairs.choose={choose}", "--set", "captions.count=16")
        code, found = doctor("shapes", *changes)
        assert code == 0 and not server.bodies
    asked = _stages(found)["scores"]
    # Four aspects in two orders of each caption: 5 patches and 80 tokens of an answer for each of its images.
    assert asked["requests"] == 16 * 4 * 2
    assert asked["tokens"] == pytest.approx(16 * 4 * 2 * (8 * ((64 / 28) ** 2 + 80) + 450))


@pytest.mark.slow
def test_a_page_for_people(
    doctor: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    assert cli.main(["doctor", "shapes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["stage", "models", "memory", "disk", "time"]
    assert max(map(len, lines)) <= 72 and lines[-1] == "the run can begin"


@pytest.mark.slow
def test_later_rounds_draw_no_images_of_the_base(doctor: Callable[..., Any]) -> None:
    (_, one), (_, three) = doctor("shapes"), doctor("shapes-rounds")
    of = {name: need["disk"] or 0.0 for name, need in _stages(three).items()}
    assert set(of) - set(_stages(one)) == {"rounds"}
    assert of["rounds"] == pytest.approx(2 * (sum(of.values()) - of["rounds"] - of["evaluation"] / 2))


def test_what_is_not_counted_is_noted(doctor: Callable[..., Any]) -> None:
    method = "training.method={type: reward-gradient, reward: {clip: 1.0}}"
    _, found = doctor("shapes", "--set", method, "--set", "evaluation.controls=[random-sft]")
    drawn = "images that reward-gradient draws and scores in training are in no figure"
    assert any(drawn in note for note in found["notes"])
    assert any(note.startswith("evaluation.controls") for note in found["notes"])


def test_an_online_method_draws_scores_and_trains(doctor: Callable[..., Any]) -> None:
    def estimate(method: str, *changes: str) -> dict[str, Any]:
        settings = (f"training.method={method}", "training.batch=8", "training.steps=40", *changes)
        _, found = doctor("shapes", *(word for each in settings for word in ("--set", each)))
        assert not [note for note in found["notes"] if "in no figure" in note and "oracle" not in note]
        return _stages(found)["training"]

    nft = estimate("{type: nft, group: 6, noisings: 5}")
    twice = estimate("{type: nft, group: 12, noisings: 5}")
    # All but the prompts' encoding and the optimizer's updates is for each image.
    assert twice["seconds"] == pytest.approx(2 * nft["seconds"], rel=0.05) and twice["memory"] == nft["memory"]
    policy = estimate("{type: policy-gradient, group: 6, timesteps: 0.5, guidance: 1.0}")
    # As many rows are trained on, without the sampling network's prediction and that of the base.
    assert policy["seconds"] < nft["seconds"] and policy["memory"] < nft["memory"]
    guided = estimate("{type: policy-gradient, group: 6, timesteps: 0.5, guidance: 4.0}")
    assert 1.5 * policy["seconds"] < guided["seconds"] < 2 * policy["seconds"]
    cheap = estimate("{type: policy-gradient, group: 6, timesteps: 0.5, guidance: 1.0, reward: {aesthetic: 1.0}}")
    assert cheap["seconds"] < policy["seconds"] and cheap["memory"] < policy["memory"]


def test_a_training_in_shards_takes_less_in_each_process(doctor: Callable[..., Any]) -> None:
    _, found = doctor("shapes", "--set", "training.fsdp=true")
    (note,) = [note for note in found["notes"] if note.startswith("training.fsdp")]
    assert all(f"with {count}" in note for count in (2, 4, 8))

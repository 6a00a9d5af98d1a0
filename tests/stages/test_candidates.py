import dataclasses
from pathlib import Path
from typing import Any

import doubles
import pytest

from agfsync import catalog
from agfsync.engine.progress import LogProgress
from agfsync.files.images import decode_image
from agfsync.recipe.models import StableDiffusionSettings, StableDiffusionXLSettings
from agfsync.records import Candidate, Caption, Pair, derive_seed, digest
from agfsync.stages import candidates, captions, pairs, questions, scores
from agfsync.stages.context import Context, digest_generator, read_captions_to_draw
from agfsync.store import Run


def test_a_model_is_named_by_what_differs_from_the_defaults() -> None:
    plain = StableDiffusionSettings(path="some/model", device="cuda")
    assert digest_generator(plain) == digest({"path": "some/model"}, catalog.fingerprint("some/model"))
    parts: list[dict[str, Any]] = [
        {key: value} for key in ("vae", "unet") for value in ("a/b", {"path": "a/b", "revision": "v1"})
    ]
    changes = [{"variant": "fp16"}, {"variant": "bf16"}, {"sampling": {"steps": 3}}, *parts]
    others = [StableDiffusionSettings.model_validate({"path": "some/model", **change}) for change in changes]
    assert len({digest_generator(each) for each in (plain, *others)}) == len(others) + 1


def test_every_embedded_model_that_a_model_takes_names_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "fingerprint", lambda *models: "+".join(str(model) for model in models if model))
    parts = {"vae": {"path": "v"}, "unet": {"path": "u"}, "refiner": {"path": "r", "from_step": 1}}
    told = {"path": "m", "config": "c", **parts}
    assert digest_generator(StableDiffusionXLSettings.model_validate(told)) == digest(told, "m+c+v+u+r")


@pytest.fixture
def asked(context: Context) -> Context:
    captions.run(context)
    questions.run(context)
    return context


def test_each_train_caption_gets_its_images_from_their_own_seeds(asked: Context) -> None:
    notes = candidates.run(asked)
    drawn = list(asked.run.read("candidates", Candidate))
    train = [each.key for each in read_captions_to_draw(asked, "train")]
    assert notes == {"captions": 12, "candidates": 48}
    assert [(c.caption_key, c.index) for c in drawn] == [(key, index) for key in train for index in range(4)]
    assert all(c.seed == derive_seed(0, c.caption_key, c.index) and c.generator == "generator" for c in drawn)
    assert all(decode_image(c.image).getpixel((0, 0))[0] == c.seed % 8 * 32 for c in drawn)  # type: ignore[index]
    assert len({c.key for c in drawn}) == len({c.seed for c in drawn}) == 48


def test_nothing_is_loaded_when_nothing_is_to_be_drawn(asked: Context, loaded: list[str]) -> None:
    candidates.run(asked)
    candidates.run(asked)
    assert loaded == ["none"]


def test_what_a_lora_leaves_out_is_told_once(
    asked: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doubles.Generator, "remarks", ["of the LoRA x 1 of 3 modules fit"], raising=False)
    candidates.run(dataclasses.replace(asked, progress=LogProgress()))
    assert capsys.readouterr().err.count("candidates: of the LoRA x 1 of 3 modules fit\n") == 1


def test_the_device_changes_no_key_and_the_guidance_does(asked: Context, make_recipe: Any, loaded: list[str]) -> None:
    candidates.run(asked)
    generator = {"type": "double", "path": "none"}
    for change, times in (({"device": "cuda"}, 1), ({"sampling": {"guidance": 2.0}}, 2)):
        recipe = make_recipe(model=generator | change)
        candidates.run(dataclasses.replace(asked, recipe=recipe))
        assert len(loaded) == times


def test_seeds_depend_on_run_caption_and_index_alone() -> None:
    caption = Caption("c", "text", "animals", "train")
    four, two = candidates.derive_seeds(caption, range(4), 7), candidates.derive_seeds(caption, range(2), 7)
    assert four[:2] == two
    assert candidates.derive_seeds(caption, range(2, 4), 7) == four[2:]
    assert set(four).isdisjoint(candidates.derive_seeds(caption, range(4), 8))


BESIDE = {"beside": {"other": {"type": "double", "path": "other"}, "third": {"type": "double", "path": "third"}}}


def test_generators_beside_add_images_of_their_own_and_change_none(
    asked: Context, make_recipe: Any, loaded: list[str]
) -> None:
    candidates.run(asked)
    alone = list(asked.run.read("candidates", Candidate))
    several = dataclasses.replace(asked, recipe=make_recipe(candidates=BESIDE))
    notes = candidates.run(several)
    drawn = list(asked.run.read("candidates", Candidate))
    named = {"generator": "none", "other": "other", "third": "third"}
    assert notes == {"captions": 12, "candidates": 144, "generators": named}
    assert [c for c in drawn if c.generator == "generator"] == alone
    assert [c.caption_key for c in drawn] == [c.caption_key for c in alone for _ in range(3)]
    assert loaded == ["none", "other", "third"]
    for place, name in enumerate(("generator", "other", "third")):
        mine = [c for c in drawn if c.generator == name]
        assert [c.index for c in mine] == [*range(4 * place, 4 * place + 4)] * 12
        assert all(c.seed == derive_seed(0, c.caption_key, c.index) for c in mine)
    assert len({c.key for c in drawn}) == len({c.seed for c in drawn}) == 144


def test_pairs_are_chosen_over_the_images_of_all_generators(asked: Context, make_recipe: Any) -> None:
    context = dataclasses.replace(asked, recipe=make_recipe(candidates=BESIDE))
    candidates.run(context)
    scores.run(context)
    notes = pairs.run(context)
    drew = {c.key: c.generator for c in asked.run.read("candidates", Candidate)}
    chosen = list(asked.run.read("pairs", Pair))
    assert notes["captions"] == 12 and len({pair.caption_key for pair in chosen}) == len(chosen)
    assert any(drew[pair.winner_key] != drew[pair.loser_key] for pair in chosen)


def test_images_that_do_not_fit_together_are_drawn_apart_and_are_the_same(
    asked: Context, monkeypatch: pytest.MonkeyPatch, make_recipe: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(doubles, "ROOM", 3)
    candidates.run(asked)
    apart = list(asked.run.read("candidates", Candidate))
    monkeypatch.setattr(doubles, "ROOM", None)
    with Run.create(tmp_path / "whole", "") as run:
        whole = dataclasses.replace(asked, run=run)
        for stage in (captions, questions, candidates):
            stage.run(whole)
        assert list(run.read("candidates", Candidate)) == apart


def test_one_image_that_does_not_fit_ends_the_stage(asked: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubles, "ROOM", 0)
    with pytest.raises(RuntimeError, match="out of memory. Tried to allocate 1 images"):
        candidates.run(asked)

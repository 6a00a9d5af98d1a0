"""The commits of hub models, in a run's recipe."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agfsync import pipeline
from agfsync.pipeline.pinning import list_unpinnable, pin_revisions
from agfsync.recipe import Recipe, resolve_recipe
from agfsync.recipe.models import StableDiffusionSettings

Put = Callable[..., str]
CLIP, HEAD = "openai/clip-vit-large-patch14", "somebody/head"
FILES = ("config.json", "model.safetensors")


def _recipe(*more: str) -> Recipe:
    return resolve_recipe(
        "shapes",
        [
            f"scorers.clip.path={CLIP}",
            f"scorers.aesthetic.path={CLIP}",
            f"scorers.aesthetic.head={HEAD}",
            f"scorers.served={{type: vqa-openai, path: {CLIP}, server: {{}}}}",
            *more,
        ],
    )


def _revisions(recipe: Recipe) -> list[str | None]:
    scorers = recipe.scorers
    return [scorers["clip"].revision, scorers["aesthetic"].revision]


def test_what_is_left_open_becomes_the_commit_at_hand(hub_cache: Put) -> None:
    commit = hub_cache(CLIP, *FILES)
    found = pin_revisions(_recipe("scorers.aesthetic.revision=refs/pr/1"))
    assert _revisions(found) == [commit, "refs/pr/1"]
    assert found.scorers["vqa"].revision is None
    assert found.scorers["served"].revision is None


def test_what_cant_be_found_out_stays_open(hub_cache: Put) -> None:
    assert pin_revisions(_recipe()) == _recipe()


def test_what_a_run_has_it_keeps(hub_cache: Put) -> None:
    old = hub_cache(CLIP, *FILES)
    before = pin_revisions(_recipe())
    hub_cache(CLIP, *FILES, commit="c" * 40)
    assert pin_revisions(_recipe(), before) == before
    assert (
        pin_revisions(_recipe("scorers.extra={type: clip, path: " + CLIP + "}"), before).scorers["extra"].revision
        == old
    )
    assert _revisions(pin_revisions(_recipe(), _recipe())) == [None, None]


def test_a_set_revision_that_is_taken_back_is_open_again(hub_cache: Put) -> None:
    commit = hub_cache(CLIP, *FILES)
    branches = [f"scorers.{name}.revision=refs/pr/1" for name in ("clip", "aesthetic")]
    assert _revisions(pin_revisions(_recipe(), _recipe(*branches))) == [commit, commit]


def test_a_run_is_gone_on_with_by_the_same_command(hub_cache: Put, tmp_path: Path) -> None:
    old = hub_cache(CLIP, *FILES)
    hub_cache(HEAD, *FILES, commit="d" * 40)
    run = tmp_path / "run"
    pipeline.prepare(run, _recipe())
    written = (run / "recipe.yaml").read_text()
    assert written.count(f"revision: {old}") == 2
    assert f"# {HEAD} was at {'d' * 40}\n" in written
    hub_cache(CLIP, *FILES, commit="c" * 40)
    pipeline.prepare(run, _recipe())
    assert (run / "recipe.yaml").read_text() == written
    pipeline.prepare(run, _recipe("pairs.choose.weights.vqa=0.1"), update=True)
    assert (run / "recipe.yaml").read_text().count(f"revision: {old}") == 2


def test_an_older_run_with_open_revisions_stays_as_it_is(
    hub_cache: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    pipeline.prepare(run, _recipe())
    hub_cache(CLIP, *FILES)
    pipeline.prepare(run, _recipe())
    pipeline.prepare(run, _recipe("pairs.choose.weights.vqa=0.1"), update=True)
    assert "revision: a" not in (run / "recipe.yaml").read_text()


def test_heads_are_told_of(hub_cache: Put) -> None:
    commit = hub_cache(HEAD, *FILES)
    assert list_unpinnable(_recipe()) == {HEAD: commit}


def test_parts_of_the_generator_are_pinned(hub_cache: Put) -> None:
    commit = hub_cache("some/vae", "vae/diffusion_pytorch_model.safetensors", "vae/config.json")
    other = hub_cache("some/unet", "unet/diffusion_pytorch_model.safetensors", commit="e" * 40)
    found = pin_revisions(_recipe("model.vae=some/vae", "model.unet={path: some/unet}"))
    generator = found.model
    assert isinstance(generator, StableDiffusionSettings)
    assert generator.vae is not None and (generator.vae.path, generator.vae.revision) == ("some/vae", commit)
    assert generator.unet is not None and generator.unet.revision == other
    assert pin_revisions(_recipe(), found) == _recipe()

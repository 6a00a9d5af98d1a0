"""Any file, mapping or override is a recipe, or there is one line that says why not."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from anything import BYTES, STEADY, TEXT, TREES
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agfsync.errors import RecipeError
from agfsync.recipe import Recipe, dump_recipe, load_recipe, resolve_recipe

pytestmark = pytest.mark.slow

PATHS = st.sampled_from(
    [
        *("seed", "name", "captions", "captions.count", "captions.source"),
        *("pairs.choose.weights.vqa", "pairs.choose.weights", "pairs.source", "scorers"),
        *("scorers.vqa.server", "questions.writer.path", "captions.writer.base_url"),
        *("training.ema", "training.trackers", "model.loras"),
        *("model.sampling.negative_prompt", "__class__", "model_dump"),
    ]
)


def reads(act: Any) -> Recipe | None:
    """What a reader gives; None where it says in one line why not."""
    try:
        recipe = act()
    except RecipeError as reason:
        assert str(reason) and "\n" not in str(reason) and str(reason).isprintable()
        assert len(str(reason)) < 5000
        return None
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.mark.long
@settings(STEADY, max_examples=150)
@given(data=BYTES)
@example(data=b"a: &a [*a]")
@example(data=b"&a {seed: *a}")
@example(data=b"- " * 5000)
@example(data=b"[" * 5000)
@example(data=b"seed: 2001-99-99")
@example(data=b"seed: !!int ''")
@example(data=b"seed: !!bool x")
@example(data=b"seed: !!timestamp x")
@example(data=b"seed: !!python/object/apply:os.system [true]")
@example(data=b"seed: " + b"9" * 5000)
@example(data=b"seed: 0x" + b"f" * 5000)
@example(data=b'name: "\\ud800"')
@example(data=b'candidates: {generator: {negative_prompt: "\\ud800"}}')
@example(data=b"captions: {source: ~nobody-of-that-name/x}")
@example(
    data=b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\nseed: [*d,*d,*d,*d,*d,*d,*d,*d]"
)
def test_any_file_is_a_recipe_or_a_line_that_says_why_not(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data)
    reads(lambda: load_recipe(path))


@settings(STEADY, max_examples=150)
@given(tree=st.dictionaries(st.sampled_from(list(Recipe.model_fields)) | TEXT, TREES, max_size=3))
def test_any_mapping_is_a_recipe_that_survives_being_written_or_a_line(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=False))
    if recipe := reads(lambda: load_recipe(path)):
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert load_recipe(path) == recipe


@pytest.mark.long
@settings(STEADY, max_examples=200)
@given(override=TEXT | st.tuples(PATHS, TEXT).map("=".join) | st.tuples(PATHS, TREES.map(repr)).map("=".join))
@example(override="a" * 100_000)
@example(override="captions.source=~nobody-of-that-name/x")
@example(override="seed=" + "[" * 5000)
@example(override="seed=!!int ''")
@example(override="captions.writer.base_url=http://me:secret@host/v1")
def test_any_override_gives_a_recipe_or_a_line(override: str) -> None:
    reads(lambda: resolve_recipe("shapes", [override]))


@settings(STEADY, max_examples=50)
@given(name=TEXT)
@example(name="a" * 5000)
@example(name="\0")
def test_any_name_of_a_recipe_is_one_or_a_line(name: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        assume(not Path(name).exists())
    reads(lambda: resolve_recipe(name))

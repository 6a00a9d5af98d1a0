import subprocess
import sys
from importlib import import_module
from pathlib import Path

import doubles
import pytest

from agfsync import catalog
from agfsync.errors import ModelError, RecipeError


def test_a_name_of_ours_and_one_of_another_package_are_both_found() -> None:
    assert catalog.list_names("methods")[0] == "dpo" and catalog.list_names("scorers")[-2:] == ["double", "asking"]
    assert catalog.find("methods", "dpo").__name__ == "DiffusionDPO"
    assert catalog.find("scorers", "double") is doubles.Brightness


def test_every_entry_names_something_that_is_there() -> None:
    for kind, entries in catalog.CATALOG.items():
        for name, place in entries.items():
            module, _, attribute = place.partition(":")
            assert catalog.find(kind, name) is getattr(import_module(module), attribute)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("dqo", "no method is called 'dqo': did you mean 'dpo'\\?"), ("xyz", "no method is called 'xyz': there are dpo")],
)
def test_an_unknown_name_is_told_with_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=hint):
        catalog.find("methods", name)


def test_the_catalog_imports_nothing_that_it_lists() -> None:
    lists = "from agfsync import catalog; catalog.list_names('scorers'); catalog.check_place('embedded:clip')"
    heavy = "import sys; sys.exit(bool({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", f"{lists}; {heavy}"]).returncode == 0


def test_what_is_built_gets_its_settings_without_the_type() -> None:
    method = catalog.build("methods", {"type": "dpo", "beta": 123.0})
    assert method == catalog.find("methods", "dpo")(beta=123.0)


def test_a_setting_that_a_type_doesnt_know_is_told_and_left_out_where_it_says_nothing() -> None:
    assert catalog.build("methods", {"type": "dpo", "beta": 123.0, "head": None}).beta == 123.0
    with pytest.raises(RecipeError, match="a dpo method has no head: leave out head 'embedded:clip'"):
        catalog.build("methods", {"type": "dpo", "head": "embedded:clip"})


def test_an_embedded_model_lies_in_the_package_and_others_are_what_they_say() -> None:
    assert (Path(catalog.model_path("embedded:clip")) / "config.json").is_file()
    assert catalog.model_path("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"


def test_the_embedded_models_name_no_folder_of_the_machine_they_were_made_on() -> None:
    configs = list(Path(catalog.model_path("embedded:generator")).parent.rglob("*.json"))
    assert len(configs) > 10
    assert [path for path in configs if '": "/' in path.read_text(encoding="utf-8")] == []


def test_a_model_that_is_missing_is_told_before_anything_is_loaded() -> None:
    with pytest.raises(ModelError, match="no embedded model 'embedded:llama': there are embedded:aesthetic, "):
        catalog.model_path("embedded:llama")
    with pytest.raises(ModelError, match="no model at './nowhere': give a folder that exists, a hub id or embedded:"):
        catalog.check_place("./nowhere")
    for written in ("my models/one", "runs/none/model"):
        with pytest.raises(ModelError, match=f"no model at '{written}'"):
            catalog.check_place(written)
    for other in ("owner/name", "gpt2", "run:reward", "http://localhost:8000/v1", "plug-in:a name/of/its own"):
        assert catalog.check_place(other) == other


def test_the_fingerprint_follows_what_the_embedded_models_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_locate_weights", lambda: tmp_path)
    weights = tmp_path / "tiny" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    before = catalog.fingerprint("embedded:tiny", None, "some/hub-id")
    assert before == catalog.fingerprint("embedded:tiny")
    weights.write_bytes(b"two")
    assert before != catalog.fingerprint("embedded:tiny")


@pytest.mark.parametrize(("kind", "name"), [("models", "stable-diffusion"), ("scorers", "clip")])
def test_whatever_a_library_raises_while_a_model_is_made_is_a_line(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    def maker(path: str) -> None:
        raise KeyError("time_embed.0.weight")

    monkeypatch.setattr(catalog, "find", lambda *_: maker)
    with pytest.raises(ModelError, match="^can't load the model some/model: KeyError: 'time_embed.0.weight'$"):
        catalog.build(kind, {"type": name, "path": "some/model"})


@pytest.mark.parametrize("part", ["vae", "unet", "transformer", "refiner"])
def test_a_parts_place_is_found_and_must_be_there(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "find", lambda *_: lambda **settings: settings)
    settings = {"type": "flux", "path": "some/model", part: {"path": "./nowhere", "revision": None}}
    with pytest.raises(ModelError, match="no model at './nowhere'"):
        catalog.build("models", settings)
    built = catalog.build("models", settings | {part: {"path": str(tmp_path), "revision": None}})
    assert built[part] == {"path": str(tmp_path), "revision": None}

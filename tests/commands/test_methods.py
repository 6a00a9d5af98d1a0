import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from agfsync import catalog, cli
from agfsync.commands.methods import METHOD_FAMILIES, format_method, format_methods, list_methods
from agfsync.errors import ModelError, RecipeError
from agfsync.pipeline.generators import check_steered_type, check_trainable
from agfsync.recipe import ModelSettings
from agfsync.recipe.methods import MethodSettings
from agfsync.recipe.types import find_settings
from agfsync.training.trainable import NEEDED_FOR

OWN = list(catalog.CATALOG["methods"])
METHODS = [name for name in OWN if name not in ("given", "none")]


def test_every_method_of_the_catalog_is_listed_by_family() -> None:
    listed = list_methods()
    assert sorted(facts.name for facts in listed) == sorted(catalog.list_names("methods"))
    families = list(dict.fromkeys(facts.family for facts in listed if facts.name in METHODS))
    assert families == [family for family in METHOD_FAMILIES if family in families]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_ours_has_its_facts_on_its_own_settings(name: str) -> None:
    section = find_settings("methods", name)
    assert issubclass(section, MethodSettings)
    assert section.family in METHOD_FAMILIES
    assert vars(section)["summary"].endswith(".") and len(section.summary) <= 80
    assert "arXiv:" in section.paper or name == "random-sft"
    assert not section.paper or "paper" in vars(section)
    assert set(section.models) <= set(catalog.CATALOG["models"])


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_a_method_holds_of_its_class(name: str) -> None:
    section, kind = find_settings("methods", name), catalog.find("methods", name)
    assert issubclass(section, MethodSettings)
    assert (section.needs, section.trains) == (kind.needs, kind.trains)


@pytest.mark.parametrize("name", METHODS)
def test_the_models_of_a_training_free_method_are_those_that_it_isnt_refused_for(name: str) -> None:
    section = find_settings("methods", name)
    assert issubclass(section, MethodSettings)
    if section.family != "training-free":
        assert not section.models
        return
    for type_ in catalog.CATALOG["models"]:
        if type_ in section.models:
            check_steered_type(ModelSettings(type=type_), {"type": name})
        else:
            with pytest.raises(ModelError, match=f"{name} can't steer this model"):
                check_steered_type(ModelSettings(type=type_), {"type": name})


def test_all_model_types_can_be_trained_by_a_method_that_names_none() -> None:
    for type_ in catalog.CATALOG["models"]:
        for use in NEEDED_FOR:
            check_trainable(ModelSettings(type=type_), None, may_load=False, uses=("training", use))
    with pytest.raises(ModelError, match="can't be trained"):
        check_trainable(ModelSettings(type="double"), None, may_load=False)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    pages = [format_methods(list_methods(), width), *(format_method(name, width) for name in OWN)]
    assert max(len(line) for page in pages for line in page.splitlines()) <= width


def test_the_settings_of_a_method_are_shown_with_defaults_and_meaning() -> None:
    page = format_method("sdpo", 200)
    assert page.startswith("sdpo: Like dpo; the loser can't raise the winner's error.\nfamily: pairs\nneeds:  pairs\n")
    assert "paper:  Diffusion-SDPO, arXiv:2511.03317" in page
    assert "  mu: number, at least 0, at most 1; default 0.9\n    how far the loser's gradient is held back" in page
    assert "  sft_weight: number, at least 0; default 0.0\n    weight of the winner's own error" in page
    assert "type:" not in page
    assert "  parser.type: text; default auto\n" in format_method("syngen", 80)
    assert format_method("none", 60).endswith("settings of training.method:\n  none")


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_method_has_a_meaning(name: str) -> None:
    lines = format_method(name, 200).partition(".method:\n")[2].splitlines()
    keys = [line for line in lines if line.startswith("  ") and not line.startswith("    ")]
    meanings = [after for line, after in zip(lines, [*lines[1:], ""], strict=True) if line in keys]
    assert keys and all(meaning.startswith("    ") for meaning in meanings)


class Doubled:
    """Train twice.

    More that is not in the list.
    """

    needs = "scores"
    trains = "model"
    paper = "Doubling, arXiv:0000.00000"
    models = ("flux",)

    def __init__(self, strength: float = 0.5) -> None: ...


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a method of another package, and one that can't be imported."""
    points = [EntryPoint("doubled", f"{__name__}:Doubled", "agfsync.methods")]
    points += [EntryPoint("broken", "nowhere.at_all:Method", "agfsync.methods")]
    monkeypatch.setattr(catalog, "list_plugins", lambda kind: points if kind == "methods" else [])
    find_settings.cache_clear()
    yield
    find_settings.cache_clear()


@pytest.mark.usefixtures("plug_ins")
def test_a_method_of_another_package_says_what_its_class_says() -> None:
    listed = {facts.name: facts for facts in list_methods()}
    doubled = listed["doubled"]
    assert (doubled.family, doubled.needs, doubled.models) == ("supervised", "scores", ("flux",))
    assert (doubled.summary, doubled.paper) == ("Train twice.", "Doubling, arXiv:0000.00000")
    assert "No module named 'nowhere'" in listed["broken"].summary
    assert "strength: number; default 0.5" in format_method("doubled", 80)
    assert "broken" in format_methods(list(listed.values()), 60)


def test_the_command_lists_methods_as_json_and_imports_no_torch() -> None:
    code = (
        "import sys; from agfsync.cli import main; from agfsync import catalog;"
        "catalog.list_plugins = lambda kind: []; code = main(['methods', *sys.argv[1:]]);"
        "sys.exit(code or bool({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    listed = subprocess.run([sys.executable, "-c", code, "--json"], check=True, capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(listed.stdout)
    assert {facts["name"] for facts in found} == set(OWN)
    assert found[0] == {
        "name": "dpo",
        "family": "pairs",
        "needs": "pairs",
        "models": [],
        "paper": "Diffusion-DPO, arXiv:2311.12908",
        "summary": "Prefer each pair's winner to its loser, compared with the base.",
    }
    for arguments in ([], ["policy-gradient"]):
        assert subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True).returncode == 0


def test_the_command_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["methods"]) == cli.main(["methods", "kto"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_an_unknown_method_is_told_with_what_is_close(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods", "dqo"]) == 2
    assert capsys.readouterr().err == "error: no method is called 'dqo': did you mean 'dpo'?\n"
    with pytest.raises(RecipeError):
        format_method("dqo", 80)

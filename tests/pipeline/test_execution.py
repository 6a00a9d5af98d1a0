"""The settings of how a network runs, checked before anything runs."""

from collections.abc import Sequence
from typing import Any

import pytest

from agfsync.errors import RecipeError
from agfsync.pipeline.checks import check_names, find_faults
from agfsync.recipe import Recipe


def faults(*overrides: str) -> Sequence[str]:
    return [str(each) for each in find_faults(Recipe.load("shapes", ["model.device=cpu", *overrides]))]


def test_an_attention_that_isnt_here_is_told_before_anything_runs(tiny_flux_generator: Any) -> None:
    flux = ("model.type=flux", f"model.path={tiny_flux_generator}", "model.sampling.scheduler=model")
    assert not faults(*flux, "model.attention=native", "training.compile=true")
    assert any(
        "attention xformers can't draw with flux on cpu" in each for each in faults(*flux, "model.attention=xformers")
    )
    assert any("attention flex can't train with flux" in each for each in faults(*flux, "model.attention=flex"))
    assert not faults(*flux, "model.attention=flex", "training.method=none")
    assert any("has no choice of attention" in each for each in faults("model.attention=native"))
    check_names(Recipe.load("shapes", [*flux, "model.attention=flash", "engine=ray"]))


def test_a_method_that_steers_isnt_compiled() -> None:
    with pytest.raises(RecipeError, match="model.compile: syngen changes the attention as it draws: leave it out"):
        Recipe.load("shapes", ["model.compile=true", "training.method=syngen"])


def test_few_bits_are_for_a_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        RecipeError, match="model.quantization nf4: weights of few bits can't be trained: add training.l"
    ):
        Recipe.load("shapes", ["model.quantization=nf4"])
    with pytest.raises(RecipeError, match="model.quantization"):
        Recipe.load("shapes", ["model.quantization=nf3", "training.lora={}"])
    Recipe.load("shapes", ["model.quantization=int8", "training.method=none"])
    lora = ["training.lora={}", "training.compile=true"]
    Recipe.load("shapes", ["model.quantization=nf4", *lora])
    with pytest.raises(RecipeError, match="training.compile: PyTorch compiles no gradient through fp8 weights"):
        Recipe.load("shapes", ["model.quantization=fp8", *lora])
    monkeypatch.setattr("agfsync.engine.packages.find_spec", lambda name: None)
    assert "model.quantization int8 needs the package torchao: pip install torchao, or change the setting" in faults(
        "model.quantization=int8", "training.lora={}"
    )

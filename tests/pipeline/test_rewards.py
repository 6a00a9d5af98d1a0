"""A method that follows gradients is refused, before anything runs, where a scorer or the model has none."""

from collections.abc import Callable
from typing import Any

import pytest

from agfsync.errors import RecipeError
from agfsync.pipeline.checks import check_names, find_faults, find_generator_faults
from agfsync.recipe import Recipe


def make(*rewards: str, **model: Any) -> Recipe:
    method = {"type": "reward-gradient", "reward": dict.fromkeys(rewards, 1.0)}
    oracle = {"scorers.oracle": {"type": "shapes-oracle"}}
    return Recipe().with_({**oracle, **{f"model.{k}": v for k, v in model.items()}, "training.method": method})


def test_scorers_with_a_gradient_pass() -> None:
    check_names(make("clip", "aesthetic"))
    assert find_faults(make("clip")) == []


@pytest.mark.parametrize(("name", "type_"), [("vqa", "vqa"), ("oracle", "shapes-oracle")])
def test_a_scorer_without_a_gradient_is_refused(name: str, type_: str) -> None:
    with pytest.raises(RecipeError) as raised:
        check_names(make("clip", name))
    assert "\n" not in str(raised.value)
    assert f"training.method.reward names '{name}', a {type_} scorer, which gives no gradient" in str(raised.value)
    assert [str(fault) for fault in find_faults(make(name))] == [str(raised.value)]


def test_a_model_without_a_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from agfsync import catalog
    from agfsync.models.latent_diffusion import LatentDiffusion

    members = ("latent_shape", "decode_pixels")
    find: Callable[..., Any] = catalog.find
    plain: type = object
    for each in reversed(LatentDiffusion.__mro__[:-1]):
        kept = {n: v for n, v in vars(each).items() if n not in (*members, "__dict__", "__weakref__")}
        plain = type(each.__name__, (plain,), kept)
    monkeypatch.setattr(catalog, "find", lambda kind, name: plain if kind == "models" else find(kind, name))
    (fault,) = find_generator_faults(make("clip"), ["training"])
    assert "can't be trained by the gradient of a reward: it has no latent_shape, decode_pixels" in str(fault)
    assert not list(find_generator_faults(Recipe(), ["training"]))

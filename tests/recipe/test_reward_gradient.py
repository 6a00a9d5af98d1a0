"""The settings of the method reward-gradient."""

from pathlib import Path

import pytest
import yaml

from agfsync import recipe as config
from agfsync.errors import RecipeError
from agfsync.recipe.online import RewardGradientSettings


def resolve(folder: Path, method: str) -> RewardGradientSettings:
    file = folder / "recipe.yaml"
    file.write_text(f"training: {{method: {{type: reward-gradient, {method}}}}}\n")
    recipe = config.resolve_recipe(str(file))
    assert config.check_recipe(yaml.safe_load(config.dump_recipe(recipe)), "dump") == recipe
    settings = recipe.training.method
    assert isinstance(settings, RewardGradientSettings)
    return settings


def test_refl_is_as_published(tmp_path: Path) -> None:
    settings = resolve(tmp_path, "reward: {clip: 1.0}")
    assert (settings.needs, settings.uses, settings.scorers) == ("captions", "gradients", ("clip",))
    assert (settings.loss, settings.steps, settings.window) == ("refl", 40, (0.75, 1.0))
    assert (settings.guidance, settings.margin, settings.scale, settings.kl) == (1.0, 2.0, 1e-3, 0.0)
    assert settings.last is None


def test_draft_is_as_published(tmp_path: Path) -> None:
    settings = resolve(tmp_path, "loss: draft, reward: {clip: 1.0}, kl: 0, standard: {clip: [27, 3]}")
    assert (settings.steps, settings.last, settings.guidance, settings.scale, settings.kl) == (50, 1, 7.5, 1.0, 0.0)
    assert settings.window is None and settings.margin is None and settings.standard == {"clip": (27, 3)}


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("loss: refl", "the key 'training.method.reward' is missing"),
        ("reward: {}", "reward names nothing to follow"),
        ("reward: {clip: 0.0}", "reward names nothing to follow"),
        ("reward: {looks: 1.0}", "training.method names no scorer 'looks': scorers has vqa, clip, aesthetic"),
        ("reward: {clip: 1.0}, loss: alignprop", "training.method.loss: input should be 'refl' or 'draft'"),
        ("reward: {clip: 1.0}, last: 2", "last belongs to loss: draft, not to refl: leave it out"),
        ("reward: {clip: 1.0}, loss: draft, window: [0, 1]", "window belongs to loss: refl, not to draft"),
        ("reward: {clip: 1.0}, loss: draft, margin: 1", "margin belongs to loss: refl, not to draft"),
        ("reward: {clip: 1.0}, loss: draft, last: 4, steps: 3", "last is 4, of 3 steps"),
        ("reward: {clip: 1.0}, window: [0.9, 0.2]", "window [0.9, 0.2] holds the end of none of 40 steps"),
        ("reward: {clip: 1.0}, window: [0.5, 1.5]", "training.method.window"),
        ("reward: {clip: 1.0}, standard: {clip: [20, 0]}", "training.method.standard"),
        ("reward: {clip: 1.0}, standard: {vqa: [20, 3]}", "standard names vqa, which reward doesn't name"),
        ("reward: {clip: 1.0}, guidance: -1", "training.method.guidance"),
        ("reward: {clip: 1.0}, marign: 1", "unknown key 'training.method.marign': did you mean 'margin'?"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, method: str, says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        resolve(tmp_path, method)
    assert "\n" not in str(raised.value) and says in str(raised.value)

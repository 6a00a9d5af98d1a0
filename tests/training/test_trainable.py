"""What is missing of a generator that is to be trained."""

from types import SimpleNamespace
from typing import Any

import pytest

from agfsync.errors import ModelError
from agfsync.models.flow_matching import FlowMatching
from agfsync.models.latent_diffusion import LatentDiffusion
from agfsync.training import DiffusionModel
from agfsync.training.trainable import NEEDED, NEEDED_FOR, explain_untrainable, list_missing, list_missing_of_class


class Whole:
    """Says its device by an annotation, makes its network at birth and has methods for the rest."""

    device: Any

    def __init__(self) -> None:
        self.network = None

    adapter_targets = schedule = None

    def encode_images(self) -> None: ...
    def image_conditioning(self) -> None: ...
    def encode_prompts(self) -> None: ...
    def predict(self) -> None: ...
    def save(self) -> None: ...
    def save_adapter(self) -> None: ...


class Half(Whole):
    encode_images = None

    @property
    def schedule(self) -> Any:  # type: ignore[override]
        return SimpleNamespace().schedule


class Delegating:
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def test_needed_is_the_protocol() -> None:
    assert set(NEEDED) >= {"device", "network", "schedule", "save_adapter"} and len(NEEDED) == 10
    assert all(hasattr(DiffusionModel, name) for name in NEEDED)


def test_a_class_that_has_all_lacks_nothing() -> None:
    assert (
        list_missing_of_class(Whole)
        == list_missing_of_class(Half)
        == list_missing_of_class(LatentDiffusion)
        == list_missing_of_class(FlowMatching)
        == []
    )


def test_a_class_that_lacks_some_is_told_which() -> None:
    assert list_missing_of_class(SimpleNamespace) == list(NEEDED)
    assert "it has no device, network" in explain_untrainable("mine", list_missing_of_class(int))


def test_a_class_that_answers_for_any_name_isnt_judged() -> None:
    assert list_missing_of_class(Delegating) == []
    assert list_missing(Delegating()) == list(NEEDED)


def test_an_attribute_that_fails_is_told_with_its_cause() -> None:
    half = Half()
    half.device = "cpu"
    (told,) = list_missing(half)
    assert told.startswith("schedule (") and "has no attribute 'schedule'" in told


def test_the_true_reason_is_not_hidden() -> None:
    class Refusing(Whole):
        @property
        def device(self) -> Any:
            raise ModelError("it has no noise schedule")

    with pytest.raises(ModelError, match="no noise schedule"):
        list_missing(Refusing())


def test_a_method_that_follows_gradients_needs_more() -> None:
    assert set(NEEDED_FOR["gradients"]) - set(NEEDED) == {"latent_shape", "decode_pixels"}
    assert list_missing_of_class(LatentDiffusion, NEEDED_FOR["gradients"]) == list_missing_of_class(
        FlowMatching, NEEDED_FOR["gradients"]
    )
    assert list_missing_of_class(LatentDiffusion, NEEDED_FOR["gradients"]) == []
    missing = list_missing_of_class(Whole, NEEDED_FOR["gradients"])
    assert missing == ["latent_shape", "decode_pixels"]
    assert list_missing(Whole(), NEEDED_FOR["gradients"]) == [*list_missing(Whole()), *missing]
    message = explain_untrainable("mine", missing, "gradients")
    assert "can't be trained by the gradient of a reward: it has no latent_shape, decode_pixels" in message

"""Nothing in these tests asks the network, or takes longer to measure the machine than need be."""

from collections.abc import Callable

import pytest

from agfsync.commands.doctor import loads, machine
from agfsync.recipe import ModelSettings, Training

_TRAININGS: dict[tuple[str, str, bool, int], loads.Load] = {}


@pytest.fixture(autouse=True)
def offline(hub_cache: Callable[..., str]) -> None:
    """An empty cache, and no hub."""


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> machine.Speed:
    """A machine of 1 TFLOP/s and 10 GB/s."""
    known = machine.Speed(lambda dtype: 1e12, 1e10, 1e-6)
    monkeypatch.setattr(machine, "measure_speed", lambda device: known)
    monkeypatch.setattr(machine, "measure_image_seconds", lambda height, width: (0.01, 0.01))
    return known


@pytest.fixture(autouse=True)
def trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An examination estimates each training once a process: it takes seconds, and many tests ask about the same."""
    estimate = loads.estimate_training

    def remember(settings: ModelSettings, training: Training, on_cpu: bool, pairs: int) -> loads.Load:
        key = (settings.model_dump_json(), training.model_dump_json(), on_cpu, pairs)
        if key not in _TRAININGS:
            _TRAININGS[key] = estimate(settings, training, on_cpu, pairs)
        return _TRAININGS[key]

    monkeypatch.setattr(loads, "estimate_training", remember)

"""Nothing in these tests asks the network, or takes longer to measure the machine than need be."""

from collections.abc import Callable

import pytest

from agfsync.commands.doctor import machine


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

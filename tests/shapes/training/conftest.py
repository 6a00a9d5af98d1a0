"""The actor that the Shapes lessons' tests hand to `collect` and `loss`."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

MakeActor = Callable[[Any], Any]


@pytest.fixture
def actor() -> MakeActor:
    """Makes the actor of a network, on the CPU and in float32."""
    return lambda network: SimpleNamespace(network=network, device=torch.device("cpu"), precision="fp32")

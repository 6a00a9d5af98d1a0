"""A key, settings of a quick endpoint, and a run that asks a fake server."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_language import SECRET, FakeServer, endpoint_at

from agfsync.chat.endpoint import Endpoint
from agfsync.recipe import Recipe


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """The key in the environment, which nothing may say or write."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return SECRET


@pytest.fixture
def endpoint() -> Callable[..., Endpoint]:
    """`endpoint_at`."""
    return endpoint_at


@pytest.fixture
def asking(make_recipe: Any) -> Callable[..., Recipe]:
    """The quick recipe with `count` captions, and questions, of a fake server; keywords change its model's settings."""

    def make(server: FakeServer, count: int = 36, **changes: Any) -> Recipe:
        prices = dict(zip(("input", "output"), server.prices, strict=True))
        model = {
            "type": "openai",
            "path": "fake",
            "base_url": server.url,
            "timeout": 0.5,
            "prices": prices,
            "reply_tokens": 600,
        }
        stage = {"writer": model | changes}
        return make_recipe(
            captions={**stage, "count": count - 12, "held_out": 12},
            questions={**stage, "rounds": 2},
            failure_budget=0.5,
        )

    return make

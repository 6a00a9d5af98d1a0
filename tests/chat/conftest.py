"""A key, and settings of a quick endpoint."""

from collections.abc import Callable

import pytest
from fake_language import SECRET, endpoint_at

from agfsync.chat.endpoint import Endpoint


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

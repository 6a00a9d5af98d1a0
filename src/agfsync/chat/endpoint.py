"""Where a language model is and how it is asked.

The key comes from OPENAI_API_KEY, goes into the client, and is taken out of whatever the server says.
"""

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from agfsync.errors import ModelError

KEY, BASE_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"
SECRET = 12
"""characters from which on a key is one: shorter ones stand in for it at servers that need none"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A language model and how it is asked: the recipe's settings of it."""

    model: str
    base_url: str | None
    """default: OPENAI_BASE_URL, else OpenAI's"""
    temperature: float
    structured: bool
    """ask for JSON by its schema"""
    reply_tokens: int
    """the most tokens of one reply"""
    concurrency: int
    timeout: float
    """seconds to wait for a reply"""
    retries: int
    """times that a request is repeated in all"""

    @property
    def url(self) -> str:
        """Where the server is."""
        return self.base_url or os.environ.get(BASE_URL) or OPENAI

    @property
    def server(self) -> str:
        """The server's name, for messages: an address may hold credentials."""
        try:
            return urlsplit(self.url).netloc.rpartition("@")[2] or "its address"
        except ValueError:
            return "its address"


def key(endpoint: Endpoint) -> str:
    """The key for `endpoint`; servers of one's own mostly need none.

    Raises:
        ModelError: there is none for OpenAI's server, or it can't be one.
    """
    found = _key()
    if not found and endpoint.url == OPENAI:
        raise ModelError(f"no key for {endpoint.server}: set {KEY}, or {BASE_URL} to the server that you use")
    if not (found.isascii() and found.isprintable()):
        raise ModelError(f"{KEY} holds what can't be a key: it has other characters than printable ASCII")
    return found or "none"


def without_key(text: str) -> str:
    """`text`, which a server has said, without the key. A stand-in such as "none" is left: it is a word like any."""
    secret = _key()
    return text.replace(secret, "[key]") if len(secret) >= SECRET else text


def _key() -> str:
    return os.environ.get(KEY, "").strip()

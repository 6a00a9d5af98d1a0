"""The settings of an OpenAI-compatible server, to which scorers, annotators and writers may send requests."""

from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agfsync.recipe.base import Positive, Section


class Prices(Section):
    """Prices of a million tokens, in any currency."""

    input: float = Field(default=0.0, ge=0)
    output: float = Field(default=0.0, ge=0)


class Server(Section):
    """An OpenAI-compatible server. Its key is never part of a recipe: the environment's OPENAI_API_KEY holds it."""

    base_url: str | None = None
    """default: the environment's OPENAI_BASE_URL, else OpenAI's own server"""
    concurrency: Positive = 8
    """requests at a time"""
    timeout: float = Field(default=120.0, gt=0)
    """seconds to wait for a reply"""
    reply_tokens: Positive = 256
    """the most tokens of one reply: a judge's answer is one word, but a model that thinks first needs more"""
    retries: int = Field(default=6, ge=0)
    """the most repetitions of a request that is rejected temporarily, fails, or gets a reply that can't be parsed"""
    prices: Prices = Prices()
    max_cost: float | None = Field(default=None, gt=0)
    """the most that a stage may cost by these prices in this run, including resumed ones; then it stops"""
    max_tokens_total: Positive | None = None
    """the most tokens, sent and received, of a stage in this run, including resumed ones; then it stops"""

    @field_validator("base_url")
    @classmethod
    def _has_no_credentials(cls, url: str | None) -> str | None:
        if url and ("@" in url or "?" in url):
            raise PydanticCustomError("secret", "leave credentials out of an address: OPENAI_API_KEY is their place")
        return url

    @model_validator(mode="after")
    def _cap_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prices.input or self.prices.output):
            raise ValueError("max_cost needs prices: give prices.input and prices.output, of a million tokens")
        return self

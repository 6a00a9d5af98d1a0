"""The settings of the writers of captions and questions, and of the polishers of prompts."""

import os

from pydantic import Field, field_validator

from agfsync.recipe.base import Positive, Section
from agfsync.recipe.servers import Server


class WriterSettings(Section):
    """A writer of captions or questions. In a recipe `writer: shapes` is short for `writer: {type: shapes}`."""

    type: str = "shapes"

    @property
    def language_model(self) -> "LanguageModel | None":
        """These settings if the writer uses a language model, else None."""
        return self if isinstance(self, LanguageModel) else None


class PolisherSettings(WriterSettings):
    """A polisher of prompts."""

    type: str = "openai"


class LanguageModel(Server, WriterSettings):
    """The writer type `openai`: a language model behind an OpenAI-compatible server."""

    path: str = Field(default_factory=lambda: os.environ.get("OPENAI_MODEL", ""), validate_default=True)
    """the server's name for the model; default: the environment's OPENAI_MODEL"""
    temperature: float = Field(default=1.0, ge=0, le=2)
    structured: bool = True
    """ask for JSON by its schema; a server that refuses a schema is asked without one in any case"""
    reply_tokens: Positive = 8192
    """the most tokens of one reply; a model that thinks first needs more"""

    @field_validator("path")
    @classmethod
    def _has_a_name(cls, path: str) -> str:
        if not path:
            raise ValueError("name a language model here, or in the environment's OPENAI_MODEL")
        return path

"""The writer of captions or questions, the polisher of captions, and the accounts of their cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agfsync import catalog
from agfsync.chat.endpoint import Endpoint
from agfsync.chat.meter import Meter
from agfsync.errors import RecipeError
from agfsync.formats.sources import SourceCaptions
from agfsync.language import Verifier
from agfsync.recipe import Captions, Questions, WriterSettings
from agfsync.stages.context import Context
from agfsync.stages.spending import ACCOUNT, Account, open_account

POLISH = "captions.polish"
"""The polisher's section in a recipe, and its account."""


@dataclass(frozen=True, slots=True)
class WriterSession:
    """A stage's open writer and its account."""

    writer: Any
    account: Account


@contextmanager
def open_writer(
    context: Context, stage: str, settings: Captions | Questions, instead: SourceCaptions | None = None
) -> Iterator[WriterSession]:
    """Open the writer that `settings` name; its spending is saved in the run folder in any case.

    Args:
        instead: a file that replaces the writer.

    Raises:
        RecipeError: see `build_writer`. StoreError: the disk fails.
    """
    account = open_account(
        context.run.path, stage, settings.writer.language_model, f"{stage}.writer", context.progress.say
    )
    try:
        yield WriterSession(build_writer(stage, settings, account.meter) if instead is None else instead, account)
    finally:
        account.note()


@contextmanager
def open_polisher(context: Context, settings: WriterSettings) -> Iterator[WriterSession]:
    """Open the polisher of the captions; its spending is saved in the run folder in any case.

    Raises:
        RecipeError: no such polisher. StoreError: the disk fails.
    """
    account = open_account(context.run.path, POLISH, settings.language_model, POLISH, context.progress.say)
    try:
        yield WriterSession(_build("polishers", settings, account.meter), account)
    finally:
        account.note()


def digest_polisher(settings: Captions) -> tuple[str, ...]:
    """Return the digest of the captions' polisher, without a request to it; empty if there is none.

    Raises:
        RecipeError: no such polisher.
    """
    return () if settings.polish is None else (str(_build("polishers", settings.polish, Meter()).identity),)


def digest_writer(stage: str, settings: Captions | Questions) -> str:
    """Return the digest of a stage's writer and of everything that affects its texts, without a request to it.

    It is empty if a file replaces the writer.

    Raises:
        RecipeError: see `build_writer`.
    """
    if isinstance(settings, Captions) and settings.source:
        return ""
    return str(build_writer(stage, settings, Meter()).identity)


def build_writer(stage: str, settings: Captions | Questions, meter: Meter) -> Any:
    """Build the writer that `settings` name, with its language model if it has one; no server is contacted.

    Raises:
        RecipeError: no such writer, or it can't verify.
    """
    writer = _build(stage, settings.writer, meter)
    if isinstance(settings, Questions) and settings.verify and not isinstance(writer, Verifier):
        raise RecipeError(f"questions.verify: writer '{settings.writer.type}' can't verify questions: leave verify out")
    return writer


def _build(kind: str, settings: WriterSettings, meter: Meter) -> Any:
    factory, model = catalog.find(kind, settings.type), settings.language_model
    if model is None:
        return factory(**settings.model_dump(exclude={"type"}))
    return factory(Endpoint(model.path, **model.model_dump(exclude=ACCOUNT | {"type", "path"})), meter)

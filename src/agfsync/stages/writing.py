"""What captions and questions have in common: a writer, and the account of what it costs. No stage of its own."""

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
from agfsync.recipe import Captions, LanguageModel, Questions
from agfsync.stages.context import Context
from agfsync.stages.spending import ACCOUNT, Account, open_account


@dataclass(frozen=True, slots=True)
class WriterSession:
    """A writer at work for a stage, and its account."""

    writer: Any
    account: Account


@contextmanager
def open_writer(
    context: Context, stage: str, settings: Captions | Questions, instead: SourceCaptions | None = None
) -> Iterator[WriterSession]:
    """The writer that `settings` name; however its work ends, what it has spent is entered in the run folder.

    Args:
        instead: a file in the writer's place.

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


def digest_writer(stage: str, settings: Captions | Questions) -> str:
    """What names a stage's writer with all that shapes what it writes, without asking it for anything.

    Empty where a file is in its place.

    Raises:
        RecipeError: see `build_writer`.
    """
    if isinstance(settings, Captions) and settings.source:
        return ""
    return str(build_writer(stage, settings, Meter()).identity)


def build_writer(stage: str, settings: Captions | Questions, meter: Meter) -> Any:
    """The writer that `settings` name, made with its language model where it asks one; no server is spoken to.

    Raises:
        RecipeError: no such writer, or it can't verify.
    """
    found = catalog.find(stage, settings.writer.type)
    model = settings.writer.language_model
    own = settings.writer.model_dump(exclude={"type"})
    writer = found(**own) if model is None else found(_make_endpoint(model), meter)
    if isinstance(settings, Questions) and settings.verify and not isinstance(writer, Verifier):
        raise RecipeError(f"questions.verify: writer '{settings.writer.type}' can't verify questions: leave verify out")
    return writer


def _make_endpoint(model: LanguageModel) -> Endpoint:
    return Endpoint(model.path, **model.model_dump(exclude=ACCOUNT | {"type", "path"}))

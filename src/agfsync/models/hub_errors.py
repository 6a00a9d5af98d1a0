"""What the hub said, whatever the libraries made of it.

Diffusers and transformers put exceptions of their own in place of the hub client's, and guess the cause: "no file named
model_index.json" is said of any failure. Some answers they pass over in silence, and go on without the file. So the
cause is read from the chain of exceptions, and where that has none from the answers themselves.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from logging import ERROR
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from agfsync.errors import AgfsyncError, ModelError, lacks_memory

ENDPOINT, OFFLINE = "HF_ENDPOINT", ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
LONGEST = 200
"""characters of the hub's own words"""
ADVICE = {
    "GatedRepo": "it is gated: accept its terms on the hub and set HF_TOKEN",
    "RevisionNotFound": "it has no such revision",
    "RepoNotFound": "there is no such model, or it is private: set HF_TOKEN",
}
"""By the hub's X-Error-Code."""


@dataclass(slots=True)
class Answers:
    """The hub's last answer to each request, by method and address."""

    last: dict[tuple[str, str], Any] = field(default_factory=dict)

    def note(self, response: Any) -> None:
        self.last[response.request.method, str(response.request.url)] = response

    def refused(self) -> list[Any]:
        """Those that are neither the file nor its absence."""
        return [each for each in self.last.values() if each.status_code in (401, 403, 429) or each.status_code >= 500]


@contextmanager
def hub_explained(model: str) -> Iterator[None]:
    """Within, what the hub has against loading `model` ends in a `ModelError` that says it; its client prints nothing.

    Raises:
        ModelError: the hub refused a file or can't be reached, also where the library went on without the file.
    """
    answers = Answers()
    with _silent(), _noted(answers) if is_written_as_hub_id(model) else nullcontext():
        try:
            yield
        except AgfsyncError:
            raise
        except Exception as failure:
            if lacks_memory(failure):
                raise
            fault = hub_fault(failure, answers)
            if fault is None:
                raise
            raise ModelError(f"can't load the model {model}: {fault}") from failure
        if missing := missing_file(model, answers):
            raise ModelError(f"can't load the model {model}: {missing}")


def is_written_as_hub_id(model: str) -> bool:
    """True if `model` is no path, and names nothing on this machine."""
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and not Path(model).exists()


@contextmanager
def _noted(answers: Answers) -> Iterator[None]:
    from huggingface_hub import get_session

    session = get_session()
    before = session.event_hooks
    session.event_hooks = {**before, "response": [*before.get("response", []), answers.note]}
    try:
        yield
    finally:
        session.event_hooks = before


@contextmanager
def _silent() -> Iterator[None]:
    """The hub's client tells of each repeated request on the terminal."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with warnings.catch_warnings():
            # Diffusers gives the client an argument that it doesn't take any more.
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
            yield
    finally:
        logging.set_verbosity(before)


def hub_fault(failure: BaseException, answers: Answers | None = None) -> str | None:
    """Return what the hub, or the way to it, had against a request that `failure` came of; None if there is no such.

    One line: the address, with HF_ENDPOINT where that is set, the HTTP status, the hub's words, and what to do.
    """
    from huggingface_hub import errors

    chain = list(_chain(failure))
    for each in chain:
        if isinstance(each, errors.HfHubHTTPError) and not _may_be_absent(each, failure):
            return told_answer(each.response)
    if answers and (refused := answers.refused()):
        return told_answer(refused[-1])
    for each in chain:
        if isinstance(each, errors.OfflineModeIsEnabled):
            return _offline()
        if any(kind.__name__ == "TransportError" for kind in type(each).__mro__):
            words = _words(str(each) or type(each).__name__)
            return f"can't reach {_address()}: {words}: connect, or name a folder on this machine"
        if isinstance(each, errors.FileMetadataError):
            return f"what answers as {_address()} is no hub: {_words(str(each).partition('. ')[0])}"
    if any(isinstance(each, errors.LocalEntryNotFoundError) for each in chain):
        return _offline()
    return None


def missing_file(model: str, answers: Answers) -> str | None:
    """Return what the hub said of a file of `model` that a library went on without, and that no cache holds."""
    from huggingface_hub import try_to_load_from_cache

    # A part of a model is labelled with its name in brackets.
    repository = model.partition(" (")[0]
    for each in answers.refused():
        revision, name = _asked_for(each)
        if name and not isinstance(try_to_load_from_cache(repository, name, revision=revision), str):
            return told_answer(each)
    return None


def told_answer(response: Any) -> str:
    """Return an answer in one line: address, status, the hub's words, what to do."""
    status, reason = response.status_code, f"{response.status_code} {response.reason_phrase}".strip()
    words = _words(response.headers.get("X-Error-Message", ""))
    said = f" ({words})" if words and words.casefold() not in reason.casefold() else ""
    name = _file(response)
    asked = f" for {name}" if name else ""
    advice = _advice(status, response.headers.get("X-Error-Code", ""), name)
    return f"{_address()} answered {reason}{said}{asked}: {advice}"


def _advice(status: int, code: str, name: str) -> str:
    if code in ADVICE:
        return ADVICE[code]
    if status == 404:
        return f"it has no {'such file' if name else 'such model'}"
    if status in (401, 403):
        return "there is no such model, or this machine may not read it: set HF_TOKEN"
    if status == 429:
        return "too many requests for now: wait, or set HF_TOKEN for a higher limit"
    return "the hub is out of order: try again later" if status >= 500 else "the request was refused"


def _chain(failure: BaseException) -> Iterator[BaseException]:
    """The exception with those that it came of, each once."""
    seen: set[int] = set()
    each: BaseException | None = failure
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _may_be_absent(answer: BaseException, failure: BaseException) -> bool:
    """True where an absence was met on the way, and `failure` is another: many files may be absent."""
    from huggingface_hub import errors

    if not isinstance(answer, errors.RemoteEntryNotFoundError):
        return False
    return not _file(answer.response) or (answer is not failure and "file named" not in str(failure))


def _file(response: Any) -> str:
    """The name of the file that was asked for; "" where it wasn't a file."""
    return _asked_for(response)[1]


def _asked_for(response: Any) -> tuple[str, str]:
    """Return the revision and the file behind `/resolve/` in the request's address; empty where it isn't a file's.

    A revision such as `refs/pr/1` is one quoted piece of the address.
    """
    path = response.request.url.raw_path.decode("ascii").partition("?")[0]
    revision, _, name = path.partition("/resolve/")[2].partition("/")
    return unquote(revision), unquote(name)


def _offline() -> str:
    named = [name for name in OFFLINE if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}]
    cause = f"{named[0]} is set" if named else "the hub isn't asked (offline mode)"
    return f"{cause}, and the cache on this machine doesn't hold it all: fetch it with a network, then try again"


def _address() -> str:
    from huggingface_hub import constants

    set_by = f" ({ENDPOINT})" if os.environ.get(ENDPOINT) else ""
    return f"the hub at {constants.ENDPOINT}{set_by}"


def _words(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."

"""The hub's reasons for a failed loading, in one line.

Diffusers and transformers replace the hub client's exceptions by their own and guess the cause: they report any failure
as "no file named model_index.json". They ignore some errors and go on without the file. So the cause is read from the
chain of exceptions, or, if it isn't there, from the hub's responses themselves.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from logging import ERROR
from typing import Any
from urllib.parse import unquote

from agfsync.errors import AgfsyncError, ModelError, lacks_memory, model_errors

ENDPOINT, OFFLINE = "HF_ENDPOINT", ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_LONGEST_QUOTE = 200
"""the most characters of the hub's own message"""
ADVICE = {
    "GatedRepo": "it is gated: accept its terms on the hub and set HF_TOKEN",
    "RevisionNotFound": "it has no such revision",
    "RepoNotFound": "there is no such model, or it is private: set HF_TOKEN",
}
"""the hub's X-Error-Code -> the advice"""


@dataclass(slots=True)
class Answers:
    """The hub's last response to each request, by method and address."""

    last: dict[tuple[str, str], Any] = field(default_factory=dict)

    def note(self, response: Any) -> None:
        """Record a response."""
        self.last[response.request.method, str(response.request.url)] = response

    def list_refused(self) -> list[Any]:
        """Return the responses that refuse a request: status 401, 403, 429, or 500 and above."""
        return [each for each in self.last.values() if each.status_code in (401, 403, 429) or each.status_code >= 500]


@contextmanager
def loading_errors(model: str) -> Iterator[None]:
    """Turn each exception of the hub, or of a library that loads `model`, into a ModelError; silence the hub's client.

    An out-of-memory error is raised unchanged.

    Raises:
        ModelError: the loading failed, or the hub refused a file that the library went on without.
    """
    from agfsync.models.hub import is_hub_id

    answers, what = Answers(), f"can't load the model {model}"
    with model_errors(what), _silence_hub_client(), _record_answers(answers) if is_hub_id(model) else nullcontext():
        try:
            yield
        except AgfsyncError:
            raise
        except Exception as failure:
            fault = None if lacks_memory(failure) else find_hub_fault(failure, answers)
            if fault is None:
                raise
            raise ModelError(f"{what}: {fault}") from failure
        if missing := find_missing_file(model, answers):
            raise ModelError(f"{what}: {missing}")


@contextmanager
def _record_answers(answers: Answers) -> Iterator[None]:
    from huggingface_hub import get_session

    session = get_session()
    before = session.event_hooks
    session.event_hooks = {**before, "response": [*before.get("response", []), answers.note]}
    try:
        yield
    finally:
        session.event_hooks = before


@contextmanager
def _silence_hub_client() -> Iterator[None]:
    """Silence the hub's client, which would report each retry."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with warnings.catch_warnings():
            # Diffusers still passes an argument that the client no longer takes.
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")
            yield
    finally:
        logging.set_verbosity(before)


def find_hub_fault(failure: BaseException, answers: Answers | None = None) -> str | None:
    """Return the hub's or the network's error behind a `failure` in one line; None if there is none.

    The line has the address (with HF_ENDPOINT if that is set), the HTTP status, the hub's message, and what to do.
    """
    from huggingface_hub import errors

    chain = list(_list_causes(failure))
    for each in chain:
        if isinstance(each, errors.HfHubHTTPError) and not _may_be_absent(each, failure):
            return describe_answer(each.response)
    if answers and (refused := answers.list_refused()):
        return describe_answer(refused[-1])
    for each in chain:
        if isinstance(each, errors.OfflineModeIsEnabled):
            return describe_offline()
        if any(kind.__name__ == "TransportError" for kind in type(each).__mro__):
            words = _shorten_text(str(each) or type(each).__name__)
            return f"can't reach {_get_hub_address()}: {words}: connect, or name a folder on this machine"
        if isinstance(each, errors.FileMetadataError):
            return f"what answers as {_get_hub_address()} is no hub: {_shorten_text(str(each).partition('. ')[0])}"
    if any(isinstance(each, errors.LocalEntryNotFoundError) for each in chain):
        return describe_offline()
    return None


def find_missing_file(model: str, answers: Answers) -> str | None:
    """Return the hub's refusal of a file of `model` that a library ignored and that isn't in the cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    # The label of a part of a model ends with the part's name in parentheses.
    repository = model.partition(" (")[0]
    for each in answers.list_refused():
        revision, name = _asked_for(each)
        if name and not isinstance(try_to_load_from_cache(repository, name, revision=revision), str):
            return describe_answer(each)
    return None


def describe_answer(response: Any) -> str:
    """Return a response of the hub in one line: address, status, the hub's message, what to do."""
    status, reason = response.status_code, f"{response.status_code} {response.reason_phrase}".strip()
    words = _shorten_text(response.headers.get("X-Error-Message", ""))
    said = f" ({words})" if words and words.casefold() not in reason.casefold() else ""
    name = _get_file_name(response)
    asked = f" for {name}" if name else ""
    advice = _give_advice(status, response.headers.get("X-Error-Code", ""), name)
    return f"{_get_hub_address()} answered {reason}{said}{asked}: {advice}"


def _give_advice(status: int, code: str, name: str) -> str:
    if code in ADVICE:
        return ADVICE[code]
    if status == 404:
        return f"it has no {'such file' if name else 'such model'}"
    if status in (401, 403):
        return "there is no such model, or this machine may not read it: set HF_TOKEN"
    if status == 429:
        return "too many requests for now: wait, or set HF_TOKEN for a higher limit"
    return "the hub is out of order: try again later" if status >= 500 else "the request was refused"


def _list_causes(failure: BaseException) -> Iterator[BaseException]:
    """Yield the exception and its chain of causes, each once."""
    seen: set[int] = set()
    each: BaseException | None = failure
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _may_be_absent(answer: BaseException, failure: BaseException) -> bool:
    """Return True if the answer only says that an optional file is missing, and isn't the cause of `failure`."""
    from huggingface_hub import errors

    if not isinstance(answer, errors.RemoteEntryNotFoundError):
        return False
    return not _get_file_name(answer.response) or (answer is not failure and "file named" not in str(failure))


def _get_file_name(response: Any) -> str:
    """Return the name of the requested file; "" if the request wasn't for a file."""
    return _asked_for(response)[1]


def _asked_for(response: Any) -> tuple[str, str]:
    """Return the revision and the file after `/resolve/` in the request's address; empty if it isn't for a file.

    A revision such as `refs/pr/1` is quoted in the address, as one segment.
    """
    path = response.request.url.raw_path.decode("ascii").partition("?")[0]
    revision, _, name = path.partition("/resolve/")[2].partition("/")
    return unquote(revision), unquote(name)


def describe_offline() -> str:
    """Return why a file that isn't in the cache can't be fetched, and what to do."""
    from huggingface_hub import constants

    named = [name for name in OFFLINE if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}]
    unasked = "the hub isn't asked (offline mode)" if constants.HF_HUB_OFFLINE else f"{_get_hub_address()} is silent"
    return (
        f"{f'{named[0]} is set' if named else unasked}, and the cache on this machine doesn't hold all of it: fetch it "
        "with a network, or name a folder"
    )


def _get_hub_address() -> str:
    from huggingface_hub import constants

    set_by = f" ({ENDPOINT})" if os.environ.get(ENDPOINT) else ""
    return f"the hub at {constants.ENDPOINT}{set_by}"


def _shorten_text(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST_QUOTE else f"{line[:_LONGEST_QUOTE]} ..."

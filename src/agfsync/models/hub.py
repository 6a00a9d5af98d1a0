"""Queries about a hub model without loading it, to the local cache and to the hub.

Nothing here waits longer than `HUB_PATIENCE`, and HF_HUB_OFFLINE is respected. A hub that did not answer is not asked
again.
"""

import re
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

from agfsync.models.hub_errors import describe_answer, describe_offline

HUB_PATIENCE = 4.0
"""the timeout for an answer of the hub, in seconds"""
MAIN, SAFE = "main", ".safetensors"


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """The hub's answer about a model: its commit and the sizes of its files in bytes; or why there is none."""

    commit: str | None = None
    files: Mapping[str, int] = field(default_factory=dict)
    fault: str = ""


NO_NETWORK = "no network"
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[\w.-]+", re.ASCII)


def is_hub_id(model: str) -> bool:
    """Return True if `model` can only be a hub id: it isn't an embedded model, and no such path exists.

    >>> is_hub_id("openai/clip-vit-base-patch16"), is_hub_id("./folder"), is_hub_id("my models/one")
    (True, False, False)
    """
    return _HUB_ID.fullmatch(model) is not None and not Path(model).exists()


def cached_commit(model: str, revision: str | None = None) -> str | None:
    """Return the commit of `model` that would be loaded without a network; None if it isn't in the cache."""
    folder, name = _find_cache_folder(model), revision or MAIN
    if (folder / "snapshots" / name).is_dir():
        return name
    try:
        commit = (folder / "refs" / name).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return commit if commit and (folder / "snapshots" / commit).is_dir() else None


def find_snapshot(model: str, revision: str | None = None) -> Path | None:
    """Return the folder in the cache with the files of `model`, maybe not all of them; None if there is none."""
    commit = cached_commit(model, revision)
    return None if commit is None else _find_cache_folder(model) / "snapshots" / commit


def commit_of(model: str) -> str | None:
    """Return the commit of `model` with safetensors weights, in the cache, else on the hub; None if neither has any.

    For a model without safetensors, transformers may find converted weights for a branch, but not for a commit.
    """
    folder = find_snapshot(model)
    if folder is not None and any(folder.rglob(f"*{SAFE}")):
        return folder.name
    answer = ask_hub(model)
    return answer.commit if any(name.endswith(SAFE) for name in answer.files) else None


def ask_hub(model: str, revision: str | None = None) -> HubAnswer:
    """Return the hub's answer about `model`. Answers are cached."""
    return _ask_cached(model, revision)


def why_absent(model: str, revision: str | None = None) -> str:
    """Return why a hub model isn't available; "" if the cache has some of its files, or the hub lists them."""
    return "" if cached_commit(model, revision) is not None else ask_hub(model, revision).fault


def describe_absence(model: str, revision: str | None, place: str, fault: str) -> str:
    """Return the message that a hub model can't be loaded due to `fault`; `place` is its key in the recipe, or ""."""
    named = f"{model} at {revision}" if revision else model
    where = f" ({place})" if place else ""
    return f"can't load the model {named}{where}: {describe_offline() if fault == NO_NETWORK else fault}"


@cache
def _ask_cached(model: str, revision: str | None) -> HubAnswer:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE or _SILENT:
        return HubAnswer(fault=NO_NETWORK)
    try:
        info = _in_time(
            lambda: HfApi().model_info(model, revision=revision, timeout=HUB_PATIENCE - 1, files_metadata=True)
        )
    except GatedRepoError:
        return HubAnswer(fault="it is gated: accept its terms on the hub and set HF_TOKEN")
    except RevisionNotFoundError:
        return HubAnswer(fault=f"it has no revision {revision}")
    except RepositoryNotFoundError:
        return HubAnswer(fault="the hub has no such model, or it is private: set HF_TOKEN")
    except HfHubHTTPError as failure:
        return HubAnswer(fault=describe_answer(failure.response))
    except Exception:
        # No connection, no answer in time, or an answer that isn't from a hub.
        _SILENT.append(model)
        return HubAnswer(fault=NO_NETWORK)
    return HubAnswer(info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})


def list_files(model: str, revision: str | None = None) -> list[str]:
    """Return the names of the files of `model` on the hub, else in the cache; none if neither has any."""
    if names := ask_hub(model, revision).files:
        return sorted(names)
    folder = find_snapshot(model, revision)
    return [] if folder is None else sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def fetch_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """Return the path of a small file of `model`, from the cache, else from the hub; None if it isn't available."""
    found = find_snapshot(model, revision)
    if found is not None and (found / name).is_file():
        return found / name
    if name not in ask_hub(model, revision).files:
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(_in_time(lambda: hf_hub_download(model, name, revision=revision, etag_timeout=HUB_PATIENCE - 1)))
    except HfHubHTTPError:
        return None  # The hub refuses the file, e.g. of a gated model; loading the model reports its answer.
    except Exception:
        # No connection, no answer in time, or an answer that isn't from a hub.
        _SILENT.append(model)
        return None


def forget_answers() -> None:
    """Clear the cached answers of the hub, and the record of missing answers."""
    _ask_cached.cache_clear()
    _SILENT.clear()


_SILENT: list[str] = []
"""The models for which the hub didn't answer."""


def _find_cache_folder(model: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")


def _in_time(work: Any) -> Any:
    """Return the result of `work`, called in a thread, since name resolution has no timeout.

    Raises:
        TimeoutError: it takes longer than `HUB_PATIENCE`.
        Exception: any error of `work`.
    """
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as failure:
            future.set_exception(failure)

    Thread(target=run, daemon=True).start()
    try:
        return future.result(timeout=HUB_PATIENCE)
    except Late as failure:
        raise TimeoutError from failure

"""What is known of hub models without loading them, and without waiting."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError

from agfsync.models import hub

Put = Callable[..., str]


@pytest.fixture
def online(hub_cache: Put, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Lets the hub say something, do something or fail."""

    def say(answer: object) -> None:
        def model_info(self: object, model: str, **_: object) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer() if callable(answer) else answer

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)

    return say


def _info(*files: str) -> SimpleNamespace:
    return SimpleNamespace(sha="b" * 40, siblings=[SimpleNamespace(rfilename=name, size=10) for name in files])


def test_what_is_no_hub_id(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ("embedded:clip", "/a/b", "./a", "a/b/c", "name", "none", "my models/one", "a\nb/c", str(tmp_path)):
        assert not hub.is_hub_id(model)
    assert hub.is_hub_id("owner/name")


def test_the_caches_commit_comes_first(hub_cache: Put, online: Callable[[object], None]) -> None:
    online(_info("model.safetensors"))
    assert hub.commit_of("owner/name") == "b" * 40
    commit = hub_cache("owner/other", "config.json", "model.safetensors")
    assert hub.commit_of("owner/other") == hub.cached_commit("owner/other") == commit
    folder = hub.find_snapshot("owner/other", commit)
    assert folder is not None and (folder / "config.json").is_file()


def test_a_commit_without_safetensors_counts_as_none(hub_cache: Put, online: Callable[[object], None]) -> None:
    online(_info("pytorch_model.bin"))
    hub_cache("owner/name", "config.json", "pytorch_model.bin")
    assert hub.commit_of("owner/name") is None


def test_a_hub_that_fails_is_asked_once(online: Callable[[object], None]) -> None:
    online(OSError("no route"))
    assert hub.ask_hub("owner/name").fault == hub.NO_NETWORK
    online(_info("model.safetensors"))
    assert hub.ask_hub("owner/other").fault == hub.NO_NETWORK
    hub.forget_answers()
    assert hub.ask_hub("owner/other").files == {"model.safetensors": 10}


def test_a_file_that_the_hub_refuses_says_nothing_of_other_models(
    online: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        answer: Any = SimpleNamespace(status_code=403, headers={}, request=None)
        raise GatedRepoError("gated", response=answer)

    online(_info("config.json"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert hub.fetch_file("owner/gated", "config.json") is None
    assert hub.ask_hub("owner/name").commit == "b" * 40


def test_a_hub_that_hangs_is_not_waited_for(online: Callable[[object], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HUB_PATIENCE", 0.05)
    online(lambda: time.sleep(5))
    begun = time.monotonic()
    assert hub.ask_hub("owner/name").fault == hub.NO_NETWORK
    assert time.monotonic() - begun < 1


def test_offline_means_offline(
    hub_cache: Put, online: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    online(_info("model.safetensors"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.commit_of("owner/name") is None
    assert hub.fetch_file("owner/name", "config.json") is None

"""What the hub answers is what is said, for everything that is read from it (a server here stands in for it)."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.utils._http
import pytest
import torch
from local_hub import COMMIT, LocalHub, local_hub
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models import LORA_FILE, hub, hub_errors
from agfsync.scorers.heads import Head

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
Load = Callable[[], Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_generator: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    clip = root / "clip"
    shutil.copytree(tiny_generator / "tokenizer", clip)
    config = CLIPConfig(
        text_config={**SMALL, "vocab_size": 200}, vision_config={**SMALL, "image_size": 8, "patch_size": 4}
    )
    CLIPModel(config).save_pretrained(clip)
    CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(clip)
    Head(8, (4,)).save(root / "head")
    (root / "lora").mkdir()
    save_file({"unet.conv_in.diff": torch.ones(8, 4, 3, 3)}, root / "lora" / LORA_FILE)
    (root / "style").mkdir()
    save_file({"unet.conv_in.diff": torch.ones(8, 4, 3, 3)}, root / "style" / "my_style_v2.safetensors")
    folders = {f"o/{path.name}": path for path in root.iterdir()}
    return {"o/sd": tiny_generator, **folders}


@pytest.fixture
def server(hub_cache: object, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with the models above, an empty cache, and no waits between requests."""
    with local_hub() as running:
        running.models = models
        _point_at(running.url, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)
        yield running


def _point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What setting HF_ENDPOINT before the start does."""
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


@pytest.fixture
def loaders(tiny_generator: Path) -> dict[str, Load]:
    def generator(model: str, *loras: str) -> Any:
        added = [{"path": path, "strength": 1.0} for path in loras]
        settings = {"type": "stable-diffusion", "path": model, "loras": added, "steps": 2, "device": "cpu"}
        return catalog.build("models", settings)

    def scorer(**settings: str) -> Any:
        return catalog.build("scorers", {"device": "cpu", **settings})

    return {
        "generator": lambda: generator("o/sd"),
        "lora": lambda: generator(str(tiny_generator), "o/lora"),
        "clip": lambda: scorer(type="clip", path="o/clip"),
        "head": lambda: Head.load("o/head"),
    }


KINDS = ["generator", "lora", "clip", "head"]
CODE, WORDS = "X-Error-Code", "X-Error-Message"
FAULTS: dict[str, tuple[int, dict[str, str], str]] = {
    "503": (503, {}, r"503 Service Unavailable.*out of order: try again later"),
    "500": (500, {WORDS: "Internal hiccup"}, r"500 .*Internal hiccup.*try again later"),
    "429": (429, {WORDS: "Rate limited"}, r"429 Too Many Requests \(Rate limited\).*HF_TOKEN"),
    "gated": (403, {CODE: "GatedRepo", WORDS: "Ask for access"}, r"403 .*Ask for access.*it is gated"),
    "gated without token": (401, {CODE: "GatedRepo"}, r"401 Unauthorized.*it is gated"),
    "forbidden": (403, {WORDS: "Not yours"}, r"403 Forbidden \(Not yours\).*set HF_TOKEN"),
    "no repository": (404, {CODE: "RepoNotFound"}, r"404 Not Found.*there is no such model"),
    "private": (401, {}, r"401 Unauthorized.*there is no such model, or "),
    "no revision": (404, {CODE: "RevisionNotFound", WORDS: "Bad rev x"}, r"404 .*Bad rev x.*no such revision"),
    "no file": (
        404,
        {CODE: "EntryNotFound", "X-Repo-Commit": COMMIT},
        r"404 Not Found for [a-z_]+\.\w+: .*no such file",
    ),
    "no hub": (200, {}, r"what answers as the hub at http.* is no hub"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_hub_answers_is_said(
    kind: str, fault: str, server: LocalHub, loaders: dict[str, Load], capfd: pytest.CaptureFixture[str]
) -> None:
    status, headers, says = FAULTS[fault]
    server.faults = {"/resolve/": (status, headers)} if fault == "no file" else {".": (status, headers)}
    with pytest.raises(ModelError, match=says) as caught:
        loaders[kind]()
    told = str(caught.value)
    assert f"the hub at {server.url} (HF_ENDPOINT)" in told and "file named" not in told and "\n" not in told
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", ""])
def test_offline_is_said_with_its_variable(
    kind: str, variable: str, server: LocalHub, loaders: dict[str, Load], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    says = f"{variable} is set" if variable else "the hub isn't asked"
    with pytest.raises(ModelError, match=f"{says}.*, and the cache on this machine doesn't hold all of it"):
        loaders[kind]()
    assert server.asked == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_connection_is_said(
    kind: str,
    server: LocalHub,
    loaders: dict[str, Load],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    _point_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ModelError, match=r"can't reach the hub at http://127\.0\.0\.1:9 \(HF_ENDPOINT\): .*refused"):
        loaders[kind]()
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("generator", r"text_encoder/model\.safetensors"),
        ("generator", r"tokenizer/tokenizer\.json"),
        ("generator", r"scheduler/"),
        ("clip", r"model\.safetensors"),
        ("clip", r"tokenizer\.json"),
        ("clip", r"processor_config"),
        ("head", r"config\.json"),
    ],
)
def test_no_file_is_gone_without_because_the_hub_was_busy(
    kind: str, pattern: str, status: int, server: LocalHub, loaders: dict[str, Load]
) -> None:
    server.faults = {f"/resolve/.*{pattern}": (status, {})}
    with pytest.raises(ModelError, match=rf"answered {status} .* for \S*{pattern}"):
        loaders[kind]()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_in_the_cache_needs_no_hub(
    kind: str, server: LocalHub, loaders: dict[str, Load], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders[kind]()
    server.faults = {".": (503, {})}
    loaders[kind]()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaders[kind]()


@pytest.mark.parametrize("revision", ["v2", "refs/pr/1"])
def test_a_file_is_looked_for_in_the_cache_at_the_revision_that_was_asked_for(
    revision: str, hub_cache: Callable[..., str]
) -> None:
    commit = hub_cache("o/clip", "config.json")
    refs = hub._find_cache_folder("o/clip") / "refs"
    (refs / "main").unlink()
    (refs / revision).parent.mkdir(parents=True, exist_ok=True)
    (refs / revision).write_text(commit)
    answers = hub_errors.Answers()
    address = f"https://hub/o/clip/resolve/{revision.replace('/', '%2F')}/config.json"
    request = huggingface_hub.get_session().build_request("HEAD", address)
    refusal = {"status_code": 503, "reason_phrase": "Service Unavailable", "headers": {}}
    answers.note(SimpleNamespace(request=request, **refusal))
    assert hub_errors.find_missing_file("o/clip", answers) is None
    assert hub_errors.find_missing_file("o/clip (vae)", answers) is None
    (refs / revision).unlink()
    assert "503 Service Unavailable for config.json" in str(hub_errors.find_missing_file("o/clip", answers))


def test_a_lack_of_memory_passes_whatever_the_hub_answered(hub_cache: object) -> None:
    with pytest.raises(MemoryError), hub_errors.loading_errors("o/clip"):
        try:
            raise huggingface_hub.errors.OfflineModeIsEnabled("offline")
        except ConnectionError:
            raise MemoryError from None


def test_a_loras_file_on_the_hub_is_the_only_one_or_is_named(
    server: LocalHub, models: dict[str, Path], tiny_generator: Path, tmp_path: Path
) -> None:
    def build(**lora: str) -> Any:
        added = [{"strength": 1.0, **lora}]
        common = {"type": "stable-diffusion", "path": str(tiny_generator), "steps": 2, "device": "cpu"}
        return catalog.build("models", {**common, "loras": added})

    local = build(path=str(models["o/style"]))
    assert build(path="o/style").identity == local.identity
    shutil.copytree(models["o/style"], tmp_path / "two")
    shutil.copy(tmp_path / "two" / "my_style_v2.safetensors", tmp_path / "two" / "older.safetensors")
    server.models = {**models, "o/two": tmp_path / "two"}
    with pytest.raises(ModelError, match=r"there are 2 LoRAs at o/two: choose one by `file`: my_style_v2\.saf"):
        build(path="o/two")
    assert build(path="o/two", file="older.safetensors")
    with pytest.raises(ModelError, match=r"the LoRA o/two has no file other\.safetensors: it has my_style_v2"):
        build(path="o/two", file="other.safetensors")


def test_a_replaced_part_of_a_hub_model_leaves_its_configuration_and_not_its_weights(
    server: LocalHub, models: dict[str, Path], tmp_path: Path
) -> None:
    file = Path(shutil.copy(models["o/sd"] / "vae" / "diffusion_pytorch_model.safetensors", tmp_path))
    settings = {"type": "stable-diffusion", "path": "o/sd", "vae": str(file), "steps": 2, "device": "cpu"}
    assert catalog.build("models", settings)
    asked = [path for path in server.asked if "/resolve/" in path and "/vae/" in path]
    assert asked and all(path.endswith("/vae/config.json") for path in asked)


def test_the_doctor_says_what_the_hub_answered(server: LocalHub) -> None:
    server.faults = {".": (429, {})}
    hub.forget_answers()
    assert "429 Too Many Requests" in hub.ask_hub("o/clip").fault
    server.faults = {}
    assert hub.ask_hub("o/head").files.keys() == {"config.json", "model.safetensors"}


def test_the_clients_own_lines_come_back_afterwards(server: LocalHub, loaders: dict[str, Load]) -> None:
    before = logging.getLogger("huggingface_hub").level
    loaders["head"]()
    assert logging.getLogger("huggingface_hub").level == before

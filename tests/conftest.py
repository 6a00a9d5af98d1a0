"""Fixtures that the tests of several folders share."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from agfsync.models import hub

LONGEST = "test_torture.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, so that no process is alone with it at the end."""
    items.sort(key=lambda item: item.path.name != LONGEST)


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random `StableDiffusionPipeline` that draws 16x16 pixels from 8x8 latents."""
    from tiny_diffusion import pipeline

    folder = tmp_path_factory.mktemp("tiny") / "generator"
    pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_xl_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random `StableDiffusionXLPipeline` that draws 16x16 pixels from 8x8 latents."""
    from tiny_diffusion import xl_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "xl"
    xl_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sd3_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random `StableDiffusion3Pipeline` that draws 16x16 pixels from 8x8 latents."""
    from tiny_diffusion import sd3_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "sd3"
    sd3_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_flux_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random `FluxPipeline` like FLUX.1 dev, of which a pixel's side is half a latent's."""
    from tiny_diffusion import flux_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "flux"
    flux_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sana_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random `SanaPipeline`, of which a pixel's side is half a latent's."""
    from tiny_flows import sana_pipeline

    folder = tmp_path_factory.mktemp("tiny") / "sana"
    sana_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """An empty cache of the hub, which isn't asked; what it gives puts a model's files there, under a commit."""
    root = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))

    def put(model: str, *files: str, commit: str = "a" * 40) -> str:
        folder = root / f"models--{model.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        for name in files:
            path = folder / "snapshots" / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        return commit

    hub.forget_answers()
    yield put
    hub.forget_answers()


@pytest.fixture
def pair_set(tmp_path: Path) -> Callable[..., Path]:
    """A folder of pairs: for each prompt given, the colours of its winner and its loser, numbered from 0."""

    def make(*pairs: tuple[str, str, str]) -> Path:
        folder = tmp_path / "pair_set"
        shutil.rmtree(folder, ignore_errors=True)
        rows = ["file_name,text,category"]
        for number, (prompt, *colors) in enumerate(pairs):
            for side, color in zip(("winner", "loser"), colors, strict=True):
                (folder / side).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (12, 8), color).save(folder / side / f"{number}.png")
            rows.append(f"{number}.png,{prompt},things")
        (folder / "metadata.csv").write_text("\n".join(rows))
        return folder

    return make

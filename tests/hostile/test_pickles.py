"""Pickles that would act when they are loaded, handed over wherever a model or a file is taken: none ever acts."""

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from agfsync import catalog, pipeline
from agfsync import recipe as config
from agfsync.commands.inspect import inspect_path
from agfsync.errors import AgfsyncError
from agfsync.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
ENDINGS = ("bin", "pt", "pth", "ckpt", "pkl", "safetensors")
WEIGHTS = ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.pt", "model.ckpt", "pytorch_lora_weights.bin")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it has acted"


@pytest.fixture(params=["pickle", "torch", "old torch", "numpy"])
def evil(request: pytest.FixtureRequest, marker: Path) -> bytes:
    file = io.BytesIO()
    match request.param:
        case "pickle":
            pickle.dump({"weight": Evil(marker)}, file)
        case "torch":
            torch.save({"weight": Evil(marker)}, file)
        case "old torch":
            torch.save({"weight": Evil(marker)}, file, _use_new_zipfile_serialization=False)
        case "numpy":
            np.save(file, np.array([Evil(marker)], object), allow_pickle=True)
    return file.getvalue()


def refused(act: Callable[[], Any], marker: Path) -> None:
    """`act` says in one line why not, and nothing has acted."""
    with pytest.raises(AgfsyncError) as raised:
        act()
    assert str(raised.value) and "\n" not in str(raised.value)
    assert not marker.exists()


def poisoned(folder: Path, evil: bytes) -> None:
    """Pickles in the place of every safetensors file of a model, under every name that libraries look for."""
    for path in [*folder.rglob("*.safetensors")]:
        path.unlink()
        for name in WEIGHTS:
            (path.parent / name).write_bytes(evil)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A CLIP, whole but for what a test makes of it."""
    text, vision = CLIPTextConfig(**SMALL, vocab_size=8), CLIPVisionConfig(**SMALL, image_size=8, patch_size=4)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict())).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_they_would_act(evil: bytes, marker: Path) -> None:
    """Else nothing here could fail."""
    for load in (
        pickle.loads,
        lambda data: torch.load(io.BytesIO(data), weights_only=False),
        lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    ):
        if not marker.exists():
            with contextlib.suppress(Exception):
                load(evil)
    assert marker.is_dir()


@pytest.mark.parametrize("type_", ["stable-diffusion", "stable-diffusion-xl"])
def test_a_generators_folder(
    evil: bytes, marker: Path, type_: str, tiny_generator: Path, tiny_xl_generator: Path, tmp_path: Path
) -> None:
    source = tiny_generator if type_ == "stable-diffusion" else tiny_xl_generator
    shutil.copytree(source, tmp_path / "model")
    poisoned(tmp_path / "model", evil)
    settings = {"type": type_, "path": str(tmp_path / "model"), "device": "cpu"}
    refused(lambda: catalog.build("models", settings), marker)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_generators_file_its_loras_and_its_refiner(
    evil: bytes, marker: Path, ending: str, tiny_generator: Path, tiny_xl_generator: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"model.{ending}"
    file.write_bytes(evil)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / f"pytorch_lora_weights.{ending}").write_bytes(evil)
    for type_, model in (("stable-diffusion", tiny_generator), ("stable-diffusion-xl", tiny_xl_generator)):
        common = {"type": type_, "device": "cpu"}
        refused(lambda common=common: catalog.build("models", common | {"path": str(file)}), marker)
        for path in (file, tmp_path / "lora"):
            loras = [{"path": str(path), "strength": 1.0}]
            whole = common | {"path": str(model), "loras": loras}
            refused(lambda whole=whole: catalog.build("models", whole), marker)
    refiner = {"path": str(file), "revision": None, "from_step": 1}
    xl = {"type": "stable-diffusion-xl", "path": str(tiny_xl_generator), "device": "cpu", "refiner": refiner}
    refused(lambda: catalog.build("models", xl), marker)


SCORERS = [name for name in catalog.CATALOG["scorers"] if name not in ("vqa-openai", "shapes-oracle")]


@pytest.mark.parametrize("type_", SCORERS)
def test_a_scorers_folder(evil: bytes, marker: Path, type_: str, clip: Path) -> None:
    poisoned(clip, evil)
    settings = {"type": type_, "path": str(clip), "device": "cpu"}
    if type_ == "aesthetic":
        settings["head"] = str(clip)
    refused(lambda: catalog.build("scorers", settings), marker)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_scorers_head_and_weights(evil: bytes, marker: Path, ending: str, clip: Path, tmp_path: Path) -> None:
    file = tmp_path / f"weights.{ending}"
    file.write_bytes(evil)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"model.{ending}").write_bytes(evil)
    (folder / "pytorch_model.bin").write_bytes(evil)
    for place in (str(file), str(folder)):
        head = {"type": "aesthetic", "path": "embedded:clip", "head": place, "device": "cpu"}
        refused(lambda head=head: catalog.build("scorers", head), marker)
        for type_ in ("clip", "pickscore", "hpsv2", "hpsv2.1", "imagereward"):
            whole = {"type": type_, "path": "embedded:clip", "weights": place, "device": "cpu"}
            refused(lambda whole=whole: catalog.build("scorers", whole), marker)


def test_code_beside_a_model_is_not_run(marker: Path, clip: Path, tiny_generator: Path, tmp_path: Path) -> None:
    code = f"import os\nos.mkdir({str(marker)!r})\nclass Model: pass\n"
    (clip / "modeling.py").write_text(code)
    settings = json.loads((clip / "config.json").read_text())
    settings |= {"model_type": "of its own", "auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "modeling.Model")}
    (clip / "config.json").write_text(json.dumps(settings))
    for type_ in ("clip", "vqa"):
        refused(lambda type_=type_: catalog.build("scorers", {"type": type_, "path": str(clip)}), marker)
    for name in ("_class_name", "unet"):
        folder = shutil.copytree(tiny_generator, tmp_path / name)
        index = json.loads((folder / "model_index.json").read_text()) | {name: ["modeling", "Model"]}
        (folder / "model_index.json").write_text(json.dumps(index))
        for place in (folder, folder / "unet"):
            (place / "modeling.py").write_text(code)
        model = {"type": "stable-diffusion", "path": str(folder), "device": "cpu"}
        refused(lambda model=model: catalog.build("models", model), marker)


def test_a_checkpoint_of_the_training_counts_as_none(evil: bytes, marker: Path, tmp_path: Path) -> None:
    for ending in ENDINGS:
        (tmp_path / f"step-0000005.{ending}").write_bytes(evil)
    assert Checkpoints(tmp_path, "digest").find_last_step() == 0
    assert not marker.exists()


@pytest.mark.parametrize("ending", ["pkl", "pt", "bin", "npy", "npz", "txt", "csv", "tsv", "json", "jsonl", "parquet"])
def test_prompts_and_pair_sets(evil: bytes, marker: Path, ending: str, tmp_path: Path, make_recipe: Any) -> None:
    file, folder = tmp_path / f"prompts.{ending}", tmp_path / "pairs"
    file.write_bytes(evil)
    for side in ("winner", "loser", "pairs", "captions", "questions"):
        (folder / side).mkdir(parents=True)
        (folder / side / f"cat.{ending}").write_bytes(evil)
    (folder / "metadata.csv").write_bytes(evil)
    for number, sections in enumerate(
        [
            {"captions": {"source": str(file)}},
            {"pairs": {"source": str(file)}},
            {"captions": {"source": str(folder)}},
            {"pairs": {"source": str(folder)}},
        ]
    ):
        path = tmp_path / f"run {number}"

        def act(path: Path = path, sections: Any = sections) -> None:
            pipeline.prepare(path, make_recipe(**sections))
            pipeline.run(path, until="candidates")

        refused(act, marker)
    for place in (file, folder):
        try:
            inspect_path(place)
        except AgfsyncError as reason:
            assert "\n" not in str(reason)
    assert not marker.exists()


def test_a_recipe(evil: bytes, marker: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(evil)
    refused(lambda: config.load_recipe(file), marker)
    file.write_text(f"seed: !!python/object/apply:os.mkdir ['{marker}']")
    refused(lambda: config.load_recipe(file), marker)

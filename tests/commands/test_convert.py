"""Pickles become safetensors by their tensors alone."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from agfsync.commands.convert import convert_weights, find_tensors
from agfsync.errors import FormatError

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrap", [(), ("state_dict",), ("model", "state_dict")])
def test_names_dtypes_and_values_stay(wrap: tuple[str, ...], tmp_path: Path) -> None:
    content: Any = OrderedDict(WEIGHTS)
    for key in wrap:
        content = {key: content, "epoch": 3, "optimizer": {"step": torch.ones(1)}}
    line = convert_weights(saved(content, tmp_path / "in.pth"), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == WEIGHTS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in WEIGHTS.items()
    )
    size = (tmp_path / "out.safetensors").stat().st_size
    assert line.startswith(f"{tmp_path / 'out.safetensors'}: 2 tensors, 1 float32, 1 bfloat16, {size:,} bytes")
    assert line.endswith(
        "left out: epoch, optimizer, ..."
        if len(wrap) > 2
        else ("left out: epoch, optimizer" if len(wrap) == 1 else line[-10:])
    )
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_views_and_shared_memory_are_written_in_full(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    content = {"whole": base, "transposed": base.T, "row": base[1], "again": base, "sparse": base.to_sparse()}
    convert_weights(saved(content, tmp_path / "in.pth"), tmp_path / "out.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], tensor.to_dense()) for name, tensor in content.items())


def test_tensors_of_an_accelerator_are_read_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that says cuda, made here by what torch writes for a storage's place."""
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    file = saved(WEIGHTS, tmp_path / "in.pth")
    monkeypatch.undo()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(file, weights_only=True)
    convert_weights(file, tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors").keys() == WEIGHTS.keys()


class Evil:
    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.sign),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(how: str, tmp_path: Path) -> None:
    content = {"a": torch.ones(1), "b": Evil(tmp_path / "ran")} if how == "torch" else Evil(tmp_path / "ran")
    file = tmp_path / "in.pth"
    if how == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    says = r"holds \w*\.mkdir, not weights alone: it could run code, and isn't read|no file of weights"
    with pytest.raises(FormatError, match=says):
        convert_weights(file, tmp_path / "out.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"in.pth"}


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not weights alone"):
        convert_weights(saved(nn.Linear(2, 2), tmp_path / "in.pth"), tmp_path / "out.safetensors")


@pytest.mark.parametrize("content", [[torch.ones(1)], {}, {"epoch": 1}, torch.ones(2), {"state_dict": {}}])
def test_a_file_without_named_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="holds no tensors by name"):
        convert_weights(saved(content, tmp_path / "in.pth"), tmp_path / "out.safetensors")


def test_a_checkpoint_that_holds_itself_ends() -> None:
    content: dict[str, Any] = {"w": torch.ones(1)}
    content["model"] = content
    assert find_tensors(content)[0].keys() == {"w"}


@pytest.mark.parametrize("data", [b"", b"hello world", b"PK\x03\x04", b"\x80\x02}q\x00."[:4]])
def test_what_is_no_file_of_torchs_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(data)
    with pytest.raises(FormatError, match="no file of weights that torch has saved, or is damaged"):
        convert_weights(tmp_path / "in.pth", tmp_path / "out.safetensors")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.pth").write_bytes(b"")
    monkeypatch.setattr(torch, "load", forbid)
    with pytest.raises(FormatError, match=r"a\.pth: can't be read: Permission denied"):
        convert_weights(tmp_path / "a.pth", tmp_path / "a.safetensors")


def test_nothing_is_overwritten_and_names_are_as_they_should(tmp_path: Path) -> None:
    file = saved(WEIGHTS, tmp_path / "in.pth")
    (tmp_path / "there.safetensors").write_text("mine")
    for out, says in (
        ("there.safetensors", "exists already"),
        ("out.bin", "must end in"),
        ("no/x.safetensors", "no folder"),
    ):
        with pytest.raises(FormatError, match=says):
            convert_weights(file, tmp_path / out)
    assert (tmp_path / "there.safetensors").read_text() == "mine"
    with pytest.raises(FormatError, match="no such file"):
        convert_weights(tmp_path / "none.pth", tmp_path / "out.safetensors")
    with pytest.raises(FormatError, match=r"is a \.safetensors file already"):
        convert_weights(tmp_path / "there.safetensors", tmp_path / "out.safetensors")

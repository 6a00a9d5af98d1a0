from pathlib import Path

import torch

from agfsync.files.tensors import read_metadata, read_tensors, write_tensors

TENSORS = {
    "plain": torch.arange(6.0).reshape(2, 3),
    "last": torch.arange(48.0).reshape(1, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "number": torch.tensor(7),
}


def test_what_is_read_is_what_was_written_layout_included(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", TENSORS, {"step": "3"})
    found = read_tensors(tmp_path / "file")
    assert found is not None and found.metadata == {"step": "3"}
    for name, tensor in TENSORS.items():
        assert found.tensors[name].equal(tensor) and found.tensors[name].stride() == tensor.stride()


def test_a_flipped_bit_makes_it_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, TENSORS, {"step": "3"})
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_tensors(path) is None
    assert read_metadata(path.with_name("none")) is None

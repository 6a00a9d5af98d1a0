from pathlib import Path

import pytest
import torch

from agfsync.files.tensors import TensorSpool, read_metadata, read_tensors, write_tensors

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


def test_rows_that_were_spooled_are_those_that_were_given(tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(0)
    rows = [torch.randn(count, 3, 4, 5, generator=source) for count in (4, 1, 2)]
    tall = [each.contiguous(memory_format=torch.channels_last) for each in rows]
    spool = TensorSpool(tmp_path / "new")
    for each, other in zip(rows, tall, strict=True):
        spool.append({"plain": each, "last": other, "mask": each > 0, "half": each.bfloat16()})
    found = spool.finish()
    expected = {"plain": torch.cat(rows), "last": torch.cat(tall)}
    expected |= {"mask": expected["plain"] > 0, "half": expected["plain"].bfloat16()}
    assert found.keys() == expected.keys() and not list((tmp_path / "new").iterdir())
    for name, tensor in expected.items():
        assert found[name].equal(tensor) and found[name].stride() == tensor.stride()
        assert found[name].dtype == tensor.dtype


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's own memory")
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    """64 MB of rows are spooled, written, read and used a few at a time; the memory of the process's own stays."""

    def read_memory() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

    spool, before, most = TensorSpool(tmp_path), read_memory(), 0.0
    for start in range(0, 64, 2):
        spool.append({"rows": torch.full((2, 16, 128, 128), float(start))})
        most = max(most, read_memory())
    write_tensors(tmp_path / "file", spool.finish(), {})
    most = max(most, read_memory())
    found = read_tensors(tmp_path / "file")
    assert found is not None and found.tensors["rows"][torch.tensor([3, 60])].amax(dim=(1, 2, 3)).tolist() == [2, 60]
    assert found.tensors["rows"].nbytes == 64 * 2**20
    assert max(most, read_memory()) - before < 16

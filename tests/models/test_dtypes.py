"""The number format that `auto` stands for."""

import json
from pathlib import Path

import pytest
import torch

from agfsync.models import dtypes

CPU = torch.device("cpu")


@pytest.fixture
def cache_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a measurement is kept; nothing is measured yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dtypes._fastest_on_cpu.cache_clear()
    return tmp_path / "agfsync" / "fastest-dtype.json"


@pytest.mark.parametrize(("speedup", "expected"), [(4.0, "bf16"), (1.1, "fp32"), (0.05, "fp32")])
def test_a_cpu_takes_bf16_only_where_it_is_clearly_faster(
    cache_file: Path, monkeypatch: pytest.MonkeyPatch, speedup: float, expected: str
) -> None:
    monkeypatch.setattr(dtypes, "_speedup_of_bf16", lambda training: speedup)

    assert dtypes.fastest_dtype(CPU) == expected


def test_a_cpu_is_measured_once_for_drawing_and_once_for_training(
    cache_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[bool] = []
    monkeypatch.setattr(dtypes, "_speedup_of_bf16", lambda training: measured.append(training) or 0.5 + training)

    for _ in range(2):
        assert (dtypes.fastest_dtype(CPU), dtypes.fastest_dtype(CPU, training=True)) == ("fp32", "bf16")
        dtypes._fastest_on_cpu.cache_clear()  # as in another process

    assert measured == [False, True]
    assert sorted(json.loads(cache_file.read_text()).values()) == ["bf16", "fp32"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}'])
def test_a_damaged_cache_is_measured_again(cache_file: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(dtypes, "_speedup_of_bf16", lambda training: 3.0)
    cache_file.parent.mkdir()
    cache_file.write_text(content)

    assert dtypes.fastest_dtype(CPU) == "bf16"


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(dtypes, "_speedup_of_bf16", lambda training: 3.0)
    dtypes._fastest_on_cpu.cache_clear()

    assert dtypes.fastest_dtype(CPU) == "bf16"


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((9, 0), "bf16")]
)
def test_a_cuda_device_takes_bf16_where_its_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    assert dtypes.fastest_dtype(torch.device("cuda")) == expected
    assert dtypes.fastest_dtype(torch.device("cuda"), training=True) == expected


def test_mps_draws_in_fp16_and_trains_in_fp32() -> None:
    assert dtypes.fastest_dtype(torch.device("mps")) == "fp16"
    assert dtypes.fastest_dtype(torch.device("mps"), training=True) == "fp32"


def test_a_measurement_leaves_the_number_of_threads_and_agrees_with_the_processor(cache_file: Path) -> None:
    threads = torch.get_num_threads()

    speedup = dtypes._speedup_of_bf16(training=False)

    assert torch.get_num_threads() == threads
    assert speedup > 0
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        assert speedup < 1  # no instruction for bf16

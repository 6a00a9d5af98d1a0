from types import SimpleNamespace

import pytest

from agfsync.engine import local_pool
from agfsync.recipe import Engine


@pytest.mark.parametrize(
    ("device", "count", "visible", "names"),
    [
        ("auto", 3, None, ["0", "1", "2"]),
        ("cuda", 2, "4,6", ["4", "6"]),
        ("auto", 0, None, []),
        ("auto", 0, "", []),
        ("cuda:1", 3, None, []),
        ("cpu", 3, None, []),
    ],
)
def test_each_accelerator_that_torch_sees_is_named(
    monkeypatch: pytest.MonkeyPatch, device: str, count: int, visible: str | None, names: list[str]
) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: count))
    monkeypatch.setattr(local_pool, "import_module", lambda _: torch)
    monkeypatch.delenv(local_pool.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(local_pool.VISIBLE, visible)
    assert local_pool.list_accelerators(device) == names


def test_workers_take_the_accelerators_in_turn_or_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    hired: list[dict[str, str]] = []
    monkeypatch.setattr(local_pool, "ProcessHandle", lambda plan, environment, context: hired.append(environment))
    monkeypatch.setattr(local_pool, "count_cores", lambda: 12)
    for devices in (["4", "6"], []):
        pool = local_pool.LocalPool(3, devices)
        for _ in range(3):
            pool.start_worker(None)  # type: ignore[arg-type]
    assert hired == [{local_pool.VISIBLE: name} for name in ("4", "6", "4")] + [{"OMP_NUM_THREADS": "4"}] * 3


@pytest.mark.parametrize(
    ("device", "devices", "forks"),
    [("auto", [], True), ("cpu", [], True), ("auto", ["0"], False), ("cuda:1", [], False), ("xpu", [], False)],
)
def test_workers_with_an_accelerator_are_not_forked(
    monkeypatch: pytest.MonkeyPatch, device: str, devices: list[str], forks: bool
) -> None:
    started: list[object] = []
    monkeypatch.setattr(local_pool, "ProcessHandle", lambda plan, environment, context: started.append(context))
    local_pool.LocalPool(2, devices, device).start_worker(None)  # type: ignore[arg-type]
    assert started == [local_pool.FORK if forks else local_pool.SPAWN]


@pytest.mark.parametrize(
    ("workers", "accelerators", "cores", "expected"),
    [(None, 0, 4, 0), (None, 2, 4, 2), (3, 0, 4, 3), ("cores", 0, 4, 4), ("cores", 0, 64, 8), ("cores", 2, 64, 2)],
)
def test_cores_are_workers_where_there_is_no_accelerator(
    monkeypatch: pytest.MonkeyPatch, workers: object, accelerators: int, cores: int, expected: int
) -> None:
    monkeypatch.setattr(local_pool, "count_cores", lambda: cores)

    assert local_pool.count_wanted_workers(Engine.model_validate({"workers": workers}), accelerators) == expected


def test_cores_of_a_cluster_are_not_counted() -> None:
    with pytest.raises(ValueError, match="workers: cores counts this machine's cores: with ray give a number"):
        Engine(type="ray", workers="cores")

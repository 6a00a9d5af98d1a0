"""How many workers a cluster has, and how one that isn't there is told. A real cluster: ../test_several_workers.py."""

import socket
from typing import Any

import pytest

from agfsync.errors import WorkerError
from agfsync.recipe import Engine

pytest.importorskip("ray", reason="Ray isn't installed: pip install 'agfsync[ray]'")

from agfsync.engine import ray_pool


@pytest.mark.parametrize(
    ("settings", "gpus", "size", "each"),
    [
        ({}, 0.0, 1, 0.0),
        ({}, 8.0, 8, 1.0),
        ({"accelerators": 0.5}, 3.0, 6, 0.5),
        ({"accelerators": 2}, 5.0, 2, 2.0),
        ({"accelerators": 2}, 0.0, 1, 2.0),
        ({"accelerators": 0}, 8.0, 1, 0.0),
        ({"workers": 4}, 8.0, 4, 1.0),
        ({"workers": 4}, 0.0, 4, 0.0),
    ],
)
def test_there_are_as_many_workers_as_accelerators_or_as_the_recipe_says(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], gpus: float, size: int, each: float
) -> None:
    monkeypatch.setattr(ray_pool.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_pool.ray, "cluster_resources", lambda: {"CPU": 16.0} | ({"GPU": gpus} if gpus else {}))
    pool = ray_pool.RayPool(Engine(type="ray", **settings))
    assert pool.size == size
    assert pool.describe_shortage() == f"Ray has 16 CPU, {gpus:g} GPU, and each worker needs 1 CPU, {each:g} GPU"


@pytest.mark.parametrize("by", ["address", "environment"])
def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"127.0.0.1:{port}"
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:1" if by == "address" else address)
    with pytest.raises(WorkerError, match=rf"no Ray cluster at {address} \(.*refused\): give the address of one"):
        ray_pool.RayPool(Engine(type="ray", address=address if by == "address" else None))

"""What a process does with the others; several real ones are in tests/test_launcher.py."""

import pytest
import torch
from torch import Tensor

from agfsync.engine import launcher
from agfsync.errors import PeerError
from agfsync.training import processes
from agfsync.training.processes import ALONE, Processes, join_processes

CPU = torch.device("cpu")


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Another process that has what this one has; the sizes of what was summed."""
    sizes: list[int] = []

    def all_reduce(tensor: Tensor) -> None:
        sizes.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    return sizes


@pytest.mark.parametrize(("size", "count"), [(8, 2), (7, 3), (5, 5), (24, 1)])
def test_each_row_is_one_processs(size: int, count: int) -> None:
    shares = [Processes(rank, count).take_share(size) for rank in range(count)]
    assert torch.cat(shares).tolist() == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_all_stays_as_it_is(doubled: list[int]) -> None:
    gradient = torch.tensor([0.1])
    ALONE.sum_gradients([gradient])
    assert ALONE.sum_values([0.1, 0.2]) == [0.1, 0.2] and gradient.item() == torch.tensor(0.1).item()
    assert ALONE.is_first and ALONE.any_true(True) and not ALONE.any_true(False) and ALONE.agree_on(7)
    assert doubled == []
    with join_processes(CPU) as found:
        assert found is ALONE


def test_gradients_are_summed_some_at_a_time_whatever_their_layout(
    monkeypatch: pytest.MonkeyPatch, doubled: list[int]
) -> None:
    monkeypatch.setattr(processes, "BUCKET", 20)
    source = torch.Generator().manual_seed(0)
    gradients = [torch.randn(size, generator=source) for size in ((2, 3, 2, 2), (5,), (2, 7), (), (30,))]
    gradients[0] = gradients[0].to(memory_format=torch.channels_last)
    before = [gradient.clone() for gradient in gradients]
    Processes(0, 2).sum_gradients(gradients)
    assert doubled == [24, 20, 30]
    for gradient, single in zip(gradients, before, strict=True):
        assert torch.equal(gradient, 2 * single) and gradient.stride() == single.stride()


def test_a_process_that_is_gone_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(tensor: Tensor) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr(torch.distributed, "all_reduce", gone)
    monkeypatch.setattr(processes, "GRACE", 0.0)
    with pytest.raises(PeerError, match="type the same command to go on") as caught:
        Processes(0, 2).sum_values([1.0])
    assert "\n" not in str(caught.value)


class Store(dict[str, bytes]):
    """torch.distributed's, in this process; others have heard everything."""

    def check(self, keys: list[str]) -> bool:
        return all(key in self or key.startswith("heard/") for key in keys)

    def add(self, key: str, amount: int) -> int:
        self[key] = str(int(self.get(key, b"0")) + amount).encode()
        return int(self[key])

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()


def test_orders_are_heard_in_order_until_the_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    monkeypatch.setattr(launcher, "shared_store", lambda *_: store)
    for name, value in zip(launcher.LAUNCH_VARIABLES, ("1", "2", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ZeroDivisionError), launcher.lead_helpers():
        launcher.send_order({"run": "a"})
        launcher.send_order({"run": "b"})
        raise ZeroDivisionError
    assert list(launcher.receive_orders()) == [{"run": "a"}, {"run": "b"}]
    assert launcher.process_rank() == 1 and "heard/2/1" in store


def test_who_loses_the_store_has_nothing_more_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Store):
        def check(self, keys: list[str]) -> bool:
            raise torch.distributed.DistNetworkError("Connection reset by peer")

    monkeypatch.setattr(launcher, "shared_store", Lost)
    assert list(launcher.receive_orders()) == []


def test_a_variable_of_some_other_program_makes_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert (launcher.count_processes(), launcher.process_rank()) == (1, 0)

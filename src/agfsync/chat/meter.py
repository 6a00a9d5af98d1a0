"""What a language model costs: tokens and money counted as replies come in, and a cap that no request may pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Condition
from typing import Self

from agfsync.errors import BudgetError

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of one request: what was sent, and what came back."""

    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Spending:
    """What was spent so far; `cost` in the currency of the prices."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def plain(self) -> dict[str, float]:
        """This as a mapping, for a file."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, float]) -> Self:
        """What was written by `plain`; what it lacks is 0."""
        requests, sent, received = (int(plain.get(name, 0)) for name in ("requests", "input_tokens", "output_tokens"))
        return cls(requests, sent, received, plain.get("cost", 0.0))


class Meter:
    """Counts what one stage's requests cost, from any number of threads.

    Args:
        prices: of a million tokens sent, and of a million that come back.
        cap: the most that it may cost, earlier runs included; None for no cap.
        spent: what earlier runs have spent.
        raised_by: the recipe's key that raises the cap, for the error.
    """

    def __init__(
        self,
        prices: tuple[float, float] = (0.0, 0.0),
        cap: float | None = None,
        spent: Spending | None = None,
        raised_by: str = "max_cost",
    ) -> None:
        self._prices = prices
        self._cap = cap
        self._spent = spent or Spending()
        self._raised_by = raised_by
        self._under_way: list[float] = []
        self._changed = Condition()

    @property
    def spent(self) -> Spending:
        """What was spent up to now, earlier runs included."""
        return self._spent

    @contextmanager
    def request(self, worst: Tokens) -> Iterator[Callable[[Tokens], None]]:
        """Room for a request that takes `worst` tokens at most; tell the function that it gives what it took.

        A reply that never came isn't counted, since nobody tells what it took.

        Raises:
            BudgetError: it might pass the cap.
        """
        cost = self._price(worst)
        self._reserve(cost)
        try:
            yield self._count
        finally:
            with self._changed:
                self._under_way.remove(cost)
                self._changed.notify_all()

    def _reserve(self, cost: float) -> None:
        with self._changed:
            # What is under way mostly takes less than its worst: only when nothing is can the cap be judged reached.
            while self._under_way and self._over(cost):
                self._changed.wait()
            if self._over(cost):
                raise self._capped()
            self._under_way.append(cost)

    def _over(self, cost: float) -> bool:
        return self._cap is not None and self._spent.cost + sum(self._under_way) + cost > self._cap

    def _capped(self) -> BudgetError:
        return BudgetError(
            f"the language model has cost {self._spent.cost:.4g} of {self._raised_by} = {self._cap:g}, and the next"
            f" request might pass it: --set {self._raised_by} to more goes on; what is done is kept"
        )

    def _count(self, tokens: Tokens) -> None:
        with self._changed:
            before = self._spent
            self._spent = Spending(
                before.requests + 1,
                before.input_tokens + tokens.input,
                before.output_tokens + tokens.output,
                before.cost + self._price(tokens),
            )

    def _price(self, tokens: Tokens) -> float:
        sent, received = self._prices
        return (tokens.input * sent + tokens.output * received) / MILLION

"""Counts the tokens and the cost of a language model while replies arrive, with caps that no request may exceed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Condition
from typing import Self

from agfsync.errors import BudgetError

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens sent and received in one request."""

    input: int
    output: int


@dataclass(frozen=True, slots=True)
class Spending:
    """Requests and tokens so far, and their `cost` in the currency of the prices."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Sum of the tokens sent and received."""
        return self.input_tokens + self.output_tokens

    def to_dict(self) -> dict[str, float]:
        """Return the fields as a mapping, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Self:
        """Return the spending in a mapping of `to_dict`; missing fields are 0."""
        requests, sent, received = (int(values.get(name, 0)) for name in ("requests", "input_tokens", "output_tokens"))
        return cls(requests, sent, received, values.get("cost", 0.0))


class Meter:
    """The spending of one stage's requests, and remarks about its server. It is thread-safe.

    Args:
        prices: the price of a million tokens sent, and that of a million received.
        max_cost: cap on the cost, earlier runs included; None for no cap.
        max_tokens: cap on the tokens sent and received, earlier runs included; None for no cap.
        spent: the spending of earlier runs.
        section: the recipe's section, such as "captions.writer", whose `max_cost` and `max_tokens_total` are the caps.

    >>> meter = Meter(prices=(1.0, 10.0), max_cost=5.0)
    >>> with meter.request(TokenCount(2000, 500)) as count:
    ...     count(TokenCount(1500, 200))
    >>> meter.spent.tokens
    1700
    """

    def __init__(
        self,
        prices: tuple[float, float] = (0.0, 0.0),
        max_cost: float | None = None,
        max_tokens: int | None = None,
        spent: Spending | None = None,
        section: str = "model",
    ) -> None:
        self.section = section
        self._prices = prices
        self._max_cost, self._max_tokens = max_cost, max_tokens
        self._spent = spent or Spending()
        self._under_way: list[TokenCount] = []
        self._queue: list[object] = []
        self._changed = Condition()
        self._remarks: dict[str, bool] = {}

    def remark(self, text: str, *, spoils: bool = False) -> None:
        """Record a remark about the server, once; `spoils` is True if it can explain why replies are useless."""
        with self._changed:
            self._remarks[text] = self._remarks.get(text, False) or spoils

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks about the server, in order."""
        return tuple(self._remarks)

    @property
    def spoilers(self) -> tuple[str, ...]:
        """Remarks that can explain why replies are useless."""
        return tuple(text for text, spoils in tuple(self._remarks.items()) if spoils)

    @property
    def spent(self) -> Spending:
        """Spending so far, earlier runs included."""
        return self._spent

    @contextmanager
    def request(self, worst: TokenCount) -> Iterator[Callable[[TokenCount], None]]:
        """Reserve `worst` tokens for a request, and return the function that records its actual tokens.

        A request without a reply isn't counted, since its tokens are unknown.

        Raises:
            BudgetError: the request might exceed a cap.
        """
        self._reserve(worst)
        try:
            yield self._count
        finally:
            with self._changed:
                self._under_way.remove(worst)
                self._changed.notify_all()

    def _reserve(self, worst: TokenCount) -> None:
        turn = object()
        with self._changed:
            # First come, first served, so that near a cap the earliest requests still run.
            self._queue.append(turn)
            try:
                # Requests in progress mostly use less than their maximum: a cap is reached only if there are none.
                while self._queue[0] is not turn or (self._under_way and self._passed_cap(worst)):
                    self._changed.wait()
                if cap := self._passed_cap(worst):
                    name, spent = cap
                    raise BudgetError(
                        f"the language model has {spent}, and the next request might pass it: --set {name} to more"
                        " goes on; what is done is kept"
                    )
                self._under_way.append(worst)
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()

    def _passed_cap(self, worst: TokenCount) -> tuple[str, str] | None:
        """Return the name of the cap that a request might exceed, and the spending so far as text; or None."""
        ahead, spent = [*self._under_way, worst], self._spent
        cost, name = spent.cost + sum(map(self._price, ahead)), f"{self.section}.max_cost"
        if self._max_cost is not None and cost > self._max_cost:
            return name, f"cost {spent.cost:.4g} of {name} = {self._max_cost:g}"
        tokens = spent.tokens + sum(each.input + each.output for each in ahead)
        name = f"{self.section}.max_tokens_total"
        if self._max_tokens is not None and tokens > self._max_tokens:
            return name, f"taken {spent.tokens} tokens of {name} = {self._max_tokens}"
        return None

    def _count(self, tokens: TokenCount) -> None:
        with self._changed:
            before = self._spent
            self._spent = Spending(
                before.requests + 1,
                before.input_tokens + tokens.input,
                before.output_tokens + tokens.output,
                before.cost + self._price(tokens),
            )

    def _price(self, tokens: TokenCount) -> float:
        sent, received = self._prices
        return (tokens.input * sent + tokens.output * received) / _MILLION

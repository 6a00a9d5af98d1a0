"""Count the tokens and the cost of a language model as replies come in, under caps that no request may pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import Condition
from typing import Self

from agfsync.errors import BudgetError

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of one request: sent, and received."""

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
        """Tokens sent and received together."""
        return self.input_tokens + self.output_tokens

    def to_dict(self) -> dict[str, float]:
        """Return this as a mapping, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> Self:
        """Return the spending that `to_dict` wrote; what is missing is 0."""
        requests, sent, received = (int(values.get(name, 0)) for name in ("requests", "input_tokens", "output_tokens"))
        return cls(requests, sent, received, values.get("cost", 0.0))


class Meter:
    """The spending of one stage's requests, from any number of threads, and remarks about its server.

    Args:
        prices: of a million tokens sent, and of a million received.
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
        """Keep a remark about the server, once; with `spoils` it can explain why replies are useless."""
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
        """Reserve room for a request of at most `worst` tokens, and give the function that counts its real tokens.

        A request without a reply isn't counted, since its tokens are unknown.

        Raises:
            BudgetError: it might pass a cap.
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
            # In order, so that near a cap the earliest requests are still paid.
            self._queue.append(turn)
            try:
                # Requests under way mostly take less than their worst: a cap is only reached once there are none.
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
        """Return the cap that a request might pass, and what was spent of it; None if there is none."""
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

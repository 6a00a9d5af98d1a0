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

    @property
    def total(self) -> int:
        """Both together."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class Spending:
    """What was spent so far; `cost` in the currency of the prices."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    @property
    def tokens(self) -> int:
        """Of both ways together."""
        return self.input_tokens + self.output_tokens

    def plain(self) -> dict[str, float]:
        """This as a mapping, for a file."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, float]) -> Self:
        """What was written by `plain`; what it lacks is 0."""
        requests, sent, received = (int(plain.get(name, 0)) for name in ("requests", "input_tokens", "output_tokens"))
        return cls(requests, sent, received, plain.get("cost", 0.0))


class Meter:
    """Counts what one stage's requests cost, from any number of threads, and keeps what is noticed about its server.

    Args:
        prices: of a million tokens sent, and of a million that come back.
        max_cost: the most that it may cost, earlier runs included; None for no cap.
        max_tokens: the most tokens that it may take, both ways together, earlier runs included; None for no cap.
        spent: what earlier runs have spent.
        section: the recipe's, where `max_cost` and `max_tokens_total` raise the caps, for the error.
    """

    def __init__(
        self,
        prices: tuple[float, float] = (0.0, 0.0),
        max_cost: float | None = None,
        max_tokens: int | None = None,
        spent: Spending | None = None,
        section: str = "model",
    ) -> None:
        self._prices = prices
        self._max_cost, self._max_tokens = max_cost, max_tokens
        self._spent = spent or Spending()
        self._section = section
        self._under_way: list[Tokens] = []
        self._queue: list[object] = []
        self._changed = Condition()
        self._remarks: dict[str, bool] = {}

    @property
    def section(self) -> str:
        """The recipe's section of this model, such as "captions.model"."""
        return self._section

    def remark(self, text: str, *, spoils: bool = False) -> None:
        """Keep what was noticed about the server, once; with `spoils` it can be why replies are of no use."""
        with self._changed:
            self._remarks[text] = self._remarks.get(text, False) or spoils

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was noticed about the server, in the order of noticing."""
        return tuple(self._remarks)

    @property
    def spoilers(self) -> tuple[str, ...]:
        """Those of the remarks that can be why replies are of no use."""
        return tuple(text for text, spoils in tuple(self._remarks.items()) if spoils)

    @property
    def spent(self) -> Spending:
        """What was spent up to now, earlier runs included."""
        return self._spent

    @contextmanager
    def request(self, worst: Tokens) -> Iterator[Callable[[Tokens], None]]:
        """Room for a request that takes `worst` tokens at most; tell the function that it gives what it took.

        A reply that never came isn't counted, since nobody tells what it took.

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

    def _reserve(self, worst: Tokens) -> None:
        turn = object()
        with self._changed:
            # Each in its turn, so that near a cap what was asked for first is what is still paid.
            self._queue.append(turn)
            try:
                # What is under way mostly takes less than its worst: only when nothing is can a cap be judged reached.
                while self._queue[0] is not turn or (self._under_way and self._passed(worst)):
                    self._changed.wait()
                if cap := self._passed(worst):
                    raise _capped(*cap)
                self._under_way.append(worst)
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()

    def _passed(self, worst: Tokens) -> tuple[str, str] | None:
        """The cap that a request might pass beside those under way, and what was spent of it; None if there is none."""
        ahead, spent = [*self._under_way, worst], self._spent
        cost, name = spent.cost + sum(map(self._price, ahead)), f"{self._section}.max_cost"
        if self._max_cost is not None and cost > self._max_cost:
            return name, f"cost {spent.cost:.4g} of {name} = {self._max_cost:g}"
        tokens, name = spent.tokens + sum(each.total for each in ahead), f"{self._section}.max_tokens_total"
        if self._max_tokens is not None and tokens > self._max_tokens:
            return name, f"taken {spent.tokens} tokens of {name} = {self._max_tokens}"
        return None

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


def _capped(name: str, spent: str) -> BudgetError:
    return BudgetError(
        f"the language model has {spent}, and the next request might pass it: --set {name} to more goes on; what is"
        " done is kept"
    )

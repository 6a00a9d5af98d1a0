"""The spending on models behind servers: counted with each request, saved in the run folder."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agfsync.chat.meter import Meter, Spending
from agfsync.recipe import ScorerSettings, Server
from agfsync.stages.context import Context
from agfsync.store.spending import note_spending, read_spending

ACCOUNT = {"prices", "max_cost", "max_tokens_total"}
"""A server's settings that belong to the meter and don't affect requests."""
REMARKS = "server"
"""A stage's note with remarks about a server."""


@dataclass(slots=True)
class Account:
    """The cost of a model's requests: `meter` counts it, `note` saves it in the run folder under `name`."""

    run: Path
    name: str
    meter: Meter
    noted: Spending = field(default_factory=Spending)
    say: Callable[[str], None] = field(default=lambda text: None)
    reported: int = 0
    """the number of remarks that were passed to `say`"""

    def note(self) -> None:
        """Save the spending, and report new remarks about the server."""
        for remark in self.meter.remarks[self.reported :]:
            self.say(f"{self.name}: {remark}")
            self.reported += 1
        if self.meter.spent != self.noted:
            self.noted = self.meter.spent
            note_spending(self.run, self.name, self.noted.to_dict())

    def to_notes(self) -> Mapping[str, float | str]:
        """Return the spending in this run folder and this process's remarks, for a stage's notes."""
        remarks = "; ".join(self.meter.remarks)
        return (self.noted.to_dict() if self.noted.requests else {}) | ({REMARKS: remarks} if remarks else {})


def open_account(
    run: Path, name: str, server: Server | None, section: str, say: Callable[[str], None] = lambda text: None
) -> Account:
    """Open the account `name` of a run with its spending so far; `server`, the recipe's `section`, has its caps.

    Remarks about the server are passed to `say`.

    Raises:
        StoreError: the disk fails, or the file is damaged.
    """
    spent = Spending.from_dict(read_spending(run).get(name, {}))
    if server is None:
        return Account(run, name, Meter(), spent, say)
    prices = server.prices.input, server.prices.output
    return Account(run, name, Meter(prices, server.max_cost, server.max_tokens_total, spent, section), spent, say)


@contextmanager
def open_judge_accounts(
    context: Context, stage: str, judges: Mapping[str, ScorerSettings]
) -> Iterator[Mapping[str, Account]]:
    """Open the accounts of a stage's `judges` that are behind servers; save them at the end in any case.

    Raises:
        StoreError: the disk fails, or the file is damaged.
    """
    accounts = {
        name: open_account(
            context.run.path,
            f"{stage}.{name}",
            settings.asked_server,
            f"scorers.{name}.server",
            context.progress.say,
        )
        for name, settings in judges.items()
        if settings.asked_server is not None
    }
    try:
        yield accounts
    finally:
        for account in accounts.values():
            account.note()


def list_scorer_arguments(settings: ScorerSettings, account: Account | None) -> dict[str, Any]:
    """Return the arguments of a judge: its settings, and its account's meter if it asks a server.

    An annotator doesn't receive the settings of orders and duplicates, which the stage handles.
    """
    plain = settings.model_dump(exclude={"server": ACCOUNT, "orders": True, "duplicates": True})
    return plain if account is None else plain | {"meter": account.meter}


def sum_judge_spending(run: Path, stage: str) -> Mapping[str, float]:
    """Return the spending of all judges of a stage in this run folder, for its notes; empty if there is none."""
    total: Counter[str] = Counter()
    for name, spending in read_spending(run).items():
        if name.startswith(f"{stage}."):
            total.update(spending)
    return dict(total)

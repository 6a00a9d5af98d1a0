"""The doctor's findings and its page: a table that fits the terminal, then a line for each thing missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from math import isnan
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.table import Table

SPANS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
CARD = "the card"
"""the name of an accelerator that need not be here"""
LEAST_WIDTH = 68  # columns of the terminal below which the models are left out


@dataclass(slots=True)
class Need:
    """The needs of a stage; 0 does not apply, NaN is unknown. Memory is the device's, disk the run folder's."""

    stage: str
    models: list[str] = field(default_factory=list)
    memory: float = 0.0
    """bytes, of stages that run networks"""
    disk: float = 0.0
    """bytes"""
    seconds: float = 0.0
    requests: float = 0.0
    tokens: float = 0.0
    """sent and received"""
    cost: float = 0.0
    """in the currency of the recipe's prices"""


@dataclass(slots=True)
class Examination:
    """A recipe's needs on this machine, missing things, and notes; each line says what, where, and what to do."""

    recipe: str
    device: str
    """that `auto` takes"""
    needs: list[Need] = field(default_factory=list)
    download: float = 0.0
    """bytes of weights to be fetched from the hub"""
    missing: list[str] = field(default_factory=list)
    """what keeps the run from beginning"""
    notes: list[str] = field(default_factory=list)
    card: float | None = None
    """bytes of the accelerator that is estimated for, where that isn't this machine's"""

    @property
    def can_begin(self) -> bool:
        """True if nothing is missing."""
        return not self.missing

    def plain(self) -> dict[str, Any]:
        """Return all of it for programs, as JSON can hold it: bytes and seconds, None what is unknown or is nothing."""
        plain = asdict(self) | {"can_begin": self.can_begin}
        needs, texts = plain.pop("needs"), ("stage", "models")
        plain["stages"] = [{n: v if n in texts or v > 0 else None for n, v in need.items()} for need in needs]
        return plain


def format_page(found: Examination, width: int) -> str:
    """Return all of it, in lines of at most `width` columns where that can be."""
    download = [f"to download: {format_bytes(found.download)}"] if found.download else []
    lines = [*_format_table(found.needs, width), "", *download]
    for says in (*(f"missing: {each}" for each in found.missing), *(f"note: {each}" for each in found.notes)):
        lines += wrap(says, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, "the run can begin" if found.can_begin else "the run can't begin"])


def format_bytes(count: float) -> str:
    """Return a number of bytes in two digits or three.

    >>> format_bytes(1.25e9)
    '1.2 GB'
    """
    return _scale_number(count, ("B", "KB", "MB", "GB", "TB", "PB"))


def format_count(number: float) -> str:
    """Return a number in thousands or millions.

    >>> format_count(30.4e6)
    '30 M'
    """
    return _scale_number(number, ("", "k", "M", "G", "T")).strip()


def format_span(seconds: float) -> str:
    """Return a time in the largest unit of which there are one and a half.

    >>> format_span(5400), format_span(12 * 60)
    ('1.5 h', '12 min')
    """
    for unit, length in SPANS:
        if seconds >= 1.5 * length:
            return f"{_shorten_number(seconds / length)} {unit}"
    return "1 s" if seconds >= 0.5 else "0 s"


def _scale_number(number: float, units: Sequence[str]) -> str:
    power = 0
    while number >= 999.5 and power < len(units) - 1:
        number, power = number / 1000, power + 1
    return f"{_shorten_number(number)} {units[power]}"


def _shorten_number(number: float) -> str:
    return f"{number:.1f}" if 0 < number < 9.95 and round(number, 1) != round(number) else f"{number:,.0f}"


def _format_table(needs: Sequence[Need], width: int) -> list[str]:
    """Return the lines of a table of all stages, and of the most memory and the sum of the rest."""
    known = {name: [v for need in needs if (v := getattr(need, name)) > 0] for name in _COLUMNS}
    total = Need("all")
    for name, of in known.items():
        setattr(total, name, max(of, default=0.0) if name == "memory" else sum(of))
    shown = [name for name in _COLUMNS if known[name] or name not in ("tokens", "cost")]
    has_models = width >= LEAST_WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=has_models)
    table.add_column("stage", no_wrap=True)
    if has_models:
        table.add_column("models", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in shown:
        table.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
    for need in [*needs, total]:
        figures = [(_COLUMNS[name][1], getattr(need, name)) for name in shown]
        cells = ["?" if isnan(value) else tell(value) if value else "" for tell, value in figures]
        if need is total and any(isnan(each.seconds) for each in needs):
            cells[shown.index("seconds")] = f"> {format_span(need.seconds)}"
        table.add_row(need.stage, *([", ".join(need.models)] if has_models else []), *cells)
    text = StringIO()
    Console(file=text, width=width, color_system=None, highlight=False, markup=False, emoji=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


_COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "memory": ("memory", format_bytes),
    "disk": ("disk", format_bytes),
    "seconds": ("time", format_span),
    "tokens": ("tokens", format_count),
    "cost": ("cost", "{:,.2f}".format),
}
"""by the fields of a need: a column's title, and how its figures are written"""

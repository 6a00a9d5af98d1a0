"""The doctor's findings and its output: a table that fits the terminal, then a line for each missing item."""

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
"""the name of the accelerator of `doctor --card`, which may be another machine's"""
LEAST_WIDTH = 68  # columns of the terminal below which the models are left out


@dataclass(slots=True)
class Need:
    """The needs of a stage; 0 means not applicable, NaN unknown. Memory is the device's, disk the run folder's."""

    stage: str
    models: list[str] = field(default_factory=list)
    memory: float = 0.0
    """bytes; 0 for stages without networks"""
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
    """A recipe's needs on this machine, missing items, and notes; each line names a fault, its place and the remedy."""

    recipe: str
    device: str
    """the device that `auto` chooses"""
    needs: list[Need] = field(default_factory=list)
    download: float = 0.0
    """bytes of weights to download from the hub"""
    missing: list[str] = field(default_factory=list)
    """faults that keep the run from starting"""
    notes: list[str] = field(default_factory=list)
    card: float | None = None
    """bytes of the accelerator of the estimate, if it isn't this machine's"""

    @property
    def can_begin(self) -> bool:
        """True if nothing is missing."""
        return not self.missing

    def plain(self) -> dict[str, Any]:
        """Return everything in JSON types, in bytes and seconds; unknown and inapplicable figures are None."""
        plain = asdict(self) | {"can_begin": self.can_begin}
        needs, texts = plain.pop("needs"), ("stage", "models")
        plain["stages"] = [{n: v if n in texts or v > 0 else None for n, v in need.items()} for need in needs]
        return plain


def format_page(examination: Examination, width: int) -> str:
    """Return the output as text, in lines of at most `width` columns if possible."""
    download = [f"to download: {format_bytes(examination.download)}"] if examination.download else []
    lines = [*_format_table(examination.needs, width), "", *download]
    findings = [f"missing: {fault}" for fault in examination.missing] + [f"note: {note}" for note in examination.notes]
    for line in findings:
        lines += wrap(line, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, "the run can begin" if examination.can_begin else "the run can't begin"])


def format_bytes(count: float) -> str:
    """Return a number of bytes with two or three digits.

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
    """Return a duration in the largest unit of which it has at least one and a half.

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
    """Return the lines of a table of all stages, with a total: the most memory, and sums of the other figures."""
    values_of = {name: [v for need in needs if (v := getattr(need, name)) > 0] for name in _COLUMNS}
    total = Need("all")
    for name, values in values_of.items():
        setattr(total, name, max(values, default=0.0) if name == "memory" else sum(values))
    columns = [name for name in _COLUMNS if values_of[name] or name not in ("tokens", "cost")]
    has_models = width >= LEAST_WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=has_models)
    table.add_column("stage", no_wrap=True)
    if has_models:
        table.add_column("models", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in columns:
        table.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
    for need in [*needs, total]:
        figures = [(_COLUMNS[name][1], getattr(need, name)) for name in columns]
        cells = ["?" if isnan(value) else format_(value) if value else "" for format_, value in figures]
        if need is total and any(isnan(each.seconds) for each in needs):
            cells[columns.index("seconds")] = f"> {format_span(need.seconds)}"
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
"""field of `Need` -> title of its column, and the formatter of its figures"""

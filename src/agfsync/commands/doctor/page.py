"""The examination as a page for people: a table that fits the terminal, then what is missing, a line each."""

from collections.abc import Callable, Sequence
from textwrap import wrap

from agfsync.commands.doctor.findings import Examination, Need

UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
SPANS = (("days", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
NOT_KNOWN, NOTHING = "?", ""
LEAST_MODELS = 12
"""columns below which the models are left out"""

Column = tuple[str, Callable[[Need], str]]


def page(found: Examination, width: int) -> str:
    """All of it, in lines of at most `width` columns where that can be."""
    lines = [*_table(found.needs, width), ""]
    if found.download:
        lines += [f"to download: {size(found.download)}"]
    for title, blocks in (("missing", True), ("note", False)):
        for finding in found.findings:
            if finding.blocks == blocks:
                lines += wrap(
                    f"{title}: {finding.says}",
                    max(width, 20),
                    subsequent_indent="  ",
                    break_long_words=False,
                    break_on_hyphens=False,
                )
    lines += ["the run can begin" if found.can_begin else "the run can't begin"]
    return "\n".join(lines)


def size(bytes_: float) -> str:
    """`bytes_` in two digits or three, such as 1.2 GB or 350 MB."""
    power = 0
    while bytes_ >= 999.5 and power < len(UNITS) - 1:
        bytes_, power = bytes_ / 1000, power + 1
    return f"{_short(bytes_)} {UNITS[power]}"


def span(seconds: float) -> str:
    """`seconds` in the largest unit of which there are one and a half, such as 40 s, 12 min or 3.5 h."""
    for unit, length in SPANS:
        if seconds >= 1.5 * length:
            return f"{_short(seconds / length)} {unit}"
    return "1 s" if seconds >= 0.5 else "0 s"


def count(number: float) -> str:
    """`number` in thousands or millions."""
    for unit, length in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if number >= length:
            return f"{_short(number / length)}{unit}"
    return _short(number)


def _short(number: float) -> str:
    return f"{number:.1f}" if 0 < number < 9.95 and round(number, 1) != round(number) else f"{number:,.0f}"


def _told(tell: Callable[[float], str], value: float | None, asked: bool) -> str:
    if value is None:
        return NOT_KNOWN if asked else NOTHING
    return tell(value)


def _columns(needs: Sequence[Need]) -> list[Column]:
    columns: list[Column] = [
        ("memory", lambda n: _told(size, n.memory, n.runs)),
        ("disk", lambda n: _told(size, n.disk, False)),
        ("time", lambda n: _told(span, n.seconds, n.runs)),
    ]
    if any(need.tokens for need in needs):
        columns += [("tokens", lambda n: _told(count, n.tokens, False))]
    if any(need.cost is not None for need in needs):
        columns += [("cost", lambda n: _told(lambda cost: f"{cost:,.2f}", n.cost, False))]
    return columns


def _table(needs: Sequence[Need], width: int) -> list[str]:
    rows = [*needs, _total(needs)]
    columns = _columns(needs)
    cells = [[name for name, _ in columns], *([tell(need) for _, tell in columns] for need in rows)]
    if any(need.runs and need.seconds is None for need in needs):
        place = [name for name, _ in columns].index("time")
        cells[-1][place] = f"> {cells[-1][place] or '0 s'}"
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    stages = ["stage", *(need.stage for need in rows)]
    first = max(map(len, stages))
    left = width - first - sum(each + 2 for each in widths) - 2
    models = [["models"], *(need.models for need in rows)]
    lines = []
    for stage, names, row in zip(stages, models, cells, strict=True):
        numbers = "".join(f"  {cell:>{each}}" for cell, each in zip(row, widths, strict=True))
        shown = f"  {_fitted(', '.join(names), left):<{left}}" if left >= LEAST_MODELS else ""
        lines.append(f"{stage:<{first}}{shown}{numbers}".rstrip())
    return lines


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _total(needs: Sequence[Need]) -> Need:
    """The most memory, and the sum of the rest as far as it is known."""

    def total(name: str) -> float | None:
        known = [value for need in needs if (value := getattr(need, name)) is not None]
        return sum(known) if known else None

    memory = [need.memory for need in needs if need.memory is not None]
    return Need(
        "all",
        memory=max(memory, default=None),
        disk=total("disk"),
        seconds=total("seconds"),
        tokens=total("tokens"),
        cost=total("cost"),
    )

"""Geometry of the charts: values become percentages of a plot, which the template draws as SVG of any width.

This module returns plain data without HTML, so that the template escapes every label.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["up", "down", "flat"]
"""The sign of a significant difference."""
POINTS = 240
"""the most points of a curve: a screen can't show more, and the file would grow"""


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick of an axis: its position in 0..100 and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values with round ticks; `at` returns a value's position in 0..100."""

    low: float
    high: float
    ticks: tuple[Tick, ...] = ()

    def at(self, value: float) -> float:
        """Return the position of `value` between `low` (0) and `high` (100), clipped to these ends."""
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)


def make_axis(values: Iterable[float], ticks: int = 4, pad: float = 0.04) -> Axis:
    """Return an axis of all `values` (at least one, finite) with some padding and about `ticks` round ticks."""
    all_values = list(values)
    low, high = min(all_values), max(all_values)
    padding = (high - low) * pad if high > low else abs(high) * 0.05 or 1.0
    low, high = low - padding, high + padding
    step = _round_step((high - low) / ticks)
    positions = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    axis = Axis(low, high)
    return Axis(low, high, tuple(Tick(axis.at(m), _format_tick(float(m), step)) for m in positions))


@dataclass(frozen=True, slots=True)
class Effect:
    """An entry of a forest plot: a mean difference with its 95 % interval, if it has one.

    `tone` is the direction of a significant change; `p` is its corrected p-value.
    """

    name: str
    difference: float
    low: float | None
    high: float | None
    tone: Direction = "flat"
    detail: str = ""
    p: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the interval; without an interval, both are the difference."""
        low, high = (self.difference if end is None else end for end in (self.low, self.high))
        return low, high


@dataclass(frozen=True, slots=True)
class Forest:
    """Rows that share one axis."""

    axis: Axis
    rows: tuple[Effect, ...]

    @property
    def zero(self) -> float:
        """The position of 0 on the axis, in percent."""
        return self.axis.at(0)


def make_forest(effects: Sequence[Effect]) -> Forest:
    """Return a forest plot of `effects` (at least one) on an axis that shows 0."""
    return Forest(make_axis([0.0, *(v for e in effects for v in (*e.ends, e.difference))]), tuple(effects))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of each group over common bins, as outlines in 0..100 by 0..100 (y down), and the groups' means."""

    axis: Axis
    outlines: Mapping[str, str]
    means: Mapping[str, float]


def make_histogram(groups: Mapping[str, Sequence[float]], bins: int = 24) -> Histogram | None:
    """Return the groups' distributions, each normalised to area one; None without a value."""
    arrays = {name: np.asarray(values, np.float64) for name, values in groups.items() if len(values)}
    if not arrays:
        return None
    scale = make_axis([float(v) for values in arrays.values() for v in (values.min(), values.max())])
    shares = {name: _compute_shares(values, scale, bins) for name, values in arrays.items()}
    top = max(float(share.max()) for share in shares.values()) * 1.05
    lines = {name: _draw_outline(share / top) for name, share in shares.items()}
    return Histogram(scale, lines, {name: float(values.mean()) for name, values in arrays.items()})


@dataclass(frozen=True, slots=True)
class Line:
    """A series (`raw`, drawn faintly) and its moving average (`smooth`); `last` is the last average."""

    name: str
    raw: str
    smooth: str
    last: float
    at: float


@dataclass(frozen=True, slots=True)
class Curves:
    """Series over training steps; `reference` is the height of a line that means "nothing learnt"."""

    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    reference: float | None


def make_curves(
    steps: Sequence[float],
    series: Mapping[str, Sequence[float]],
    reference: float | None = None,
    span: tuple[float, float] | None = None,
) -> Curves | None:
    """Return `series` over `steps` of the same length, or None. The y axis excludes the most extreme 1 % of values.

    The x axis is the `span` of steps, by default from the first to the last.
    """
    if not len(steps):
        return None
    arrays = {name: np.asarray(values, np.float64) for name, values in series.items()}
    all_values = np.concatenate(list(arrays.values()))
    bounds = [float(b) for b in np.quantile(all_values, [0.005, 0.995])]
    y = make_axis([*bounds, *([] if reference is None else [reference])])
    x = make_axis(span or [float(steps[0]), float(steps[-1])], pad=0.0)
    lines = tuple(_make_line(name, x, y, np.asarray(steps, np.float64), values) for name, values in arrays.items())
    return Curves(x, y, lines, None if reference is None else 100 - y.at(reference))


def make_lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Curves | None:
    """Return named series, each with its own steps and values, on common axes; None without a value."""
    arrays = {name: (np.asarray(x, np.float64), np.asarray(y, np.float64)) for name, (x, y) in series.items() if len(y)}
    if not arrays:
        return None
    x = make_axis([end for steps_N, _ in arrays.values() for end in (steps_N[0], steps_N[-1])], pad=0.0)
    smooth = [compute_moving_average(values_N, max(1, values_N.size // 12)) for _, values_N in arrays.values()]
    y = make_axis([float(end) for values_N in smooth for end in (values_N.min(), values_N.max())])
    return Curves(x, y, tuple(_make_line(name, x, y, *each) for name, each in arrays.items()), None)


LABEL_WIDTH, LABEL_HEIGHT = 2.0, 6.0
"""size of a letter and of a line of a scatter plot's labels, in percent of the plot"""


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter plot in percent, y down, with the ends of its vertical interval and its label's position."""

    name: str
    x: float
    y: float
    low: float
    high: float
    label: float = 0.0
    """y of the label's middle"""

    @property
    def is_left(self) -> bool:
        """True if the label is to the left of the point."""
        return self.x > 60


@dataclass(frozen=True, slots=True)
class Scatter:
    """Named points on two axes."""

    x: Axis
    y: Axis
    dots: tuple[Dot, ...]


def make_scatter(points: Mapping[str, tuple[float, float, float | None, float | None]]) -> Scatter:
    """Return a scatter plot of `points` (at least one): name -> x, y and the ends of y's interval, if it has one."""
    x = make_axis([x for x, *_ in points.values()], pad=0.08)
    y = make_axis([0.0, *(end for _, *ends in points.values() for end in ends if end is not None)])
    dots = [
        Dot(name, x.at(at), *(round(100 - y.at(value if end is None else end), 2) for end in (value, low, high)))
        for name, (at, value, low, high) in points.items()
    ]
    return Scatter(x, y, tuple(place_labels(dots)))


def place_labels(dots: Sequence[Dot]) -> list[Dot]:
    """Return the dots with labels next to them; a label that would cover a higher one is moved below it."""
    placed: list[tuple[float, float, float]] = []
    labels = dict[str, float]()
    for dot in sorted(dots, key=lambda dot: dot.y):
        width, at = LABEL_WIDTH * len(dot.name), dot.y
        start = dot.x - width if dot.is_left else dot.x
        for left, right, above in placed:  # from above to below
            if start < right and left < start + width and abs(at - above) < LABEL_HEIGHT:
                at = above + LABEL_HEIGHT
        placed = sorted([*placed, (start, start + width, at)], key=lambda label: label[2])
        labels[dot.name] = at
    return [replace(dot, label=round(labels[dot.name], 2)) for dot in dots]


def compute_moving_average(values_N: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the centred mean over `window` values, fewer at the ends: same length."""
    sums = np.concatenate([[0.0], np.cumsum(values_N)])
    at = np.arange(values_N.size)
    low, high = np.maximum(0, at - window // 2), np.minimum(values_N.size, at + window // 2 + 1)
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


def _make_line(name: str, x: Axis, y: Axis, steps_N: NDArray[np.float64], values_N: NDArray[np.float64]) -> Line:
    smooth_N = compute_moving_average(values_N, max(1, values_N.size // 12))
    last = float(smooth_N[-1])
    return Line(name, _draw_path(x, y, steps_N, values_N), _draw_path(x, y, steps_N, smooth_N), last, 100 - y.at(last))


def _draw_path(x: Axis, y: Axis, steps_N: NDArray[np.float64], values_N: NDArray[np.float64]) -> str:
    stride = max(1, math.ceil(values_N.size / POINTS))
    keep = sorted({*range(0, values_N.size, stride), values_N.size - 1})
    points = [f"{x.at(float(steps_N[i])):g},{100 - y.at(float(values_N[i])):.4g}" for i in keep]
    return "M" + "L".join(points)


def _compute_shares(values_N: NDArray[np.float64], scale: Axis, bins: int) -> NDArray[np.float64]:
    counts, _ = np.histogram(values_N, bins=bins, range=(scale.low, scale.high))
    shares: NDArray[np.float64] = counts / values_N.size
    return shares


def _draw_outline(heights_B: NDArray[np.float64]) -> str:
    """Return the outline of a histogram as a path of right angles."""
    width = 100 / heights_B.size
    path = "M0,100"
    for i, height in enumerate(heights_B):
        path += f"V{100 * (1 - height):.4g}H{width * (i + 1):.4g}"
    return path + "V100"


def _round_step(step: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= step * (1 - 1e-9))


def format_compact(value: float) -> str:
    """Return a figure with up to three significant digits, as in 0.537 or −1.7e−5."""
    small = value and abs(value) < 1e-3
    text = f"{value:.1e}" if small else f"{value:#.3g}".rstrip(".")
    return text.replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def _format_tick(value: float, step: float) -> str:
    """Return a tick's label, with enough decimals to distinguish it from the next."""
    if abs(value) < step / 2:
        return "0"
    if step < 1e-3 or abs(value) >= 1e5:
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    places = max(0, -math.floor(math.log10(step)))
    if step * 10**places % 1:
        places += 1
    return f"{value:.{places}f}".replace("-", "−")

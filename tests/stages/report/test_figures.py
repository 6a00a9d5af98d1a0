"""Geometry of the charts, against places worked out by hand."""

from itertools import combinations

import numpy as np
import pytest

from agfsync.stages.report.figures import (
    LABEL_HEIGHT,
    LABEL_WIDTH,
    Dot,
    Effect,
    compute_moving_average,
    format_compact,
    make_axis,
    make_curves,
    make_forest,
    make_histogram,
    make_scatter,
    place_labels,
)


def test_an_axis_holds_its_values_and_has_round_ticks() -> None:
    scale = make_axis([0.0, 10.0], pad=0.0)
    assert (scale.at(0), scale.at(5), scale.at(10)) == (0, 50, 100)
    assert [tick.label for tick in scale.ticks] == ["0", "2.5", "5.0", "7.5", "10.0"]


def test_what_lies_beyond_an_axis_lies_at_its_end() -> None:
    assert make_axis([0.0, 1.0], pad=0.0).at(7.0) == 100


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-6, 4e6])
def test_an_axis_of_one_value_has_width(value: float) -> None:
    scale = make_axis([value])
    assert scale.low < value < scale.high
    assert len(scale.ticks) >= 2


def test_ticks_of_tiny_values_are_short() -> None:
    assert max(len(tick.label) for tick in make_axis([-2e-5, 9e-5]).ticks) <= 7


def test_a_forest_shows_zero_and_keeps_order() -> None:
    chart = make_forest([Effect("a", 5.0, 4.0, 6.0), Effect("b", 2.0, -1.0, 5.0)])
    assert [row.name for row in chart.rows] == ["a", "b"]
    first, at = chart.rows[0], chart.axis.at
    assert 0 < chart.zero < at(first.ends[0]) < at(first.difference) < at(first.ends[1]) <= 100


def test_a_histogram_of_groups_of_different_size_compares_shares() -> None:
    chart = make_histogram({"many": [1.0] * 50 + [2.0] * 50, "few": [1.0, 2.0], "none": []}, bins=2)
    assert chart is not None
    assert chart.outlines["many"] == chart.outlines["few"]
    assert chart.means == {"many": 1.5, "few": 1.5}


def test_nothing_to_draw_is_none() -> None:
    assert make_histogram({"candidates": []}) is None
    assert make_curves([], {"loss": []}) is None


def test_curves_run_from_first_to_last_step() -> None:
    chart = make_curves([1, 2, 3], {"loss": [3.0, 2.0, 1.0]}, reference=2.0)
    assert chart is not None
    assert chart.lines[0].raw.startswith("M0,") and "L100," in chart.lines[0].raw
    assert chart.reference == pytest.approx(50.0)
    assert chart.lines[0].last == 1.0


def test_one_step_makes_a_curve() -> None:
    assert make_curves([1], {"loss": [0.69]}) is not None


def test_long_curves_are_thinned_to_their_last_point() -> None:
    chart = make_curves(range(10_000), {"loss": [float(i) for i in range(10_000)]})
    assert chart is not None
    assert chart.lines[0].raw.count("L") < 300
    assert "L100," in chart.lines[0].raw


def test_moving_average_by_hand() -> None:
    assert compute_moving_average(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]


@pytest.mark.parametrize(("value", "text"), [(0.5374, "0.537"), (-1.69e-5, "−1.7e−5"), (0.8, "0.800"), (0, "0.00")])
def test_compact(value: float, text: str) -> None:
    assert format_compact(value) == text


def test_labels_that_would_cover_each_other_are_moved_down() -> None:
    dots = [Dot(name, x, y, y, y) for name, x, y in (("a", 10, 20), ("b", 11, 22), ("c", 90, 20), ("d", 12, 27.5))]
    assert [dot.label for dot in place_labels(dots)] == [20, 26, 20, 32]
    assert [dot.is_left for dot in place_labels(dots)] == [False, False, True, False]


def test_a_scatter_plots_labels_stand_apart() -> None:
    plot = make_scatter({f"arm-{at}": (float(at % 3), at / 50, at / 50 - 1, at / 50 + 1) for at in range(12)})
    assert all(dot.low >= dot.y >= dot.high for dot in plot.dots)
    for one, other in combinations(plot.dots, 2):
        assert abs(one.label - other.label) >= LABEL_HEIGHT - 0.02 or abs(one.x - other.x) > 2 * LABEL_WIDTH

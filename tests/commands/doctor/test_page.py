"""The page fits its terminal."""

from math import nan

import pytest

from agfsync.commands.doctor.page import (
    Examination,
    Need,
    format_bytes,
    format_count,
    format_page,
    format_span,
)

NEEDS = [
    Need("captions", ["gpt-4o-mini"], disk=1e6, seconds=300, requests=10, tokens=4e5, cost=0.25),
    Need("candidates", ["stable-diffusion-v1-5", "a-lora"], memory=8.1e9, disk=13e9, seconds=86400 * 117.0),
    Need("evaluation", ["somebody's"], memory=nan, seconds=nan),
]


def _page(width: int, blocks: bool = True) -> str:
    line = "a.model: somebody/something isn't in the cache and can't be looked at: no network"
    found = Examination("mine", "cpu", NEEDS, download=3.4e9)
    (found.missing if blocks else found.notes).append(line)
    return format_page(found, width)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = _page(width).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[:5]] == ["stage", "captions", "candidates", "evaluation", "all"]


def test_the_models_are_left_out_where_there_is_no_room() -> None:
    assert "gpt-4o-mini" in _page(80) and "gpt-4o-mini" not in _page(55)


def test_what_isnt_known_is_told_and_what_there_is_is_summed() -> None:
    lines = _page(80).splitlines()
    assert lines[3].split()[-2:] == ["?", "?"]
    assert lines[4].split() == ["all", "8.1", "GB", "13", "GB", ">", "117", "days", "400", "k", "0.25"]


def test_what_is_missing_is_said_once_and_decides() -> None:
    assert _page(200).count("missing: a.model") == 1 and _page(80).endswith("the run can't begin")
    assert "note: a.model" in _page(80, blocks=False) and _page(80, blocks=False).endswith("the run can begin")
    assert "to download: 3.4 GB" in _page(80)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (format_bytes(0), "0 B"),
        (format_bytes(999.7), "1 KB"),
        (format_bytes(1.25e9), "1.2 GB"),
        (format_bytes(350e6), "350 MB"),
        (format_span(0.1), "0 s"),
        (format_span(61), "61 s"),
        (format_span(12 * 60), "12 min"),
        (format_span(3600 * 5.25), "5.2 h"),
        (format_span(86400 * 3), "3 days"),
        (format_count(12), "12"),
        (format_count(30.4e6), "30 M"),
    ],
)
def test_figures_are_short(said: str, told: str) -> None:
    assert said == told

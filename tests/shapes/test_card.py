from agfsync.shapes.card import Figure, render_card
from agfsync.shapes.training.generator import DROPPED, SWAPPED


def test_the_card_is_a_table_of_figures_under_a_heading() -> None:
    text = render_card([Figure("oracle", "99.5% of 200", "99 % at least"), Figure("size", "20.1 MB")])
    head, table = text.split("\n\n| measured", 1)
    assert head.startswith("# The Shapes world's models")
    assert f"{SWAPPED:.0%}" in head and f"{DROPPED:.0%}" in head
    assert table.splitlines()[1:] == [
        "|---|---|---|",
        "| oracle | 99.5% of 200 | 99 % at least |",
        "| size | 20.1 MB |  |",
    ]

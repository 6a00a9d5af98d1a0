from agfsync.formats import LeftOut
from agfsync.formats.tally import LeftOutTally


def test_reasons_are_counted_with_the_first_places_of_each() -> None:
    tally = LeftOutTally()
    for row in (2, 3, 3, 5, 8):
        tally.add(LeftOut("no text", f"row {row}"))
    tally.add(LeftOut("of the split 'test'", "test.csv", 7, failed=False))
    assert list(tally.lines()) == ["of the split 'test' 7 (test.csv)", "no text 5 (row 2, row 3, row 5, ...)"]
    assert tally.counts.total() == 12 and tally.failed == {"no text": 5}
    tally.add(LeftOut("no place", failed=False))
    assert list(tally.lines())[-1] == "no place 1"

"""The lines on damaged files."""

from pathlib import Path

from agfsync.pipeline.damage import _LISTED, describe_damage, describe_damages
from agfsync.store.integrity import Damage

RUN = Path("run")


def test_a_file_that_is_missing_is_not_called_quarantined() -> None:
    there, gone = (Damage("pairs/a.parquet", fault, "pairs", 3, 1) for fault in ("is damaged", "is missing"))
    said = "run/pairs/a.parquet (1 unit)"
    assert describe_damage(RUN, there) == f"{said} is damaged: it was quarantined, to be regenerated"
    assert describe_damage(RUN, gone) == f"{said} is missing: it will be regenerated"


def test_a_line_names_a_few_of_many() -> None:
    found = [Damage(f"model/{number}", "is missing", "training") for number in range(_LISTED + 2)]
    assert describe_damages(RUN, found[:1]) == "run/model/0 is missing: it will be regenerated"
    assert describe_damages(RUN, found).endswith("; and 2 more") and "model/5" not in describe_damages(RUN, found)

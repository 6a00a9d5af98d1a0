from pathlib import Path

import pytest

from agfsync.errors import StoreError
from agfsync.store.spending import SPENDING, note_spending, read_spending


def test_what_was_noted_last_is_what_was_spent(tmp_path: Path) -> None:
    assert read_spending(tmp_path).get("captions", {}) == {}
    note_spending(tmp_path, "captions", {"cost": 1.5})
    note_spending(tmp_path, "questions", {"cost": 0.25})
    note_spending(tmp_path, "captions", {"cost": 2.5})
    assert read_spending(tmp_path).get("captions", {}) == {"cost": 2.5}
    assert read_spending(tmp_path).get("questions", {}) == {"cost": 0.25}


@pytest.mark.parametrize(
    "broken",
    ["{", "[]", '{"captions": 3}', '{"captions": {"cost": NaN}}', '{"captions": {"cost": -1}}', "\ufeff{}", "["],
)
def test_a_broken_account_is_told_and_not_taken_for_nothing(tmp_path: Path, broken: str) -> None:
    (tmp_path / SPENDING).write_text(broken)
    with pytest.raises(StoreError, match=r"spending\.json is damaged: put it back, or delete it"):
        read_spending(tmp_path).get("captions", {})

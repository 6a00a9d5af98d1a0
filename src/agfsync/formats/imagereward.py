"""ImageRewardDB: rows of single pictures, of groups on a prompt, or of pairs; a lower rank is better."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, NoPreference, PairItem, Preference
from agfsync.formats.columns import ROWS_WITH_PICTURES, column_names, column_rows
from agfsync.formats.pairing import pair_by_rank, parse_picture
from agfsync.formats.paths import locate_picture
from agfsync.formats.reading import (
    Row,
    Rows,
    UnusableRow,
    get_category,
    group_rows,
    peek_row,
    read_json_list,
    read_rows,
    require_list,
    require_text,
)

_ROW_COLUMNS = ("image", "prompt_id", "prompt", "rank")
_KINDS = {
    "groups": {"prompt", "generations", "ranking"},
    "pairs": {"prompt", "img_better", "img_worse"},
    "rows": set(_ROW_COLUMNS),
}
"""The three kinds of file, by their columns."""


class ImageRewardDB:
    """A JSON file of any kind, or Parquet files of rows."""

    title = "ImageRewardDB"

    def recognises(self, path: Path) -> bool:
        """Return True for a file of one of the three kinds, or a folder of tables of rows."""
        if path.is_file() and path.suffix.lower() == ".json":
            return _find_kind(peek_row(read_json_list(path))) is not None
        return any(_find_kind(names) == "rows" for names in column_names(path))

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield every two pictures of a prompt, or the pairs of a pair file; pictures lie next to the file."""
        if path.is_dir() or path.suffix.lower() != ".json":
            columns = (*_ROW_COLUMNS, "classification")
            return _pair_rows(column_rows(path, columns, split, _ROW_COLUMNS, ROWS_WITH_PICTURES), path)
        kind = _find_kind(peek_row(read_json_list(path)))
        if kind == "rows":
            return _pair_rows(read_json_list(path), path)
        return read_rows(read_json_list(path), _read_group if kind == "groups" else _read_pair)


def _find_kind(names: Iterable[str]) -> str | None:
    return next((kind for kind, wanted in _KINDS.items() if set(names) >= wanted), None)


def _pair_rows(rows: Rows, path: Path) -> Iterator[PairItem]:
    """Yield the pairs of neighbouring rows, so that memory holds the pictures of one prompt only."""
    finished: set[str] = set()
    for group in group_rows(rows, _require_prompt_id):
        if isinstance(group, LeftOut):
            yield group
            continue
        key, same = group
        if key in finished:
            raise FormatError(f"{path}: the rows of prompt_id {key} don't lie together: sort them by prompt_id")
        finished.add(key)
        ranks, pictures = [], []
        for row in same:
            try:
                pictures.append(parse_picture(row.get("image"), row.file.parent, path))
                ranks.append(row.get("rank"))
            except UnusableRow as failure:
                yield LeftOut(str(failure), row.where)
        first = same[0]
        category = get_category(first, "classification")
        yield from pair_by_rank(require_text(first, "prompt"), pictures, ranks, category, first.where)


def _require_prompt_id(row: Row) -> str:
    if row.get("prompt_id") is None:
        raise UnusableRow("no prompt_id")
    require_text(row, "prompt")
    return str(row["prompt_id"])


def _read_group(row: Row) -> Iterator[Preference | NoPreference]:
    names = require_list(row, "generations")
    ranks = require_list(row, "ranking", len(names))
    pictures = [locate_picture(name, row.file.parent) for name in names]
    return pair_by_rank(require_text(row, "prompt"), pictures, ranks, get_category(row, "classification"), row.where)


def _read_pair(row: Row) -> Iterator[Preference | NoPreference]:
    better, worse = (locate_picture(require_text(row, name), row.file.parent) for name in ("img_better", "img_worse"))
    yield Preference(require_text(row, "prompt"), better, worse, get_category(row, "classification"), row.where)

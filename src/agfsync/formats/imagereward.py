"""ImageRewardDB: a row a picture, a group a prompt, or a pair a row; a lower rank is better."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, NoPreference, PairItem, Preference
from agfsync.formats.columns import WITH_PICTURES, column_names, column_rows
from agfsync.formats.pairing import by_rank, embedded
from agfsync.formats.reading import (
    Row,
    Rows,
    UnusableRow,
    entries,
    first_row,
    group_rows,
    json_rows,
    label,
    read_rows,
    text,
)
from agfsync.formats.walking import locate

IMAGEREWARD_COLUMNS = ("image", "prompt_id", "prompt", "rank")
GROUPS, PAIRS = {"prompt", "generations", "ranking"}, {"prompt", "img_better", "img_worse"}


class ImageReward:
    title = "ImageRewardDB"

    def recognises(self, path: Path) -> bool:
        if path.is_file() and path.suffix.lower() == ".json":
            return _kind(first_row(json_rows(path))) is not None
        return any(_kind(names) == "rows" for names in column_names(path))

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield every two pictures of a prompt, or the pairs as they stand in a pair file; pictures lie beside it."""
        if path.is_dir() or path.suffix.lower() != ".json":
            columns = (*IMAGEREWARD_COLUMNS, "classification")
            return _from_rows(column_rows(path, columns, split, IMAGEREWARD_COLUMNS, WITH_PICTURES), path)
        kind = _kind(first_row(json_rows(path)))
        if kind == "rows":
            return _from_rows(json_rows(path), path)
        return read_rows(json_rows(path), _group if kind == "groups" else _pair)


def _kind(names: Iterable[str]) -> str | None:
    """Return which of the three files has these columns."""
    there = set(names)
    kinds = {"groups": GROUPS, "pairs": PAIRS, "rows": set(IMAGEREWARD_COLUMNS)}
    return next((kind for kind, wanted in kinds.items() if there >= wanted), None)


def _from_rows(rows: Rows, path: Path) -> Iterator[PairItem]:
    """The pictures of a prompt are held together, so only one prompt's are in memory."""
    over: set[str] = set()
    for group in group_rows(rows, _prompt_id):
        if isinstance(group, LeftOut):
            yield group
            continue
        key, of = group
        if key in over:
            raise FormatError(f"{path}: the rows of prompt_id {key} don't lie together: sort them by prompt_id")
        over.add(key)
        usable = []
        for row in of:
            try:
                usable.append((row, embedded(row.get("image"), row.file.parent, path)))
            except UnusableRow as failure:
                yield LeftOut(str(failure), row.where)
        ranks, pictures = [row.get("rank") for row, _ in usable], [picture for _, picture in usable]
        yield from by_rank(text(of[0], "prompt"), pictures, ranks, label(of[0], "classification"), of[0].where)


def _prompt_id(row: Row) -> str:
    """Return the prompt's id of a row that has a prompt."""
    if row.get("prompt_id") is None:
        raise UnusableRow("no prompt_id")
    return str(row["prompt_id"]) if text(row, "prompt") else ""


def _group(row: Row) -> Iterator[Preference | NoPreference]:
    names = entries(row, "generations")
    ranks = entries(row, "ranking", len(names))
    pictures = [locate(name, row.file.parent) for name in names]
    return by_rank(text(row, "prompt"), pictures, ranks, label(row, "classification"), row.where)


def _pair(row: Row) -> Iterator[Preference | NoPreference]:
    better, worse = (locate(text(row, name), row.file.parent) for name in ("img_better", "img_worse"))
    yield Preference(text(row, "prompt"), better, worse, label(row, "classification"), row.where)

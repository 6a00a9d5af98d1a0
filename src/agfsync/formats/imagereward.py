"""ImageRewardDB: rows of single images, of groups of images of a prompt, or of pairs; a lower rank is better."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from agfsync.errors import FormatError
from agfsync.formats import Dataset, LeftOut, NoPreference, PairItem, Preference
from agfsync.formats.columns import ROWS_WITH_IMAGES, column_names, column_rows
from agfsync.formats.pairing import pair_by_rank, parse_image
from agfsync.formats.paths import locate_image
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
"""The three kinds of file -> their columns."""
_SUFFIXES = {b"\x89PNG": ".png", b"RIFF": ".webp"}
ImagePair = tuple[str, str]
"""The paths of the winner's and the loser's image."""


class ImageRewardDB:
    """Reads a JSON file of any kind, or Parquet files of rows. Writes groups."""

    title = "ImageRewardDB"

    def recognises(self, path: Path) -> bool:
        """Return True for a file of one of the three kinds, or a folder of tables of rows."""
        if path.is_file() and path.suffix.lower() == ".json":
            return _find_kind(peek_row(read_json_list(path))) is not None
        return any(_find_kind(names) == "rows" for names in column_names(path))

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield all pairs of a prompt's images, or the pairs of a file of pairs; images are next to the file."""
        if path.is_dir() or path.suffix.lower() != ".json":
            columns = (*_ROW_COLUMNS, "classification")
            return _pair_rows(column_rows(path, columns, split, _ROW_COLUMNS, ROWS_WITH_IMAGES), path)
        kind = _find_kind(peek_row(read_json_list(path)))
        if kind == "rows":
            return _pair_rows(read_json_list(path), path)
        return read_rows(read_json_list(path), _read_group if kind == "groups" else _read_pair)

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Write train.json, the groups that ImageReward's trainer reads, and the images to images/.

        The trainer forms a pair of any two images of a group that have different ranks.
        """
        counts = {"pairs": 0, "ties": 0}
        (folder / "images").mkdir()
        groups: list[dict[str, Any]] = []
        for _, same in groupby(dataset.pairs, lambda pair: (pair.prompt, pair.aspect)):
            names: list[ImagePair] = []
            scores: dict[str, float] = {}
            for pair in same:
                counts["pairs" if pair.margin > 0 else "ties"] += 1
                if pair.margin > 0:
                    images = (pair.winner_key, pair.winner), (pair.loser_key, pair.loser)
                    winner, loser = (_write_image(*each, folder) for each in images)
                    names.append((winner, loser))
                    scores |= {winner: pair.winner_score, loser: pair.loser_score}
            common = {"prompt": pair.prompt, "classification": pair.category, "aspect": pair.aspect}
            for ranking in rank_groups(names, scores):
                ranks = {"generations": list(ranking), "ranking": list(ranking.values())}
                groups.append({"id": f"{len(groups):06}", **common, **ranks})
        (folder / "train.json").write_text(json.dumps(groups, ensure_ascii=False, indent=1), encoding="utf-8")
        return counts


def rank_groups(pairs: Sequence[ImagePair], scores: Mapping[str, float]) -> list[dict[str, int]]:
    """Return groups of images with ranks, from 1 for the best, that imply exactly the `pairs` of winner and loser.

    The result is one group if `scores` imply all pairs and no other, else a group of two for each pair.

    >>> rank_groups([("a", "b"), ("a", "c")], {"a": 3.0, "b": 1.0, "c": 1.0})
    [{'a': 1, 'b': 2, 'c': 2}]
    >>> rank_groups([("a", "b"), ("b", "c")], {"a": 3.0, "b": 2.0, "c": 1.0})
    [{'a': 1, 'b': 2}, {'b': 1, 'c': 2}]
    """
    implied = {(one, other) for one in scores for other in scores if scores[one] > scores[other]}
    if implied == set(pairs):
        places = sorted(set(scores.values()), reverse=True)
        return [{name: 1 + places.index(score) for name, score in scores.items()}] if scores else []
    return [{winner: 1, loser: 2} for winner, loser in pairs]


def _write_image(key: str, image: bytes, folder: Path) -> str:
    """Write an image, unless the file exists, and return its path in the folder."""
    suffix = next((end for begin, end in _SUFFIXES.items() if image.startswith(begin)), ".jpg")
    name = f"images/{key}{suffix}"
    if not (folder / name).exists():
        (folder / name).write_bytes(image)
    return name


def _find_kind(names: Iterable[str]) -> str | None:
    return next((kind for kind, wanted in _KINDS.items() if set(names) >= wanted), None)


def _pair_rows(rows: Rows, path: Path) -> Iterator[PairItem]:
    """Yield the pairs of consecutive rows with one prompt, so that memory holds the images of one prompt only."""
    finished: set[str] = set()
    for group in group_rows(rows, _require_prompt_id):
        if isinstance(group, LeftOut):
            yield group
            continue
        key, same = group
        if key in finished:
            raise FormatError(f"{path}: the rows of prompt_id {key} don't lie together: sort them by prompt_id")
        finished.add(key)
        ranks, images = [], []
        for row in same:
            try:
                images.append(parse_image(row.get("image"), row.file.parent, path))
                ranks.append(row.get("rank"))
            except UnusableRow as failure:
                yield LeftOut(str(failure), row.where)
        first = same[0]
        category = get_category(first, "classification")
        yield from pair_by_rank(require_text(first, "prompt"), images, ranks, category, first.where)


def _require_prompt_id(row: Row) -> str:
    if row.get("prompt_id") is None:
        raise UnusableRow("no prompt_id")
    require_text(row, "prompt")
    return str(row["prompt_id"])


def _read_group(row: Row) -> Iterator[Preference | NoPreference]:
    names = require_list(row, "generations")
    ranks = require_list(row, "ranking", len(names))
    images = [locate_image(name, row.file.parent) for name in names]
    return pair_by_rank(require_text(row, "prompt"), images, ranks, get_category(row, "classification"), row.where)


def _read_pair(row: Row) -> Iterator[Preference | NoPreference]:
    better, worse = (locate_image(require_text(row, name), row.file.parent) for name in ("img_better", "img_worse"))
    yield Preference(require_text(row, "prompt"), better, worse, get_category(row, "classification"), row.where)

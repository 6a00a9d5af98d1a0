"""The tables of a run, and their rows: candidates, pairs, and why a winner won."""

import html
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from agfsync import pipeline
from agfsync.files.images import decode_image
from agfsync.records import Candidate, Caption, Pair, Question, Record, Score
from agfsync.stages.pairs import find_parts
from agfsync.store import Run

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    from PIL.Image import Image

    from agfsync.api.runs import LoadedRun

_R = TypeVar("_R")
_SHOWN = 8
"""Rows of a table that a notebook shows."""


class Table(Sequence[_R], Generic[_R]):
    """A table of a run: a sequence whose rows are read from disk when they are used.

    >>> run.scores[0].value  # doctest: +SKIP
    83.3
    """

    def __init__(self, path: Path, name: str, kind: type[Record], wrap: Callable[[Any], _R]) -> None:
        self._path, self._name, self._kind, self._wrap = path, name, kind, wrap

    def __len__(self) -> int:
        with Run.open(self._path) as run:
            return run.count_rows(self._name)

    @overload
    def __getitem__(self, index: int) -> _R: ...

    @overload
    def __getitem__(self, index: slice) -> list[_R]: ...

    def __getitem__(self, index: int | slice) -> _R | list[_R]:
        if isinstance(index, slice):
            positions = range(*index.indices(len(self)))
            rows = {number: row for number, row in enumerate(self) if number in positions}
            return [rows[position] for position in positions]
        position = index + len(self) if index < 0 else index
        for number, row in enumerate(self) if position >= 0 else ():
            if number == position:
                return row
        raise IndexError(f"the table {self._name} has {len(self)} rows: no row {index}")

    def __iter__(self) -> Iterator[_R]:
        with Run.open(self._path) as run:
            for row in run.read(self._name, self._kind):
                yield self._wrap(row)

    def to_arrow(self) -> "pa.Table":
        """Return the table as an Arrow table; an image is a struct of bytes and path, as in Hugging Face datasets."""
        import pyarrow as pa

        from agfsync.records import add_huggingface_metadata

        with Run.open(self._path) as run:
            rows = [row.row() for row in run.read(self._name, self._kind)]
        return pa.Table.from_pylist(rows, schema=add_huggingface_metadata(self._kind.schema))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table as a pandas data frame (pip install pandas)."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_dataset(self) -> "datasets.Dataset":
        """Return the table as a Hugging Face dataset, with images decoded (pip install datasets)."""
        import datasets

        return datasets.Dataset(self.to_arrow())

    def __repr__(self) -> str:
        return f"<{self._name} of {self._path}: {len(self)} rows>"

    def _repr_html_(self) -> str:
        names = [column.name for column in fields(self._kind) if column.name != "key"]
        shown = [row for _, row in zip(range(_SHOWN), self, strict=False)]
        head = "".join(f"<th>{name}</th>" for name in names)
        rows = "".join("<tr>" + "".join(f"<td>{_show(row, name)}</td>" for name in names) + "</tr>" for row in shown)
        more = f"<p>{len(self)} rows</p>" if len(self) > _SHOWN else ""
        return f"<table><tr>{head}</tr>{rows}</table>{more}"


@dataclass(frozen=True, slots=True)
class RunCandidate:
    """A candidate image of a caption, with the values of its row."""

    record: Candidate

    @property
    def image(self) -> "Image":
        """The image, decoded."""
        return decode_image(self.record.image)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    def _repr_html_(self) -> str:
        return _show_image(self.record.image)


@dataclass(frozen=True, slots=True)
class RunPair:
    """A pair of a run, with the values of its row."""

    run: "LoadedRun"
    record: Pair

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    def explain(self) -> "Explanation":
        """Return why the winner won: both images, each score, and the questions that the loser failed."""
        keys = (self.record.winner_key, self.record.loser_key)
        images: dict[str, bytes] = {}
        scores: dict[str, dict[str, Score]] = {key: {} for key in keys}
        with Run.open(self.run.path) as opened:
            for unit, rows in opened.rows_by_unit("candidates", ["key"]):
                if any(row["key"] in keys for row in rows):
                    for record in opened.read("candidates", Candidate, [unit]):
                        images |= {record.key: record.image} if record.key in keys else {}
            for score in opened.read("scores", Score):
                if score.candidate_key in scores:
                    scores[score.candidate_key][score.scorer] = score
            questions = {
                q.key: q for q in opened.read("questions", Question) if q.caption_key == self.record.caption_key
            }
            caption = next(c for c in opened.read("captions", Caption) if c.key == self.record.caption_key)
            parts = find_parts(opened, pipeline.read_recipe(opened), self.record)
        winner, loser = (scores[key] for key in keys)
        return Explanation(
            caption=caption.text,
            winner=images[keys[0]],
            loser=images[keys[1]],
            scores={n: (winner[n].value if n in winner else None, score.value) for n, score in loser.items()},
            failed=[
                f"{questions[answer.question_key].text} {answer.answer}"
                for score in loser.values()
                for answer in score.answers
                if answer.question_key in questions and questions[answer.question_key].answer != answer.answer
            ],
            margin=self.record.margin,
            parts=parts,
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reasons why a winner won. `scores` has the values of the winner and the loser by each scorer, on 0..100."""

    caption: str
    winner: bytes
    loser: bytes
    scores: Mapping[str, tuple[float | None, float | None]]
    failed: Sequence[str]
    """the questions that the loser failed, with its answers"""
    margin: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """each scorer's part of the margin, below 0 where it prefers the loser; empty where no scorer chose the pair"""

    @property
    def images(self) -> "tuple[Image, Image]":
        """The winner's and the loser's image, decoded."""
        return decode_image(self.winner), decode_image(self.loser)

    def __str__(self) -> str:
        lines = [self.caption, f"margin {self.margin:.1f}"]
        for name, (won, lost) in self.scores.items():
            part = f", {self.parts[name]:+.1f} of the margin" if name in self.parts else ""
            lines.append(f"{name}: winner {_format(won)}, loser {_format(lost)}{part}")
        lines += [f"the loser failed: {question}" for question in self.failed]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        text = "<br>".join(html.escape(line) for line in str(self).splitlines())
        return f"{_show_image(self.winner)} {_show_image(self.loser)}<p>{text}</p>"


def _format(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _show(row: Any, name: str) -> str:
    value = getattr(getattr(row, "record", row), name)
    if isinstance(value, bytes):
        return _show_image(value)
    return html.escape(f"{value:.2f}" if isinstance(value, float) else str(value))


def _show_image(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg" if data.startswith(b"\xff\xd8") else "webp"
    return f'<img src="data:image/{kind};base64,{b64encode(data).decode()}" style="max-width: 12em">'

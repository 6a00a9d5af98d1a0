"""A Hugging Face dataset folder: pairs, captions and questions as its three subsets, and a dataset card."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.formats import Asked, Dataset, LeftOut, PairItem, Prompt, WrittenPair, binarized
from agfsync.formats.asking import question, sift
from agfsync.formats.card import Statistics, card
from agfsync.formats.columns import column_names, column_rows
from agfsync.formats.reading import Row, label, read_rows, text
from agfsync.formats.selection import name_selectors
from agfsync.formats.writing import Shards, write_pairs
from agfsync.records import IMAGE, Caption, Question

SUBSETS = ("pairs", "captions", "questions")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("category", pa.string()),
        ("chosen", IMAGE),
        ("rejected", IMAGE),
        ("chosen_model", pa.string()),
        ("rejected_model", pa.string()),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("margin", pa.float64()),
    ]
)


class HuggingFace:
    title = "a Hugging Face dataset of pairs, captions and questions"

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and all(any(column_names(path / name)) for name in SUBSETS)

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        return binarized.Binarized().pairs(path / "pairs", split)

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the captions, each with its questions."""
        asked: dict[str, list[Asked | str]] = defaultdict(list)

        def ask(row: Row) -> list[Prompt]:
            each = question(row.get("text"), row.get("answer"), row.get("element"), row.get("element_type"))
            asked[text(row, "caption_key")].append(each)
            return []

        def caption(row: Row) -> list[Prompt]:
            return [Prompt(text(row, "text"), label(row, "category"), *sift(asked[text(row, "key")]))]

        yield from read_rows(column_rows(path / "questions", Question.schema.names, split), ask)
        yield from read_rows(column_rows(path / "captions", Caption.schema.names, split), caption)

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Ties are dropped here too: chosen and rejected would lie."""
        statistics = Statistics()
        captions = (statistics.counted(caption) for caption in dataset.captions)
        questions = (statistics.asked(question) for question in dataset.questions)
        _write(captions, folder / "captions", Caption.schema)
        _write(questions, folder / "questions", Question.schema)
        counts = write_pairs(dataset.pairs, folder / "pairs", name_selectors(SCHEMA, dataset.selected_by), _row)
        (folder / "README.md").write_text(card(dataset, statistics, counts["pairs"]), encoding="utf-8")
        return counts


def _write(records: Iterable[Caption | Question], folder: Path, schema: pa.Schema) -> None:
    with Shards(folder, schema) as shards:
        for record in records:
            shards.add(record.row())


def _row(pair: WrittenPair, number: int) -> dict[str, Any]:
    scores = {"chosen_score": pair.winner_score, "rejected_score": pair.loser_score, "margin": pair.margin}
    return binarized.row(pair, number) | scores

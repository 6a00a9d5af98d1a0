"""A Hugging Face dataset folder: pairs, captions and questions as its three subsets, and a dataset card."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from agfsync.formats import Asked, Dataset, NoPreference, Preference, Prompt, WrittenPair, binarized
from agfsync.formats.asking import question, sift
from agfsync.formats.card import Statistics, card
from agfsync.formats.reading import label, parquet_columns, parquet_rows, text
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
        return all(parquet_columns(path / name) for name in SUBSETS)

    def pairs(self, path: Path) -> Iterator[Preference | NoPreference]:
        return binarized.Binarized().pairs(path / "pairs")

    def prompts(self, path: Path) -> Iterator[Prompt]:
        """The captions, each with its questions."""
        asked: dict[str, list[Asked | str]] = defaultdict(list)
        for row in parquet_rows(path / "questions", Question.schema.names):
            each = question(row.get("text"), row.get("answer"), row.get("element"), row.get("element_type"))
            asked[text(row, "caption_key", path)].append(each)
        for row in parquet_rows(path / "captions", Caption.schema.names):
            yield Prompt(text(row, "text", path), label(row, "category"), *sift(asked[text(row, "key", path)]))

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

"""A Hugging Face dataset folder: the subsets pairs, captions and questions, and a dataset card."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from agfsync.formats import Dataset, LeftOut, PairItem, Prompt, SourceQuestion, WrittenPair
from agfsync.formats.binarized import Binarized, make_binarized_row
from agfsync.formats.columns import column_names, column_rows
from agfsync.formats.reading import Row, get_category, read_rows, require_text
from agfsync.formats.rows import collect_questions, parse_question
from agfsync.formats.writing import ParquetShards, name_selectors, write_pairs
from agfsync.records import IMAGE, Annotation, Caption, Question, Record

SUBSETS = {
    "pairs": "a prompt with its `chosen` and `rejected` image, their scores and the `margin`",
    "captions": "a prompt with its category; `split` is held-out where it is kept for evaluation",
    "questions": "a question on the caption `caption_key`, and what a faithful image answers",
}
"""The subsets -> the description of a row."""
ANNOTATED = {
    "annotations": "an annotator's reply on all images of the caption `caption_key` by one aspect: their keys in the "
    "order `shown`, and in that order scores in 1..5, ranks (equal ones are ties) and reasons, or why there are none"
}
"""The further subset of annotated runs."""
_PAIR_SCHEMA = pa.schema(
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
        ("aspect", pa.string()),
        ("chosen_key", pa.string()),
        ("rejected_key", pa.string()),
    ]
)
_SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class HuggingFace:
    """A folder with the three subsets."""

    title = "a Hugging Face dataset of pairs, captions and questions"

    def recognises(self, path: Path) -> bool:
        """Return True for a folder with tables of all three subsets."""
        return path.is_dir() and all(any(column_names(path / name)) for name in SUBSETS)

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the pairs of the subset "pairs"."""
        return Binarized().pairs(path / "pairs", split)

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the captions, each with its questions."""
        asked: dict[str, list[SourceQuestion | str]] = defaultdict(list)

        def collect_question(row: Row) -> list[Prompt]:
            names = ("text", "answer", "element", "element_type", "choices", "label")
            question = parse_question(*map(row.get, names))
            asked[require_text(row, "caption_key")].append(question)
            return []

        def read_caption(row: Row) -> list[Prompt]:
            questions = collect_questions(asked[require_text(row, "key")])
            return [Prompt(require_text(row, "text"), get_category(row, "category"), *questions)]

        yield from read_rows(column_rows(path / "questions", Question.schema.names, split), collect_question)
        yield from read_rows(column_rows(path / "captions", Caption.schema.names, split), read_caption)

    def write(self, dataset: Dataset, folder: Path) -> Mapping[str, int]:
        """Write the subsets and the card. Ties are dropped, since they have no chosen image."""
        statistics = DatasetStatistics()
        _write_records(map(statistics.count_caption, dataset.captions), folder / "captions", Caption.schema)
        _write_records(map(statistics.count_question, dataset.questions), folder / "questions", Question.schema)
        if dataset.annotations is not None:
            _write_records(dataset.annotations, folder / "annotations", Annotation.schema)
        schema = name_selectors(_PAIR_SCHEMA, dataset.selected_by)
        counts = write_pairs(map(statistics.count_pair, dataset.pairs), folder / "pairs", schema, _make_row)
        (folder / "README.md").write_text(render_dataset_card(dataset, statistics, counts["pairs"]), encoding="utf-8")
        return counts


def _write_records(records: Iterable[Record], folder: Path, schema: pa.Schema) -> None:
    with ParquetShards(folder, schema) as shards:
        for record in records:
            shards.add(record.row())


def _make_row(pair: WrittenPair, number: int) -> dict[str, Any]:
    scores = {"chosen_score": pair.winner_score, "rejected_score": pair.loser_score, "margin": pair.margin}
    keys = {"aspect": pair.aspect, "chosen_key": pair.winner_key, "rejected_key": pair.loser_key}
    return make_binarized_row(pair, number) | scores | keys


@dataclass(slots=True)
class DatasetStatistics:
    """Counts of captions and questions, as in the paper's Tables 3 and 11. A caption's questions are consecutive."""

    categories: Counter[str] = field(default_factory=Counter)
    element_types: Counter[str] = field(default_factory=Counter)
    caption_words: int = 0
    question_words: int = 0
    elements: int = 0
    """sum of the captions' numbers of distinct elements"""
    aspects: Counter[str] = field(default_factory=Counter)
    """pairs that one judge or aspect chose alone"""
    _caption_key: str = ""
    _caption_elements: set[str] = field(default_factory=set)

    def count_caption(self, caption: Caption) -> Caption:
        """Count `caption` and return it."""
        self.categories[caption.category] += 1
        self.caption_words += len(caption.text.split())
        return caption

    def count_question(self, question: Question) -> Question:
        """Count `question` and return it."""
        self.element_types[question.element_type] += 1
        self.question_words += len(question.text.split())
        if question.caption_key != self._caption_key:
            self._caption_key, self._caption_elements = question.caption_key, set()
        element = question.element.casefold()
        self.elements += bool(element) and element not in self._caption_elements
        self._caption_elements.add(element)
        return question

    def count_pair(self, pair: WrittenPair) -> WrittenPair:
        """Count `pair` and return it."""
        if pair.aspect and pair.margin > 0:
            self.aspects[pair.aspect] += 1
        return pair

    def totals(self) -> dict[str, str]:
        """Return the rows of the paper's Table 3, formatted."""
        captions, questions = self.categories.total(), self.element_types.total()
        return {
            "captions": f"{captions:,}",
            "questions": f"{questions:,}",
            "questions per caption": _format_mean(questions, captions),
            "words per caption": _format_mean(self.caption_words, captions),
            "elements per caption": _format_mean(self.elements, captions),
            "words per question": _format_mean(self.question_words, questions),
        }


def render_dataset_card(dataset: Dataset, statistics: DatasetStatistics, pairs: int) -> str:
    """Return the README.md of a dataset folder with `pairs` pairs."""
    parts = [
        f"---\n{yaml.safe_dump(_card_metadata(dataset, pairs), sort_keys=False, allow_unicode=True)}---",
        f"# {dataset.name}",
        f"{pairs:,} pairs of a chosen and a rejected image for one prompt, with all captions and questions of the run"
        " that they come from. Written by agfsync.",
        "## How it was made",
        _markdown_table(("", ""), dataset.made_with),
        "## What it holds",
        _markdown_table(("", ""), statistics.totals() | {"pairs": f"{pairs:,}"}),
        "### Questions by element type",
        _markdown_table(("element type", "questions"), _format_counts(statistics.element_types)),
        "### Captions by category",
        _markdown_table(("category", "captions"), _format_counts(statistics.categories)),
        *_describe_aspects(dataset, statistics),
        "## Subsets",
        _markdown_table(("subset", "a row"), _list_subsets(dataset)),
    ]
    return "\n\n".join(parts) + "\n"


def _describe_aspects(dataset: Dataset, statistics: DatasetStatistics) -> Iterator[str]:
    """Yield the card's parts on pairs by aspect and on the annotators, if there are any."""
    if statistics.aspects:
        yield "### Pairs by aspect"
        yield _markdown_table(("aspect", "pairs"), _format_counts(statistics.aspects))
    if dataset.agreement:
        yield "### Agreement of the annotators with themselves"
        yield _markdown_table(("aspect", "replies"), dataset.agreement)


def _list_subsets(dataset: Dataset) -> dict[str, str]:
    return SUBSETS | (ANNOTATED if dataset.annotations is not None else {})


def _card_metadata(dataset: Dataset, pairs: int) -> dict[str, object]:
    """Return the metadata for the hub; without subsets in it the hub would treat all files as one table."""
    configs: list[dict[str, object]] = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*"}]}
        for name in _list_subsets(dataset)
    ]
    configs[0]["default"] = True
    return {
        "pretty_name": dataset.name,
        "task_categories": ["text-to-image"],
        "tags": ["preference", "dpo", "ai-feedback", "agfsync"],
        "size_categories": [next((name for limit, name in _SIZE_CATEGORIES if pairs < limit), "n>1M")],
        "configs": configs,
    }


def _markdown_table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {_escape_cell(name)} | {_escape_cell(value)} |" for name, value in rows.items()])


def _escape_cell(text: str) -> str:
    """Escape a text so that it neither ends its table cell nor becomes markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _format_counts(counts: Counter[str]) -> dict[str, str]:
    return {name: f"{count:,}" for name, count in counts.most_common()}


def _format_mean(total: int, count: int) -> str:
    return f"{total / count:.2f}" if count else "none"

"""The dataset card: what a folder holds, counted as in the paper's Tables 3 and 11. No format of its own."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from agfsync.formats import Dataset
from agfsync.records import Caption, Question

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(slots=True)
class Statistics:
    """Captions and questions, counted in passing. Questions of a caption must follow each other."""

    categories: Counter[str] = field(default_factory=Counter)
    element_types: Counter[str] = field(default_factory=Counter)
    caption_words: int = 0
    question_words: int = 0
    elements: int = 0
    """of each caption the different ones, added up"""
    _of: str = ""
    _seen: set[str] = field(default_factory=set)

    def counted(self, caption: Caption) -> Caption:
        """Counts `caption` and hands it on."""
        self.categories[caption.category] += 1
        self.caption_words += len(caption.text.split())
        return caption

    def asked(self, question: Question) -> Question:
        """Counts `question` and hands it on."""
        self.element_types[question.element_type] += 1
        self.question_words += len(question.text.split())
        if question.caption_key != self._of:
            self._of, self._seen = question.caption_key, set()
        element = question.element.casefold()
        self.elements += bool(element) and element not in self._seen
        self._seen.add(element)
        return question

    def totals(self) -> dict[str, str]:
        """The rows of Table 3, as they are shown."""
        captions, questions = self.categories.total(), self.element_types.total()
        return {
            "captions": f"{captions:,}",
            "questions": f"{questions:,}",
            "questions per caption": _mean(questions, captions),
            "words per caption": _mean(self.caption_words, captions),
            "elements per caption": _mean(self.elements, captions),
            "words per question": _mean(self.question_words, questions),
        }


def card(dataset: Dataset, statistics: Statistics, pairs: int) -> str:
    """The README.md of a dataset folder that holds `pairs` pairs."""
    parts = [
        f"---\n{yaml.safe_dump(_metadata(dataset, pairs), sort_keys=False, allow_unicode=True)}---",
        f"# {dataset.name}",
        f"{pairs:,} pairs of a chosen and a rejected picture for one prompt, with all captions and questions of the run"
        " that they come from. Written by agfsync.",
        "## How it was made",
        _table(("", ""), dataset.made_with),
        "## What it holds",
        _table(("", ""), statistics.totals() | {"pairs": f"{pairs:,}"}),
        "### Questions by element type",
        _table(("element type", "questions"), _ranked(statistics.element_types)),
        "### Captions by category",
        _table(("category", "captions"), _ranked(statistics.categories)),
        "## Subsets",
        _table(
            ("subset", "a row"),
            {
                "pairs": "a prompt with its `chosen` and `rejected` picture, their scores and the `margin`",
                "captions": "a prompt with its category; `split` is held-out where it is kept for evaluation",
                "questions": "a yes/no question on the caption `caption_key`, and what a faithful picture answers",
            },
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(dataset: Dataset, pairs: int) -> dict[str, object]:
    """What the hub reads: without the subsets it would take all files for one table."""
    configs: list[dict[str, object]] = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*"}]}
        for name in ("pairs", "captions", "questions")
    ]
    configs[0]["default"] = True
    return {
        "pretty_name": dataset.name,
        "task_categories": ["text-to-image"],
        "tags": ["preference", "dpo", "ai-feedback", "agfsync"],
        "size_categories": [next((name for limit, name in SIZES if pairs < limit), "n>1M")],
        "configs": configs,
    }


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()])


def _cell(text: str) -> str:
    """What comes from a file must not end the cell that it stands in, nor become markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _ranked(counts: Counter[str]) -> dict[str, str]:
    return {name: f"{count:,}" for name, count in counts.most_common()}


def _mean(total: int, count: int) -> str:
    return f"{total / count:.2f}" if count else "none"

"""What a file or folder is, and how much of what it holds: prompts, questions, pairs; of a run as of others' files."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agfsync.formats import TIE, Format, PairSet, Preference, PromptFile
from agfsync.formats.pairing import opened
from agfsync.pictures import BrokenPicture
from agfsync.records import Caption
from agfsync.sources import recognise
from agfsync.store import RECIPE, Run


@dataclass(slots=True)
class Contents:
    """What was counted. `left_out` are pairs that can't be used, without ties; `questions_left_out` such questions."""

    what: str
    captions: int = 0
    questions: int = 0
    pairs: int = 0
    ties: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    questions_left_out: Counter[str] = field(default_factory=Counter)
    categories: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """category -> captions, questions or pairs -> how many"""

    def add(self, what: str, category: str, count: int = 1) -> None:
        setattr(self, what, getattr(self, what) + count)
        if count:
            self.categories[category][what] += count

    def plain(self) -> dict[str, Any]:
        """For programs, as JSON can hold it."""
        counts = {name: getattr(self, name) for name in ("captions", "questions", "pairs", "ties")}
        reasons = {name: dict(getattr(self, name).most_common()) for name in ("left_out", "questions_left_out")}
        by_category = {category: dict(of) for category, of in self.categories.items()}
        return {"what": self.what, **counts, **reasons, "categories": by_category}


def inspect(path: Path) -> Contents:
    """Recognise what is at `path` and go through all of it, pictures included.

    Raises:
        FormatError: it is nothing that agfsync knows, or isn't what it looks like. RunError: a run of another version.
    """
    if (path / RECIPE).is_file():
        return _run(path)
    format_ = recognise(path, Format)
    contents = Contents(format_.title)
    if isinstance(format_, PromptFile):
        _prompts(contents, format_, path)
    if isinstance(format_, PairSet):
        _pairs(contents, format_, path)
    return contents


def _prompts(contents: Contents, format_: PromptFile, path: Path) -> None:
    for prompt in format_.prompts(path):
        contents.add("captions", prompt.category)
        contents.add("questions", prompt.category, len(prompt.questions))
        contents.questions_left_out.update(prompt.left_out)


def _pairs(contents: Contents, format_: PairSet, path: Path) -> None:
    """The captions of a pair set are its different prompts, where it has no table of captions."""
    prompts: dict[str, str] = {}
    for found in format_.pairs(path):
        prompts.setdefault(found.prompt, found.category)
        if isinstance(found, Preference):
            _preference(contents, found)
        elif found.reason == TIE:
            contents.ties += 1
        else:
            contents.left_out[found.reason] += 1
    if not contents.captions:
        for category in prompts.values():
            contents.add("captions", category)


def _preference(contents: Contents, found: Preference) -> None:
    try:
        opened(found)
    except BrokenPicture as failure:
        contents.left_out[str(failure)] += 1
    else:
        contents.add("pairs", found.category)


def _run(path: Path) -> Contents:
    contents = Contents("a run of agfsync")
    with Run.open(path, writing=False) as run:
        categories: dict[str, str] = {}
        for caption in run.read("captions", Caption):
            categories[caption.key] = caption.category
            contents.add("captions", caption.category)
        for what in ("questions", "pairs"):
            for row in run.rows(what, ["caption_key"]):
                contents.add(what, categories.get(row["caption_key"], ""))
        contents.questions_left_out = run.dropped("questions")
        contents.left_out = run.dropped("pairs")
        contents.ties = contents.left_out.pop(TIE, 0)
    return contents

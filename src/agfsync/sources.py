"""What `captions.source` and `pairs.source` point at: the format that recognises a path, and its captions for a run."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from agfsync import catalog
from agfsync.disk import guarded
from agfsync.errors import FormatError
from agfsync.formats import Asked, Format, PairSet, Preference, Prompt, PromptFile
from agfsync.language.text import normalised
from agfsync.records import digest, file_digest

F = TypeVar("F", bound=Format)

KINDS = {PromptFile: "captions", PairSet: "pairs"}
SMALL = 64 << 20
"""Bytes up to which a source is known by what it holds; a larger one by its files' sizes and times."""


def recognise(path: Path, wanted: type[F]) -> F:
    """The first format of the catalog that does what is `wanted` and recognises `path`.

    Raises:
        FormatError: there is nothing at `path`, or nothing that a format of that kind recognises.
    """
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder")
    able = formats(wanted)
    for format_ in able.values():
        if format_.recognises(path):
            return format_
    kind = KINDS.get(wanted, "captions or pairs")
    raise FormatError(f"{path}: holds {kind} in no known format: there are {', '.join(able)}")


def formats(wanted: type[F]) -> dict[str, F]:
    """The formats of the catalog that do what is `wanted`, by name, in the order in which a file is held against them.

    Those of other packages come first: ours end with some that take any table.
    """
    names = sorted(catalog.names("formats"), key=lambda name: name in catalog.CATALOG["formats"])
    all_ = {name: catalog.find("formats", name)() for name in names}
    return {name: format_ for name, format_ in all_.items() if isinstance(format_, wanted)}


def fingerprint(source: str) -> str:
    """What the file or folder `source` holds, as a digest; that of a missing one is one of its own."""
    path = Path(source)
    with guarded(path):
        states = {str(file.relative_to(path)): file.stat() for file in _files(path)}
        if sum(state.st_size for state in states.values()) <= SMALL:
            return digest("source", {name: file_digest(path / name) for name in states})
    return digest("source", {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()})


def _files(path: Path) -> list[Path]:
    """The file at `path`, or all in the folder there and below it; none where there is nothing."""
    if path.is_dir():
        return [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    return [path] if path.exists() else []


def captions_of_pairs(source: str) -> Mapping[str, str]:
    """Every prompt of which the pair set at `source` has a preference, with its category; no picture is opened.

    Raises:
        FormatError: it is no pair set.
    """
    path, found = Path(source), dict[str, str]()
    for each in recognise(path, PairSet).pairs(path):
        if isinstance(each, Preference):
            found.setdefault(each.prompt, each.category)
    return found


class Prompts:
    """A prompt file in the place of a caption writer: it writes what it holds, in its order, without `avoid`.

    Raises:
        FormatError: there is no prompt file at `source`, or it isn't what its format says.
    """

    concurrency = 1

    def __init__(self, source: str, avoid: Collection[str] = ()) -> None:
        self.path = Path(source)
        self._prompts: dict[str, Prompt] = {}
        self.left_out: Counter[str] = Counter()
        """why some of the file's prompts aren't written, counted"""
        for prompt in recognise(self.path, PromptFile).prompts(self.path):
            plain = normalised(prompt.text)
            if reason := self._fault(plain, avoid):
                self.left_out[reason] += 1
            else:
                self._prompts[plain] = prompt
        self.categories: Sequence[str] = list(dict.fromkeys(p.category for p in self._prompts.values()))
        # By what it holds: the same prompts in a file that was moved or touched are the same captions.
        self.identity = digest("prompts", [(p.text, p.category) for p in self._prompts.values()])

    @property
    def rooms(self) -> dict[str, int]:
        """How many captions each category has."""
        return {category: len(self._of(category)) for category in self.categories}

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> list[str]:
        """The next `count` captions of `category` that aren't in `avoid`."""
        written = set(avoid)
        return [text for text in self._of(category) if text not in written][:count]

    def asked(self, caption: str) -> tuple[tuple[Asked, ...], Mapping[str, int]]:
        """The file's questions on `caption`, and why others that it has can't be used, counted."""
        prompt = self._prompts.get(normalised(caption))
        return (prompt.questions, prompt.left_out) if prompt else ((), {})

    def _fault(self, plain: str, avoid: Collection[str]) -> str | None:
        if not plain:
            return "empty"
        if plain in avoid:
            return "a prompt of the pair set"
        return "repeated" if plain in self._prompts else None

    def _of(self, category: str) -> list[str]:
        return [prompt.text for prompt in self._prompts.values() if prompt.category == category]

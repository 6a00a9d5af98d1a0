"""Opens the sources of `captions.source` and `pairs.source`: finds the format, and reads prompts or pairs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from agfsync import catalog
from agfsync.errors import FormatError
from agfsync.files.atomic import store_errors
from agfsync.formats import (
    AnsweredImage,
    AnswerSet,
    Format,
    LeftOut,
    LeftOutTally,
    PairItem,
    PairSet,
    Preference,
    Prompt,
    PromptFile,
    SourceQuestion,
)
from agfsync.formats.near_misses import explain_unknown
from agfsync.formats.paths import ALL_SPLITS, walk_files
from agfsync.language.text import normalise_text
from agfsync.records import asks_yes_no, digest, digest_file

_F = TypeVar("_F", bound=Format)

_SECTIONS = {PromptFile: "captions", PairSet: "pairs"}
_SMALL = 64 << 20
"""Up to this number of bytes a source's digest is that of its content, above it that of its files' sizes and times."""


def find_formats(wanted: type[_F]) -> dict[str, _F]:
    """Return the formats of the catalog with the protocol `wanted`, by name, in the order in which they are tried.

    Formats of other packages come first, since the last built-in ones accept any table.
    """
    names = sorted(catalog.list_names("formats"), key=lambda name: name in catalog.CATALOG["formats"])
    all_ = {name: catalog.find("formats", name)() for name in names}
    return {name: format_ for name, format_ in all_.items() if isinstance(format_, wanted)}


def recognise_format(path: Path, wanted: type[_F]) -> _F:
    """Return the first format of the catalog that has the protocol `wanted` and recognises `path`.

    Raises:
        FormatError: `path` doesn't exist, or no such format recognises it; the message has the likely reason.
    """
    if not path.exists():
        raise FormatError(f"{path}: {'a link to nothing' if path.is_symlink() else 'no such file or folder'}")
    path = resolve_snapshot(path)
    able = find_formats(wanted)
    for format_ in able.values():
        if format_.recognises(path):
            return format_
    section = _SECTIONS.get(wanted, "captions or pairs")
    reason = _recognise_other_section(path, wanted) or _recognise_files(path, able) or explain_unknown(path)
    lead = f"{reason}; known" if reason else "there"
    raise FormatError(f"{path}: holds {section} in no known format: {lead} are {', '.join(able)}")


def _recognise_other_section(path: Path, wanted: type[_F]) -> str:
    """Describe the right section if a file has captions but pairs are wanted, or the reverse; else return ""."""
    for kind, section in _SECTIONS.items():
        if wanted in _SECTIONS and kind is not wanted:
            for format_ in find_formats(kind).values():
                if format_.recognises(path):
                    return f"it is {format_.title}, for {section}.source"
    return ""


def _recognise_files(path: Path, able: Mapping[str, Format]) -> str:
    """Return a sentence with the files in the folder `path` that are recognised on their own; empty if none."""
    if not path.is_dir():
        return ""
    known = [
        str(file.relative_to(path))
        for file in islice(walk_files(path), 20)
        if any(format_.recognises(file) for format_ in able.values())
    ]
    return f"name one of its files, such as {', '.join(known[:3])}" if known else ""


def resolve_snapshot(path: Path) -> Path:
    """Return the newest snapshot's folder if `path` is a repository in the hub's cache, else `path`.

    Raises:
        FormatError: the repository doesn't have exactly one snapshot, and none is marked as the newest.
    """
    repositories = list(path.glob("datasets--*")) if path.is_dir() else []
    path = repositories[0] if len(repositories) == 1 else path
    snapshots, newest = path / "snapshots", path / "refs" / "main"
    if not (snapshots.is_dir() and (path / "blobs").is_dir()):
        return path
    there = sorted(each for each in snapshots.iterdir() if each.is_dir())
    if newest.is_file() and (named := snapshots / newest.read_text(encoding="utf-8").strip()).is_dir():
        return named
    if len(there) != 1:
        raise FormatError(f"{path}: has {len(there)} snapshots and no refs/main: name one of them")
    return there[0]


def read_prompts(path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
    """Yield the prompts at `path`, and everything there that isn't read.

    Raises:
        FormatError: there are none in a known format, the file is invalid, or there is no such split.
    """
    format_ = recognise_format(path, PromptFile)
    return format_.prompts(resolve_snapshot(path), _check_split(path, split))


def read_pairs(path: Path, split: str = "") -> Iterator[PairItem]:
    """Yield the pairs at `path`, and everything there that isn't read; see `read_prompts`."""
    format_ = recognise_format(path, PairSet)
    return format_.pairs(resolve_snapshot(path), _check_split(path, split))


def read_answers(path: Path, split: str = "") -> Iterator[AnsweredImage | LeftOut]:
    """Yield the images at `path` that have questions with true answers; see `read_prompts`."""
    format_ = recognise_format(path, AnswerSet)
    return format_.answers(resolve_snapshot(path), _check_split(path, split))


def holds_answers(path: Path) -> bool:
    """Return True if an `AnswerSet` recognises `path`."""
    return path.exists() and any(format_.recognises(path) for format_ in find_formats(AnswerSet).values())


def _check_split(path: Path, split: str) -> str:
    if split not in ("", ALL_SPLITS) and not path.is_dir():
        raise FormatError(f"{path}: is one file, and has no split '{split}': name the folder of several, or no split")
    return split


def check_source(path: Path, wanted: type[Format], split: str) -> None:
    """Check that the source at `path` has a known format and the split, and a valid beginning.

    Raises:
        FormatError: one of these is not the case.
    """
    found: Iterator[object] = (read_prompts if wanted is PromptFile else read_pairs)(path, split)
    next(found, None)


def fingerprint_source(source: str) -> str:
    """Return a digest of the file or folder `source`, without hidden files; a missing source also has a digest."""
    path = Path(source)
    with store_errors(path):
        files = list(walk_files(path)) if path.is_dir() else [path]
        states = {str(file.relative_to(path)): file.stat() for file in files if file.exists()}
        if sum(state.st_size for state in states.values()) <= _SMALL:
            return digest("source", {name: digest_file(path / name) for name in states if (path / name).is_file()})
    return digest("source", {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()})


def read_pair_prompts(source: str, split: str = "") -> Mapping[str, str]:
    """Return the prompts with a preference in the pair set `source` and their categories, without opening images.

    Raises:
        FormatError: the source isn't a pair set.
    """
    found = dict[str, str]()
    for each in read_pairs(Path(source), split):
        if isinstance(each, Preference):
            found.setdefault(each.prompt, each.category)
    return found


class SourceCaptions:
    """A caption writer that returns the prompts of a file, in order.

    `left_out` counts the rows without a usable caption; `rows` is the number of rows that should have one.

    Args:
        avoid: normalised captions to leave out.
        avoided: the reason to count them under.

    Raises:
        FormatError: there is no prompt file at `source`, or it is invalid.
    """

    concurrency = 1

    def __init__(
        self, source: str, avoid: Collection[str] = (), split: str = "", avoided: str = "in the pair set as well"
    ) -> None:
        self.path, self._avoided = Path(source), avoided
        self.left_out = LeftOutTally()
        self.rows = 0
        self._prompts: dict[str, Prompt] = {}
        for prompt in read_prompts(self.path, split):
            self._add(prompt, avoid)
        self._texts: dict[str, list[str]] = {}
        for each in self._prompts.values():
            self._texts.setdefault(each.category, []).append(each.text)
        self.categories: Sequence[str] = list(self._texts)
        # A digest of the content, so that the captions stay the same if the file is moved or touched.
        self.identity = digest("prompts", [(p.text, p.category) for p in self._prompts.values()])

    def _add(self, prompt: Prompt | LeftOut, avoid: Collection[str]) -> None:
        if isinstance(prompt, LeftOut):
            self.left_out.add(prompt)
            self.rows += prompt.count if prompt.failed else 0
            return
        self.rows += 1
        plain = normalise_text(prompt.text)
        if not plain:
            self.left_out.add(LeftOut("empty", failed=False))
        elif plain in avoid:
            self.left_out.add(LeftOut(self._avoided, failed=False))
        elif plain in self._prompts:
            self.left_out.add(LeftOut("repeated", failed=False))
        else:
            self._prompts[plain] = prompt

    @property
    def has_questions(self) -> bool:
        """True if the file has a question on any of its captions."""
        return any(prompt.questions for prompt in self._prompts.values())

    def explain_left_out(self) -> str:
        """Return the first reason why a question of the file can't be asked, in brackets; empty if there is none."""
        reasons = (reason for prompt in self._prompts.values() for reason in prompt.left_out)
        return next((f" ({reason})" for reason in reasons), "")

    def find_open_question(self) -> str:
        """Return the first question that isn't a yes/no question; empty if there is none."""
        asked = (question for prompt in self._prompts.values() for question in prompt.questions)
        return next((each.text for each in asked if not asks_yes_no(each.answer, each.choices)), "")

    @property
    def rooms(self) -> dict[str, int]:
        """Number of captions in each category."""
        return {category: len(texts) for category, texts in self._texts.items()}

    def captions(self, category: str, count: int, avoid: Collection[str], seed: int) -> list[str]:
        """Return the next `count` captions of `category` that aren't in `avoid`."""
        written = set(avoid)
        return list(islice((text for text in self._texts[category] if text not in written), count))

    def questions_on(self, caption: str) -> tuple[tuple[SourceQuestion, ...], Mapping[str, int]]:
        """Return the file's questions on `caption`, and the count of each reason why others can't be asked."""
        prompt = self._prompts.get(normalise_text(caption))
        return (prompt.questions, prompt.left_out) if prompt else ((), {})

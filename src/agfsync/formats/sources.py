"""What `captions.source` and `pairs.source` point at: the format that recognises a path, and its captions for a run."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from agfsync import catalog
from agfsync.errors import FormatError
from agfsync.files.atomic import store_errors
from agfsync.formats import Asked, Format, LeftOut, PairItem, PairSet, Preference, Prompt, PromptFile
from agfsync.formats.near_misses import why_unknown
from agfsync.formats.splits import ALL
from agfsync.formats.tally import LeftOutTally
from agfsync.formats.walking import walk_files
from agfsync.language.text import normalised
from agfsync.records import digest, file_digest

F = TypeVar("F", bound=Format)

KINDS = {PromptFile: "captions", PairSet: "pairs"}
SMALL = 64 << 20
"""Bytes up to which a source is known by what it holds; a larger one by its files' sizes and times."""


def recognise(path: Path, wanted: type[F]) -> F:
    """Return the first format of the catalog that does what is `wanted` and recognises `path`.

    Raises:
        FormatError: there is nothing at `path`, or nothing that a format of that kind recognises; with what is likely
            the reason.
    """
    if not path.exists():
        raise FormatError(f"{path}: {'a link to nothing' if path.is_symlink() else 'no such file or folder'}")
    path = snapshot_of(path)
    able = formats(wanted)
    for format_ in able.values():
        if format_.recognises(path):
            return format_
    kind = KINDS.get(wanted, "captions or pairs")
    reason = _other_kind(path, wanted) or _one_of(path, able) or why_unknown(path)
    told = f"{reason}; known" if reason else "there"
    raise FormatError(f"{path}: holds {kind} in no known format: {told} are {', '.join(able)}")


def _other_kind(path: Path, wanted: type[F]) -> str:
    """Return what to do where a file holds captions, and pairs are wanted, or the other way round."""
    for kind, holds in KINDS.items():
        if wanted in KINDS and kind is not wanted:
            for format_ in formats(kind).values():
                if format_.recognises(path):
                    return f"it is {format_.title}, for {holds}.source"
    return ""


def _one_of(path: Path, able: Mapping[str, Format]) -> str:
    """Return which files in the folder at `path` are known by themselves."""
    if not path.is_dir():
        return ""
    known = [
        str(file.relative_to(path))
        for file in islice(walk_files(path), 20)
        if any(format_.recognises(file) for format_ in able.values())
    ]
    return f"name one of its files, such as {', '.join(known[:3])}" if known else ""


def snapshot_of(path: Path) -> Path:
    """Return the folder of files where `path` is a repository in the hub's cache, else `path` itself.

    Raises:
        FormatError: it has several snapshots, and none is the newest.
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


def prompts_of(path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
    """Yield the prompts at `path`, and everything there that isn't read.

    Raises:
        FormatError: it holds none in a known format, or isn't what its format says, or has no such split.
    """
    format_ = recognise(path, PromptFile)
    return format_.prompts(snapshot_of(path), _checked(path, split))


def pairs_of(path: Path, split: str = "") -> Iterator[PairItem]:
    """Yield the pairs at `path`, and everything there that isn't read; see `prompts_of`."""
    format_ = recognise(path, PairSet)
    return format_.pairs(snapshot_of(path), _checked(path, split))


def check_source(path: Path, wanted: type[Format], split: str) -> None:
    """See that what is at `path` is known, has the split, and begins as its format says.

    Raises:
        FormatError: it doesn't.
    """
    found: Iterator[object] = (prompts_of if wanted is PromptFile else pairs_of)(path, split)
    next(found, None)


def _checked(path: Path, split: str) -> str:
    if split not in ("", ALL) and not path.is_dir():
        raise FormatError(f"{path}: is one file, and has no split '{split}': name the folder of several, or no split")
    return split


def formats(wanted: type[F]) -> dict[str, F]:
    """The formats of the catalog that do what is `wanted`, by name, in the order in which a file is held against them.

    Those of other packages come first: ours end with some that take any table.
    """
    names = sorted(catalog.names("formats"), key=lambda name: name in catalog.CATALOG["formats"])
    all_ = {name: catalog.find("formats", name)() for name in names}
    return {name: format_ for name, format_ in all_.items() if isinstance(format_, wanted)}


def fingerprint(source: str) -> str:
    """Return a digest of what the file or folder `source` holds, hidden files left out; a missing one has its own."""
    path = Path(source)
    with store_errors(path):
        states = {str(file.relative_to(path)): file.stat() for file in _files(path) if file.exists()}
        if sum(state.st_size for state in states.values()) <= SMALL:
            return digest("source", {name: file_digest(path / name) for name in states if (path / name).is_file()})
    return digest("source", {name: (state.st_size, state.st_mtime_ns) for name, state in states.items()})


def _files(path: Path) -> list[Path]:
    """Return the file at `path`, or all in the folder there and below it; none where there is nothing."""
    if path.is_dir():
        return list(walk_files(path))
    return [path] if path.exists() else []


def captions_of_pairs(source: str, split: str = "") -> Mapping[str, str]:
    """Return every prompt of which the pair set at `source` has a preference, with its category.

    No picture is opened.

    Raises:
        FormatError: it is no pair set.
    """
    found = dict[str, str]()
    for each in pairs_of(Path(source), split):
        if isinstance(each, Preference):
            found.setdefault(each.prompt, each.category)
    return found


class Prompts:
    """A prompt file in the place of a caption writer: it writes what it holds, in its order, without `avoid`.

    `left_out` counts what of the file isn't a caption; `rows` are all that were meant to be.

    Raises:
        FormatError: there is no prompt file at `source`, or it isn't what its format says.
    """

    concurrency = 1

    def __init__(self, source: str, avoid: Collection[str] = (), split: str = "") -> None:
        self.path = Path(source)
        self.left_out = LeftOutTally()
        self.rows = 0
        self._prompts: dict[str, Prompt] = {}
        for prompt in prompts_of(self.path, split):
            self._enter(prompt, avoid)
        self.categories: Sequence[str] = list(dict.fromkeys(p.category for p in self._prompts.values()))
        # By what it holds: the same prompts in a file that was moved or touched are the same captions.
        self.identity = digest("prompts", [(p.text, p.category) for p in self._prompts.values()])

    def _enter(self, prompt: Prompt | LeftOut, avoid: Collection[str]) -> None:
        if isinstance(prompt, LeftOut):
            self.left_out.add(prompt)
            self.rows += prompt.count if prompt.failed else 0
            return
        self.rows += 1
        plain = normalised(prompt.text)
        if not plain:
            self.left_out.add(LeftOut("empty", failed=False))
        elif plain in avoid:
            self.left_out.add(LeftOut("in the pair set as well", failed=False))
        elif plain in self._prompts:
            self.left_out.add(LeftOut("repeated", failed=False))
        else:
            self._prompts[plain] = prompt

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

    def _of(self, category: str) -> list[str]:
        return [prompt.text for prompt in self._prompts.values() if prompt.category == category]

"""Which split of a data set a file belongs to, by the names that Hugging Face's datasets go by. No format of its own.

Source: https://huggingface.co/docs/datasets/repository_structure
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from agfsync.errors import FormatError

ALL = "all"
"""The split that is all of them."""
WORDS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
GENERAL = {"data", "part", "shard", "chunk", "output"}
"""What shards are called that belong to no split."""
SHARD = re.compile(r"(.+)[-_.]\d{5}-of-\d{5}")
BETWEEN = re.compile(r"[-_. ]+|(?<=\D)(?=\d)")

T = TypeVar("T")


def split_of(parts: Sequence[str]) -> str:
    """Return the split of a file by the `parts` of its path below the data set's folder; empty if none is named.

    The name of a shard counts most, then the folders from within to without, then the name of any other file.

    >>> split_of(["data", "validation_unique-00000-of-00001.parquet"])
    'validation_unique'
    >>> split_of(["test", "0000.parquet"])
    'test'
    """
    *folders, file = parts
    stem = file.rpartition(".")[0] or file
    if shard := SHARD.fullmatch(stem):
        words = _words(shard[1])
        if words and words[0] not in WORDS:
            return base_of(shard[1]) or ("" if words[0] in GENERAL else shard[1])
        return shard[1]
    return next((split for name in [*reversed(folders), stem] if (split := base_of(name))), "")


def base_of(split: str) -> str:
    """Return which of train, validation and test a split is; empty if none of them."""
    return next((WORDS[word] for word in _words(split) if word in WORDS), "")


def take_split(root: Path, files: Iterable[tuple[str, T]], split: str) -> tuple[list[T], dict[str, list[T]]]:
    """Return those of `files`, each with its split, that are taken, and the others by their splits.

    Without a `split` that is "train", where there are several splits; all files where none has a split.

    Raises:
        FormatError: there is no such split, or several and none called train.
    """
    by_split: dict[str, list[T]] = {}
    for name, file in files:
        by_split.setdefault(name, []).append(file)
    taken = _chosen(root, list(by_split), split)
    rest = {name: of for name, of in by_split.items() if name not in taken}
    return [file for name in by_split if name in taken for file in by_split[name]], rest


def _chosen(root: Path, there: list[str], split: str) -> set[str]:
    named = [name for name in there if name]
    if split == ALL or (not split and len(there) < 2):
        return set(there)
    if not split:
        trains = [name for name in named if base_of(name) == "train"]
        if "train" in trains or len(trains) == 1:
            return {"train" if "train" in trains else trains[0]}
        if not named or (not trains and "" in there):
            return {""}
    wanted = [name for name in named if split in (name, base_of(name))]
    if split in wanted or len(wanted) == 1:
        return {split if split in wanted else wanted[0]}
    has = f"the splits {', '.join(named)}" if named else "no splits that its names tell"
    lacks = f"no split '{split}'" if split else "none called train"
    raise FormatError(f"{root}: has {has}, {lacks}: choose one of them (pairs.split, captions.split, --split)")


def _words(name: str) -> list[str]:
    return [word for word in BETWEEN.split(name.casefold()) if word]

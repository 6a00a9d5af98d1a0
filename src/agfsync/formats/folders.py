"""Two folders of pictures, winners and losers, paired by their names.

FOLDER/winner/cat.png  FOLDER/loser/cat.png   and the prompt in FOLDER/winner/cat.txt, or .caption, or in a row of
                                              FOLDER/metadata.csv or .jsonl (file_name, text; category if you like)

There may be several such folders below FOLDER, and folders below those of winners and losers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from agfsync.formats import UNCATEGORISED, LeftOut, NoPreference, PairItem, Preference
from agfsync.formats.captioned import (
    CAPTION_ENDINGS,
    METADATA,
    Listed,
    is_picture,
    list_prompts,
    plain_name,
    read_caption,
    stem_of,
)
from agfsync.formats.splits import split_of, take_split
from agfsync.formats.walking import is_hidden, walk_files

SIDE_NAMES = (
    ("winner", "loser"),
    ("winners", "losers"),
    ("chosen", "rejected"),
    ("w", "l"),
    ("win", "lose"),
    ("wins", "losses"),
    ("won", "lost"),
    ("better", "worse"),
    ("preferred", "dispreferred"),
    ("positive", "negative"),
)
"""What the two folders are called, in whatever case; those of one line belong together, else any two."""
DEEPEST = 3
"""Folders between FOLDER and that of the winners."""
NO_PROMPT = "no prompt: neither a .txt or .caption beside the picture nor a row in metadata.csv or metadata.jsonl"
AMBIGUOUS = "several pictures of one name: which belong together can't be told"


@dataclass(slots=True)
class _Named:
    """The pictures of one name below the winners and the losers of one folder, and the texts beside them."""

    pictures: tuple[list[Path], list[Path]] = field(default_factory=lambda: ([], []))
    captions: list[Path] = field(default_factory=list)
    """the winners' first"""


class Folders:
    title = "folders of winners and losers"

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and next(_sets(path), None) is not None

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        sides = {side: (folder, number) for folder, both in _sets(path) for number, side in enumerate(both)}
        named: dict[tuple[Path, str], _Named] = {}
        listed: dict[str, Listed] = {}
        for file in walk_files(path):
            side = next((parent for parent in file.parents if parent in sides), None)
            caption = file.suffix.lower() in CAPTION_ENDINGS
            if file.name.lower() in METADATA:
                yield from list_prompts(file, path, listed)
            elif side is None or not (caption or is_picture(file)):
                yield _unused(file, path)
            else:
                folder, number = sides[side]
                name = plain_name(stem_of(PurePosixPath(file.relative_to(side).as_posix())))
                of = named.setdefault((folder, name), _Named())
                if not caption:
                    of.pictures[number].append(file)
                elif number:
                    of.captions.append(file)
                else:
                    of.captions.insert(0, file)
        yield from _of_split(path, named, listed, split)
        yield from (
            LeftOut("a row on a picture that isn't there", each.where) for each in listed.values() if not each.used
        )


def _of_split(
    root: Path, named: dict[tuple[Path, str], _Named], listed: dict[str, Listed], split: str
) -> Iterator[PairItem]:
    """Yield the pairs of the split that is taken, and count the pictures of others."""
    splits = ((split_of((*key[0].relative_to(root).parts, *key[1].split("/")[:-1], "")), key) for key in sorted(named))
    taken, others = take_split(root, splits, split)
    for name, keys in others.items():
        pictures = sum(len(named[key].pictures[0]) + len(named[key].pictures[1]) for key in keys)
        for key in keys:
            _prompts(root, key, named[key], listed)
        yield LeftOut(f"pictures of the split '{name}'" if name else "pictures of no split", "", pictures, failed=False)
    for key in taken:
        yield from _pairs(root, named[key], _prompts(root, key, named[key], listed))


def _pairs(root: Path, of: _Named, prompt: Callable[[Path], tuple[str, str]]) -> Iterator[PairItem]:
    pairs, winners, losers = _match(*of.pictures)
    for winner, loser in pairs:
        text, category = prompt(winner)
        where = plain_name(winner.relative_to(root))
        yield Preference(text, winner, loser, category, where) if text else LeftOut(NO_PROMPT, where)
    for lonely, side, other in ((winners, "winner", "loser"), (losers, "loser", "winner")):
        for picture in lonely:
            text, category = prompt(picture)
            reason = AMBIGUOUS if winners and losers else f"a {side} without a {other} of its name"
            yield NoPreference(text, reason, category, plain_name(picture.relative_to(root)))
    if not any(of.pictures):
        yield from (
            LeftOut("a caption without a picture", plain_name(each.relative_to(root)), failed=False)
            for each in of.captions
        )


def _match(winners: list[Path], losers: list[Path]) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Pair pictures of one name: those of the same ending first; return the pairs, and the others of either side."""
    pairs: list[tuple[Path, Path]] = []
    by: tuple[Callable[[Path], Any], ...] = (lambda p: p.name, lambda p: p.suffix.lower(), lambda p: None)
    for same in by:
        for winner in list(winners):
            these = [each for each in winners if same(each) == same(winner)]
            those = [each for each in losers if same(each) == same(winner)]
            if len(these) == len(those) == 1:
                pairs.append((winner, those[0]))
                winners = [each for each in winners if each != winner]
                losers = [each for each in losers if each != those[0]]
    return pairs, winners, losers


def _prompts(
    root: Path, key: tuple[Path, str], of: _Named, listed: dict[str, Listed]
) -> Callable[[Path], tuple[str, str]]:
    """Return what gives a picture's prompt and category: by its row, else by its name's, else by the text beside."""
    folder = PurePosixPath(plain_name(key[0].relative_to(root)))
    rows: dict[str, Listed] = {}
    for picture in (*of.pictures[0], *of.pictures[1]):
        whole = PurePosixPath(plain_name(picture.relative_to(root)))
        for name in (whole, stem_of(whole), folder / f"{key[1]}{picture.suffix}", folder / key[1]):
            if (row := listed.get(plain_name(name))) is not None:
                row.used = True
                rows.setdefault(plain_name(whole), row)

    def beside(picture: Path) -> str:
        # Of two pictures of one name, each may have a text by its whole name.
        own = [file for file in of.captions if file.stem == picture.name]
        return next((text for file in (*own, *of.captions) if (text := read_caption(file))), "")

    def prompt(picture: Path) -> tuple[str, str]:
        own = rows.get(plain_name(picture.relative_to(root)))
        row = own or next(iter(rows.values()), None)
        return (row.prompt, row.category) if row else (beside(picture), UNCATEGORISED)

    return prompt


def _unused(file: Path, root: Path) -> LeftOut:
    what = "a picture of neither side" if is_picture(file) else "neither picture nor prompt"
    return LeftOut(what, plain_name(file.relative_to(root)), failed=False)


def _sets(folder: Path, depth: int = 0) -> Iterator[tuple[Path, tuple[Path, Path]]]:
    """Yield each folder with one of winners and one of losers in it, and these two."""
    try:
        inside = sorted(each for each in folder.iterdir() if not is_hidden(each.name) and each.is_dir())
    except OSError:
        return
    by_name = {each.name.casefold(): each for each in reversed(inside)}
    winners, losers = ([by_name[name] for name in names if name in by_name] for names in zip(*SIDE_NAMES, strict=True))
    fitting = ((by_name[one], by_name[other]) for one, other in SIDE_NAMES if one in by_name and other in by_name)
    both = next(fitting, (winners[0], losers[0]) if winners and losers else None)
    if both is not None:
        yield folder, both
    if depth < DEEPEST:
        for each in inside:
            if both is None or each not in both:
                yield from _sets(each, depth + 1)

"""Two folders of images, winners and losers, paired by file name.

FOLDER/winner/cat.png  FOLDER/loser/cat.png   and the prompt in FOLDER/winner/cat.txt, or .caption, or in a row of
                                              FOLDER/metadata.csv or .jsonl (file_name, text, and perhaps category)

FOLDER may have several such pairs of folders in its subfolders. The folders of winners and losers may have subfolders.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from agfsync.formats import UNCATEGORISED, LeftOut, NoPreference, PairItem, Preference
from agfsync.formats.image_folder import (
    CAPTION_ENDINGS,
    METADATA_FILES,
    MetadataRow,
    index_metadata,
    is_image_name,
    plain_path,
    read_caption_file,
    strip_ending,
)
from agfsync.formats.paths import is_hidden, split_of, take_split, walk_files

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
"""Names of the two folders, in any case; two names of the same row take precedence over a mixture."""
NO_PROMPT = "no prompt: neither a .txt or .caption next to the image nor a row in metadata.csv or metadata.jsonl"
AMBIGUOUS = "several images of one name: which belong together can't be told"

_DEEPEST = 3
"""Largest number of folders between FOLDER and that of the winners."""


class Folders:
    """A folder with one or several pairs of such folders."""

    title = "folders of winners and losers"

    def recognises(self, path: Path) -> bool:
        """Return True for a folder that has a folder of winners and one of losers, also in a subfolder."""
        return path.is_dir() and next(_find_sides(path), None) is not None

    def pairs(self, path: Path, split: str = "") -> Iterator[PairItem]:
        """Yield the pairs of equal names, and the images, captions and rows without a pair."""
        sides = {side: (folder, number) for folder, both in _find_sides(path) for number, side in enumerate(both)}
        groups: dict[tuple[Path, str], _Group] = {}
        metadata: dict[str, MetadataRow] = {}
        for file in walk_files(path):
            side = next((parent for parent in file.parents if parent in sides), None)
            is_caption = file.suffix.lower() in CAPTION_ENDINGS
            if file.name.lower() in METADATA_FILES:
                yield from index_metadata(file, path, metadata)
            elif side is None or not (is_caption or is_image_name(file)):
                reason = "an image of neither side" if is_image_name(file) else "neither image nor prompt"
                yield LeftOut(reason, plain_path(file.relative_to(path)), failed=False)
            else:
                folder, number = sides[side]
                name = plain_path(strip_ending(PurePosixPath(file.relative_to(side).as_posix())))
                group = groups.setdefault((folder, name), _Group(path, folder, name))
                (group.captions if is_caption else group.images)[number].append(file)
        for group in groups.values():
            group.find_rows(metadata)
        yield from _pair_split(path, [groups[key] for key in sorted(groups)], split)
        unused = (row for row in metadata.values() if not row.used)
        yield from (LeftOut("a row on an image that isn't there", row.where) for row in unused)


@dataclass(slots=True)
class _Group:
    """The files of one name in a folder of winners and a folder of losers, winners first."""

    root: Path
    folder: Path
    name: str
    images: tuple[list[Path], list[Path]] = field(default_factory=lambda: ([], []))
    captions: tuple[list[Path], list[Path]] = field(default_factory=lambda: ([], []))
    rows: dict[Path, MetadataRow] = field(default_factory=dict)

    def place(self, file: Path) -> str:
        """Return the path of `file` in the source, for messages."""
        return plain_path(file.relative_to(self.root))

    def find_rows(self, metadata: dict[str, MetadataRow]) -> None:
        """Find the images' rows by the image's path or by its name in the folder, with or without ending."""
        folder = PurePosixPath(plain_path(self.folder.relative_to(self.root)))
        for image in (*self.images[0], *self.images[1]):
            path = PurePosixPath(self.place(image))
            for name in (path, strip_ending(path), folder / f"{self.name}{image.suffix}", folder / self.name):
                if (row := metadata.get(plain_path(name))) is not None:
                    row.used = True
                    self.rows.setdefault(image, row)

    def prompt(self, image: Path) -> tuple[str, str]:
        """Return an image's prompt and category from its row, or else another row of the group, or a caption file."""
        if row := self.rows.get(image) or next(iter(self.rows.values()), None):
            return row.prompt, row.category
        # The reversed order puts .txt before .caption.
        files = [*reversed(self.captions[0]), *self.captions[1]]
        # Two images of one name may each have a caption file by their full name, with ending.
        files.sort(key=lambda file: file.stem != image.name)
        return next((text for file in files if (text := read_caption_file(file))), ""), UNCATEGORISED

    def pairs(self) -> Iterator[PairItem]:
        """Yield the pairs, and the images and captions without a pair."""
        pairs, winners, losers = _match(*self.images)
        for winner, loser in pairs:
            text, category = self.prompt(winner)
            where = self.place(winner)
            yield Preference(text, winner, loser, category, where) if text else LeftOut(NO_PROMPT, where)
        for lonely, side, other in ((winners, "winner", "loser"), (losers, "loser", "winner")):
            for image in lonely:
                reason = AMBIGUOUS if winners and losers else f"a {side} without a {other} of its name"
                text, category = self.prompt(image)
                yield NoPreference(text, reason, category, self.place(image))
        if not any(self.images):
            for caption in (*self.captions[0], *self.captions[1]):
                yield LeftOut("a caption without an image", self.place(caption), failed=False)


def _pair_split(root: Path, groups: list[_Group], split: str) -> Iterator[PairItem]:
    """Yield the pairs of `split`, and count the images of other splits."""

    def split_name(group: _Group) -> str:
        return split_of((*group.folder.relative_to(root).parts, *group.name.split("/")[:-1], ""))

    taken, others = take_split(root, ((split_name(group), group) for group in groups), split)
    for name, rest in others.items():
        images = sum(len(each) for group in rest for each in group.images)
        yield LeftOut(f"images of the split '{name}'" if name else "images of no split", "", images, failed=False)
    for group in taken:
        yield from group.pairs()


def _match(winners: list[Path], losers: list[Path]) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Pair images of one name, those with equal endings first; return the pairs and the other images of each side."""
    pairs: list[tuple[Path, Path]] = []
    keys: tuple[Callable[[Path], Any], ...] = (lambda p: p.name, lambda p: p.suffix.lower(), lambda p: None)
    for key in keys:
        for winner in list(winners):
            these, those = ([each for each in side if key(each) == key(winner)] for side in (winners, losers))
            if len(these) == len(those) == 1:
                pairs.append((winner, those[0]))
                winners = [each for each in winners if each != winner]
                losers = [each for each in losers if each != those[0]]
    return pairs, winners, losers


def _find_sides(folder: Path, depth: int = 0) -> Iterator[tuple[Path, tuple[Path, Path]]]:
    """Yield each folder that has a folder of winners and one of losers, with these two."""
    try:
        inside = sorted(each for each in folder.iterdir() if not is_hidden(each.name) and each.is_dir())
    except OSError:
        return  # `walk_files` yields a folder that can't be read, so that it is counted as left out.
    by_name = {each.name.casefold(): each for each in reversed(inside)}
    winners, losers = ([by_name[name] for name in names if name in by_name] for names in zip(*SIDE_NAMES, strict=True))
    fitting = ((by_name[one], by_name[other]) for one, other in SIDE_NAMES if one in by_name and other in by_name)
    both = next(fitting, (winners[0], losers[0]) if winners and losers else None)
    if both is not None:
        yield folder, both
    if depth < _DEEPEST:
        for each in inside:
            if both is None or each not in both:
                yield from _find_sides(each, depth + 1)

"""A folder of pictures with a metadata file, as Hugging Face's image folders: its rows' texts are the prompts."""

from collections.abc import Iterator
from pathlib import Path

from agfsync.formats import LeftOut, Prompt, rows
from agfsync.formats.captioned import FILE_NAMES, METADATA, metadata_rows, prompt_of
from agfsync.formats.reading import Row, first_row, read_rows
from agfsync.formats.splits import split_of, take_split
from agfsync.formats.walking import walk_files


class ImageFolder:
    title = "a folder of pictures with their texts"

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and any(_is_ours(file) for file in _metadata(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield a prompt for each row; whether its picture is there doesn't matter."""
        files = ((split_of(file.relative_to(path).parts), file) for file in _metadata(path))
        taken, others = take_split(path, files, split)
        for name, rest in others.items():
            for file in rest:
                count = sum(1 for _ in metadata_rows(file))
                where = str(file.relative_to(path))
                yield LeftOut(f"of the split '{name}'" if name else "of no split", where, count, failed=False)
        for file in taken:
            yield from read_rows(metadata_rows(file), _read)


def _metadata(path: Path) -> Iterator[Path]:
    return (file for file in walk_files(path) if file.name.lower() in METADATA)


def _is_ours(file: Path) -> bool:
    row = first_row(metadata_rows(file))
    return rows.column(row) is not None and rows.column(row, FILE_NAMES) is not None


def _read(row: Row) -> list[Prompt]:
    return [Prompt(*prompt_of(row))]

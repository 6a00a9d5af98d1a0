"""A folder of images with metadata files, like Hugging Face's image folders; the texts of the rows are prompts.

The module `folders` also uses the functions for images, caption files and metadata.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, Prompt
from agfsync.formats.columns import column_names, column_rows
from agfsync.formats.paths import read_split, split_of, split_relative_name, walk_files
from agfsync.formats.reading import (
    Rows,
    UnusableRow,
    format_errors,
    open_text,
    peek_row,
    read_json_lines,
    read_rows,
    read_table,
    require_text,
)
from agfsync.formats.rows import find_column, parse_prompt
from agfsync.records import one_line

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTION_ENDINGS = {".txt", ".caption"}
_IMAGE_ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"),
    # Not supported: their images are paired too, and then left out with their kind as the reason.
    *(".avif", ".bmp", ".dds", ".exr", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm"),
    *(".psd", ".svg", ".tga", ".tif", ".tiff"),
}
_FILE_COLUMNS = ("file_name", "filename", "image", "path")


class ImageFolder:
    """A folder with a metadata file, or with one for each split."""

    title = "a folder of images with their texts"

    def recognises(self, path: Path) -> bool:
        """Return True for a folder with a metadata file of file names and texts."""
        for file in _metadata_files(path) if path.is_dir() else ():
            row = peek_row(_metadata_rows(file))
            if find_column(row) is not None and find_column(row, _FILE_COLUMNS) is not None:
                return True
        return False

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield a prompt for each row, even if its image doesn't exist."""
        files = ((split_of(file.relative_to(path).parts), file) for file in _metadata_files(path))
        return read_rows(read_split(path, files, split, _metadata_rows), lambda row: [Prompt(*parse_prompt(row))])


def _metadata_files(path: Path) -> Iterator[Path]:
    return (file for file in walk_files(path) if file.name.lower() in METADATA_FILES)


def _metadata_rows(file: Path) -> Rows:
    """Yield the rows of a metadata file.

    Raises:
        FormatError: the file is damaged.
    """
    if file.suffix.lower() == ".jsonl":
        return read_json_lines(file)
    if file.suffix.lower() == ".csv":
        return read_table(file)
    return column_rows(file, sorted(column_names(file)[0]) if column_names(file) else [])


@dataclass(slots=True)
class MetadataRow:
    """A row of a metadata file; `used` is True once its image is found."""

    prompt: str
    category: str
    where: str
    used: bool = False


def index_metadata(file: Path, root: Path, into: dict[str, MetadataRow]) -> Iterator[LeftOut]:
    """Add the rows of a metadata file to the mapping `into`, by the paths of their images; yield unusable rows."""
    folder = PurePosixPath(plain_path(file.parent.relative_to(root)))
    name = plain_path(file.relative_to(root))
    for row in _metadata_rows(file):
        if isinstance(row, LeftOut):
            yield LeftOut(row.reason, f"{name}: {row.where}", row.count, row.failed)
            continue
        try:
            parts = split_relative_name(require_text(row, find_column(row, _FILE_COLUMNS) or _FILE_COLUMNS[0]))
            found = MetadataRow(*parse_prompt(row), f"{name}: {row.where}")
            if into.setdefault(plain_path(folder.joinpath(*parts)), found) is not found:
                yield LeftOut("another row on an image", found.where, failed=False)
        except UnusableRow as failure:
            yield LeftOut(str(failure), f"{name}: {row.where}")


def plain_path(path: PurePosixPath | Path) -> str:
    """Return a path with slashes and composed letters (NFC), since systems spell the same name differently."""
    return unicodedata.normalize("NFC", path.as_posix())


def strip_ending(path: PurePosixPath) -> PurePosixPath:
    """Return `path` without the endings of images and captions; other dots are part of the name."""
    while path.suffix.lower() in _IMAGE_ENDINGS | CAPTION_ENDINGS:
        path = path.with_suffix("")
    return path


def is_image_name(path: Path) -> bool:
    """Return True if a file's name has the ending of an image of any kind."""
    return path.suffix.lower() in _IMAGE_ENDINGS


def read_caption_file(file: Path) -> str:
    """Return the text of a caption file on one line; empty if it can't be read."""
    try:
        with format_errors(file), open_text(file) as opened:
            return one_line(opened.read())
    except FormatError:
        return ""

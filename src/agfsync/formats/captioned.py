"""The prompts of pictures in folders: a text file beside each, or rows of a metadata file. No format of its own."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, rows
from agfsync.formats.columns import column_names, column_rows
from agfsync.formats.reading import Row, Rows, UnusableRow, format_errors, json_lines, label, open_text, table, text
from agfsync.formats.walking import split_name
from agfsync.records import one_line

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""What Hugging Face's image folders call it."""
CAPTION_ENDINGS = (".txt", ".caption")
PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp"}
OTHER_PICTURE_ENDINGS = {
    *(".avif", ".bmp", ".dds", ".exr", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".pbm", ".pgm", ".ppm"),
    *(".psd", ".svg", ".tga", ".tif", ".tiff"),
}
"""Endings of pictures that aren't read: they are paired all the same, and left out with their kind as the reason."""
FILE_NAMES = ("file_name", "filename", "image", "path")


@dataclass(slots=True)
class Listed:
    """A row of a metadata file; `used` once a picture was found to be the one that it names."""

    prompt: str
    category: str
    where: str
    used: bool = False


def plain_name(path: PurePosixPath | Path) -> str:
    """Return a path with slashes, and its letters composed: a name has them in two ways, by the system it is from."""
    return unicodedata.normalize("NFC", path.as_posix())


def stem_of(path: PurePosixPath) -> PurePosixPath:
    """Return `path` without the ending of a picture or caption; other dots belong to the name."""
    while path.suffix.lower() in PICTURE_ENDINGS | OTHER_PICTURE_ENDINGS | set(CAPTION_ENDINGS):
        path = path.with_suffix("")
    return path


def is_picture(path: Path) -> bool:
    """True if the name of a file is a picture's, of whatever kind."""
    return path.suffix.lower() in PICTURE_ENDINGS | OTHER_PICTURE_ENDINGS


def read_caption(file: Path) -> str:
    """Return the text beside a picture, on one line; empty where it can't be read."""
    try:
        with format_errors(file), open_text(file) as opened:
            return one_line(opened.read())
    except FormatError:
        return ""


def metadata_rows(file: Path) -> Rows:
    """Yield the rows of a metadata file.

    Raises:
        FormatError: it is damaged.
    """
    if file.suffix.lower() == ".jsonl":
        return json_lines(file)
    if file.suffix.lower() == ".csv":
        return table(file)
    return column_rows(file, sorted(column_names(file)[0]) if column_names(file) else [])


def prompt_of(row: Row) -> tuple[str, str]:
    """Return a row's prompt and category.

    Raises:
        UnusableRow: it has none.
    """
    return text(row, rows.column(row) or "text"), label(row, rows.column(row, ("category",)))


def list_prompts(file: Path, root: Path, into: dict[str, Listed]) -> Iterator[LeftOut]:
    """Enter the rows of a metadata file by the names of their pictures below `root`; yield those that name none."""
    folder = PurePosixPath(plain_name(file.parent.relative_to(root)))
    name = plain_name(file.relative_to(root))
    for row in metadata_rows(file):
        if isinstance(row, LeftOut):
            yield LeftOut(row.reason, f"{name}: {row.where}", row.count, row.failed)
            continue
        try:
            named = split_name(text(row, rows.column(row, FILE_NAMES) or FILE_NAMES[0]))
            picture = plain_name(folder.joinpath(*named))
            found = Listed(*prompt_of(row), f"{name}: {row.where}")
            if into.setdefault(picture, found) is not found:
                yield LeftOut("another row on a picture", found.where, failed=False)
        except UnusableRow as failure:
            yield LeftOut(str(failure), f"{name}: {row.where}")

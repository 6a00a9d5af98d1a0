import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agfsync.errors import FormatError
from agfsync.formats import Format, PairSet, PromptFile
from agfsync.formats.near_misses import explain_unknown
from agfsync.formats.sources import recognise_format


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive_:
        archive_.writestr("a", "b")
    return file.getvalue()


FILES = {
    "a.csv": [
        (b"", "it is empty"),
        (b"a,b\n1,2\n", "its columns are a, b: prompts are looked for under prompt, prompts, caption,"),
        ("prompt\ncaf\u00e9\n".encode("latin-1") * 9, ""),
        (
            "Größe,Wert\n1,2".encode("latin-1"),
            "it isn't UTF-8 text, but likely Windows-1252 or Latin-1: save it as UTF-8",
        ),
        ("prompt\na\n".encode("utf-16-le"), "it is likely UTF-16 (little-endian) without a byte order mark"),
        (b"\x89PNG\r\n", "it is an image"),
    ],
    "a.json": [
        (b'{"prompts": ["a"], "n": 1}', "it is a JSON object with n, prompts, and no list"),
        (b"[1, 2]", "its list holds numbers, no texts or objects"),
        (b"[]", "its list is empty"),
        (b"[", "it isn't JSON, or is cut short"),
        (b'[{"loss": 1}]', "its columns are loss"),
        (b"3", "it holds numbers, and no list"),
    ],
    "a.jsonl": [
        (b'{"loss": 1}\n', "its columns are loss"),
        (b"hello\n", "its beginning isn't JSON"),
        (gzip.compress(b"{}", mtime=0), "it is compressed (gzip): unpack it"),
        (b"\x28\xb5\x2f\xfd1234", "it is compressed (Zstandard): unpack it"),
        (lzma.compress(b"{}"), "it is compressed (xz): unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer: fetch the file itself"),
    ],
    "a.jsonl.gz": [(gzip.compress(b"{}", mtime=0), "it is compressed (gzip): unpack it")],
    "a.xlsx": [(archive(), "it is an Excel workbook: save it as CSV (UTF-8)")],
    "a.zip": [(archive(), "it is a ZIP archive: unpack it, and name the folder")],
    "a.tar": [(tar(), "it is a TAR archive: unpack it, and name the folder")],
    "a.pkl": [(b"\x80\x04\x95abc", "it is a pickle, which is never opened")],
    "a.md": [(b"a cat", "'.md' is no ending of a known format: call plain text, a prompt a line, .txt")],
    "prompts": [(b"a cat", "its name has no ending: call plain text")],
    "a.html": [(b"<!DOCTYPE html><html>", "it is a web page")],
    "a.bin": [(b"PAR1....", "it is a Parquet or Arrow file without their ending")],
    "a.parquet": [
        (b"", "it is empty"),
        (b"prompt,category\n", "it is no Parquet file, or damaged"),
        (b"../../../blobs/b1", "it is a link that was copied as a file: copy the folder with its links"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
    ],
    "a.arrow": [(b"nothing", "it is no Arrow file, or damaged")],
}


@pytest.mark.parametrize(("name", "data", "says"), [(name, *each) for name, of in FILES.items() for each in of])
def test_the_likeliest_reason_is_reported(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    if not says:
        return
    with pytest.raises(FormatError) as failure:
        recognise_format(path, Format)
    assert f"in no known format: {says}" in str(failure.value) and "; known are pick-a-pic" in str(failure.value)


def test_of_a_folder_too(tmp_path: Path) -> None:
    def reason() -> str:
        with pytest.raises(FormatError) as failure:
            recognise_format(tmp_path, Format)
        return str(failure.value).partition("in no known format: ")[2].partition("; known are")[0]

    assert reason() == "it is empty"
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert reason() == "it holds nothing but hidden files, such as .DS_Store"
    (tmp_path / "b.png").write_bytes(b"x")
    assert reason().startswith("it holds images (1), and no folders winner and loser")
    (tmp_path / "Winners").mkdir()
    assert reason() == "it has a folder Winners, and none called loser"
    pq.write_table(pa.table({"loss": [1.0]}), tmp_path / "a.parquet")
    assert reason().startswith("a.parquet: its columns are loss: prompts are looked for")
    (tmp_path / "c.txt").write_text("a cat")
    assert reason() == "name one of its files, such as c.txt"


def test_what_holds_the_other_kind_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(FormatError, match="holds pairs in no known format: it is plain text, .*, for captions.source"):
        recognise_format(tmp_path / "a.txt", PairSet)
    (tmp_path / "b.json").write_text(json.dumps([{"prompt": "a", "image_path": [], "rank": []}]))
    (tmp_path / "c").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="c: a link to nothing"):
        recognise_format(tmp_path / "c", PromptFile)


@given(name=st.sampled_from(sorted(FILES)), data=st.binary(max_size=200))
def test_any_bytes_have_a_reason_and_no_crash(name: str, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    assert "\n" not in explain_unknown(path)

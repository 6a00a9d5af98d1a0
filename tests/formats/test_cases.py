"""Inputs modelled on public reports about other tools, if they lie next to the checkout."""

import os
import shutil
from pathlib import Path

import pytest

from agfsync.commands.inspect import inspect_path
from agfsync.formats.sources import SourceCaptions

CASES = Path(__file__).parents[3] / "shared" / "cases"
NOT_TEXT = "no text under 'caption'"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}: these inputs aren't part of this project")

PAIRS = {
    "F1-same-stem": (2, 0, 0),
    "F1b-dots": (3, 0, 0),
    "F2-nested": (5, 0, 0),
    "F2b-nested-only": (1, 0, 0),
    "F3-metadata-jsonl": (2, 0, 0),
    "F3b-caption-files": (2, 0, 0),
    "F3c-w-l": (1, 0, 0),
    "F3c-w-l/1_name": (1, 0, 0),
    "F4-bmp": (1, 0, 3),
    "P2-splits": (2, 0, 2),
    "P3-empty-caption": (2, 0, 1),
    "P3b-blank-caption": (2, 0, 1),
    "P4-ties": (2, 1, 2),
    "P5-save-to-disk": (2, 0, 0),
    "P8-hpd-ranks": (2, 1, 0),
    "P8b-hpd-v1": (2, 0, 0),
    "P9-base64": (1, 0, 0),
    "P10-paths": (1, 0, 0),
    "P11-raters": (1, 0, 3),
    "P12-prompt-spelling": (3, 0, 0),
}
"""pairs, ties, left out"""
PROMPTS = {
    "T1-scripts/prompts.txt": 11,
    "T2-encodings/UPPER.TXT": 2,
    "T2-encodings/blank-rows.csv": 2,
    "T2-encodings/bom-crlf.csv": 2,
    "T2-encodings/list.json": 2,
    "T2-encodings/nul.txt": 2,
    "T2-encodings/null.parquet": 2,
    "T2-encodings/old-mac.txt": 2,
    "T2-encodings/semicolons.csv": 2,
    "T2-encodings/separators.txt": 2,
    "T2-encodings/stray-quote.csv": 2,
    "T2-encodings/strings.json": 2,
    "T2-encodings/utf16.csv": 2,
    "T2-encodings/utf16.txt": 2,
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_read_and_the_rest_is_counted(name: str) -> None:
    found = inspect_path(CASES / name)
    assert (found.pairs, found.ties, found.left_out.total()) == PAIRS[name]


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_read(name: str) -> None:
    assert inspect_path(CASES / name).captions == PROMPTS[name]
    assert SourceCaptions(str(CASES / name)).rows >= PROMPTS[name]


@pytest.mark.parametrize(("name", "pairs"), [("P6-hub-cache", 1), ("P6b-hub-cache-parquet", 2)])
def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path: Path, name: str, pairs: int) -> None:
    root = tmp_path / name
    shutil.copytree(CASES / name, root, symlinks=True, copy_function=shutil.copyfile)
    for folder, _, files in os.walk(root / next(os.scandir(root)).name / "snapshots"):
        os.chmod(folder, 0o755)
        for file in (Path(folder, each) for each in files):
            if not file.is_symlink():  # A link that was lost on the way here.
                target = file.read_text()
                file.unlink()
                file.symlink_to(target)
    (snapshot,) = root.glob("*/snapshots/*")
    assert inspect_path(snapshot).pairs == inspect_path(root).pairs == pairs


def test_the_row_that_is_left_out_is_reported_by_its_number() -> None:
    found = inspect_path(CASES / "P3-empty-caption")
    assert found.left_out == {NOT_TEXT: 1} and found.left_out_at[NOT_TEXT][0].endswith("row 2")
    found = inspect_path(CASES / "T2-encodings" / "null.parquet")
    assert found.left_out_at == {"no text under 'Prompt'": ["row 2"]}


def test_four_judgements_of_two_images_are_one_pair() -> None:
    found = inspect_path(CASES / "P11-raters")
    assert (found.pairs, found.judgements) == (1, 4)

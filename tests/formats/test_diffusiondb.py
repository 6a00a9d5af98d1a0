from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agfsync.formats import LeftOut, Prompt, PromptFile
from agfsync.formats.diffusiondb import DiffusionDB
from agfsync.formats.sources import SourceCaptions, recognise_format

COLUMNS = {
    "image_name": ["a.png", "b.png", "c.png", "d.png", "e.png"],
    "prompt": ["a castle", "a castle", "gore", "A Fox,\nred", ""],
    "part_id": [1] * 5,
    "seed": [7, 8, 9, 10, 11],
    "step": [50] * 5,
    "cfg": [7.0] * 5,
    "sampler": [8] * 5,
    "width": [512] * 5,
    "height": [512] * 5,
    "user_name": ["u"] * 5,
    "timestamp": ["2022-08-20"] * 5,
    "image_nsfw": [0.1, 2.0, 0.1, 0.1, 0.1],
    "prompt_nsfw": [0.0, 0.0, 0.51, 0.5, None],
}


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    pq.write_table(pa.table(COLUMNS), tmp_path / "metadata.parquet")
    return tmp_path / "metadata.parquet"


def test_each_image_gives_its_prompt_and_unsafe_ones_are_counted(metadata: Path) -> None:
    assert isinstance(recognise_format(metadata, PromptFile), DiffusionDB)
    assert isinstance(recognise_format(metadata.parent, PromptFile), DiffusionDB)
    assert list(DiffusionDB().prompts(metadata)) == [
        Prompt("a castle"),
        Prompt("a castle"),
        LeftOut("prompt_nsfw above 0.5", "row 3", failed=False),
        Prompt("A Fox, red"),
        LeftOut("no text under 'prompt'", "row 5"),
    ]


def test_a_prompt_that_was_drawn_several_times_is_one_caption(metadata: Path) -> None:
    prompts = SourceCaptions(str(metadata))
    assert prompts.captions("uncategorised", 9, (), 0) == ["a castle", "A Fox, red"]
    assert prompts.left_out.counts == {"repeated": 1, "prompt_nsfw above 0.5": 1, "no text under 'prompt'": 1}
    assert prompts.left_out.failed == {"no text under 'prompt'": 1}

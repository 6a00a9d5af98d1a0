import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agfsync.formats import Prompt
from agfsync.formats.geneval import GenEval


def test_the_tag_is_the_category(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    row = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "prompt": "a photo of two cats"}
    file.write_text(json.dumps(row))
    assert GenEval().recognises(file)
    assert list(GenEval().prompts(file)) == [Prompt("a photo of two cats", "counting")]


def test_the_real_file_is_all_there(real: Callable[[str], Path]) -> None:
    file = real("geneval_evaluation_metadata.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = list(GenEval().prompts(file))
    assert GenEval().recognises(file)
    assert [p.text for p in found] == [row["prompt"] for row in rows] and len(found) == 553
    assert Counter(p.category for p in found) == Counter(row["tag"] for row in rows)

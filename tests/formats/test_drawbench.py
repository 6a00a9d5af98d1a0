from pathlib import Path

from agfsync.formats import Prompt
from agfsync.formats.drawbench import DrawBench


def test_a_row_is_a_prompt_with_its_category(tmp_path: Path) -> None:
    file = tmp_path / "drawbench.csv"
    file.write_text('Prompts,Category\n"A red car, parked.",Colors\nTwo cats.,Counting\n')
    assert DrawBench().recognises(file)
    assert list(DrawBench().prompts(file)) == [Prompt("A red car, parked.", "Colors"), Prompt("Two cats.", "Counting")]

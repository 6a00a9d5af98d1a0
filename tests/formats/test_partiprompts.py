from pathlib import Path

from agfsync.formats import Prompt
from agfsync.formats.partiprompts import PartiPrompts


def test_a_row_is_a_prompt_and_a_stray_quotation_mark_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "PartiPrompts.tsv"
    file.write_text('Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tB\na 12" disc\tArtifacts\tBasic\t\n')
    assert PartiPrompts().recognises(file)
    assert list(PartiPrompts().prompts(file)) == [Prompt("bond", "Abstract"), Prompt('a 12" disc', "Artifacts")]

import json
from pathlib import Path

from agfsync.formats import LeftOut, SourceQuestion
from agfsync.formats.geneval2 import GenEval2

ROW = {
    "prompt": "two metal toys",
    "atom_count": 3,
    "vqa_list": [["How many toys are in the image?", "two"], ["Are the toys metal?", "Yes"]],
    "skills": ["count", "attribute"],
}


def test_each_atom_is_a_question_with_its_skill_and_the_category_their_number(tmp_path: Path) -> None:
    file = tmp_path / "geneval2_data.jsonl"
    file.write_text("\n".join(map(json.dumps, (ROW, ROW | {"prompt": "a", "skills": ["count"]}))))
    assert GenEval2().recognises(file)
    toys, short = GenEval2().prompts(file)
    assert (toys.text, toys.category) == ("two metal toys", "3 atoms")
    assert toys.questions == (
        SourceQuestion("How many toys are in the image?", "two", "", "counting", label="count"),
        SourceQuestion("Are the toys metal?", "yes", "", "attribute", label="attribute"),
    )
    assert short == LeftOut("no list of the right length under 'skills'", "line 2")


def test_an_atom_that_is_no_pair_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "geneval2_data.jsonl"
    file.write_text(json.dumps(ROW | {"vqa_list": ["Are the toys metal?", ["Are they toys?", "Yes"]]}))
    (toys,) = GenEval2().prompts(file)
    assert toys.left_out == {"not a question with its answer": 1} and len(toys.questions) == 1

from pathlib import Path

from agfsync.formats import SourceQuestion
from agfsync.formats.dsg import DSG

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)
ROWS = """
whoops_12,A red cube on ice,k,1,0,entity,whole,entity - whole (cube),Is there a cube?
whoops_12,A red cube on ice,k,2,1,attribute,color,"attribute - color (cube, red)",Is the cube red?
whoops_12,A red cube on ice,k,3,"1,2",relation,spatial,"relation - spatial (cube, ice, on)",Is the cube on ice?
whoops_12,A red cube on ice,k,4,1,attribute,state,"attribute - state (cube, cold)",Is the cube cold?
vrd_3,Art,k,1,0,global,,global - (art),Is this art?
"""


def test_each_proposition_is_a_question_answered_with_yes(tmp_path: Path) -> None:
    file = tmp_path / "dsg-1k-anns.csv"
    file.write_text(HEADER + ROWS)
    assert DSG().recognises(file)
    cube, art = DSG().prompts(file)
    assert (cube.text, cube.category, art.category) == ("A red cube on ice", "whoops", "vrd")
    assert cube.questions == (
        SourceQuestion("Is there a cube?", "yes", "cube", "object", label="entity - whole"),
        SourceQuestion("Is the cube red?", "yes", "cube", "color", ("Is there a cube?",), label="attribute - color"),
        SourceQuestion(
            "Is the cube on ice?",
            "yes",
            "cube",
            "spatial",
            ("Is there a cube?", "Is the cube red?"),
            label="relation - spatial",
        ),
        SourceQuestion(
            "Is the cube cold?", "yes", "cube", "attribute", ("Is there a cube?",), label="attribute - state"
        ),
    )
    assert art.questions == (SourceQuestion("Is this art?", "yes", "art", "other", label="global -"),)


def test_dpg_bench_names_some_prompts_by_numbers_alone(tmp_path: Path) -> None:
    file = tmp_path / "dpg_bench.csv"
    rows = (
        f"{name},{name} cubes,k,1,0,entity,whole,entity - whole (cubes),Are there cubes?"
        for name in ("7", "COCOval20140")
    )
    file.write_text("\n".join([HEADER, *rows]))
    assert [each.category for each in DSG().prompts(file)] == ["uncategorised", "COCOval"]

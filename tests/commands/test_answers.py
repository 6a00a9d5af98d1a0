"""`agfsync judge` on tables of answers, and on a run against its oracle."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from agfsync.cli import main
from agfsync.commands.answers import AnswerRecord, QuestionsOnImage, judge_answers
from agfsync.commands.judge import read_scorers
from agfsync.engine.progress import SilentProgress
from agfsync.errors import FormatError, RecipeError
from agfsync.files.images import encode_png
from agfsync.records import Answer, Candidate, Caption, Question
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.scene import Scene, Thing
from agfsync.store import Run

STAR = Thing("star", "red", "large", "striped", 24.0, 32.0, 10.6)


def write_table(folder: Path, *rows: tuple[str, str, str]) -> Path:
    draw_scene(Scene((STAR,), "cream")).save(folder / "star.png")
    lines = [{"image": image, "question": question, "answer": answer} for image, question, answer in rows]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "answers.jsonl"


def question(key: str) -> Question:
    return Question(key, "c", f"{key}?", "yes", "", "color")


class Yea:
    """A judge that says yes to everything, and nothing of green images."""

    asks_questions = True

    def score(self, items: list[Item]) -> list[Measurement | Unscored]:
        answers = [tuple(Answer(q.key, "yes", 0.9) for q in item.questions) for item in items]
        green = [item.image.getpixel((0, 0)) == (0, 255, 0) for item in items]
        return [Unscored("green") if g else Measurement(50, a) for a, g in zip(answers, green, strict=True)]


def test_a_planted_bias_to_yes_is_found() -> None:
    images = []
    for n in range(10):
        file = encode_png(Image.new("RGB", (4, 4), (0, 255, 0) if n == 9 else (n, 0, 0)))
        truths = {"a": True, "not a": False, "b": False, "not b": False}
        couples = tuple((question(key), question(f"not {key}")) for key in "ab")
        images.append(QuestionsOnImage(str(n), file, "", couples, truths))
    record = AnswerRecord("yea", Yea())
    record.add(images)
    found = record.summarise()
    assert record.reasons == {"green": 1}
    # The opposite of b isn't true either, so these two are no couple.
    assert (found["questions"], found["opposite"]["couples"]) == (18, 9)
    assert (found["right"], found["yes_where_no"], found["no_where_yes"]) == (0.5, 1.0, 0.0)
    assert (found["opposite"]["both_yes"], found["opposite"]["bias"], found["opposite"]["low"]) == (1, 1, 1)
    assert found["ece"] == pytest.approx(0.4)


def test_a_table_is_judged_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("star.png", "Is there a star?", "yes"), ("star.png", "Is the star blue?", "no")]
    file = write_table(tmp_path, *rows, ("gone.png", "Is there a star?", "yes"))
    assert main(["judge", str(file), "--scorer", "vqa=vqa:embedded:vqa", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["answers"]["vqa"]["questions"] == 2 and plain["answers"]["vqa"]["right"] == 1
    assert plain["answers"]["vqa"]["opposite"]["couples"] == 2
    assert plain["left_out"] == {"missing image: No such file or directory": 1}
    assert main(["judge", str(file), "--scorer", "vqa=vqa:embedded:vqa", "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "right 100.0 %, yes where the truth is no 0.0 %, no where it is yes 0.0 %" in out
    assert "calibration error" in out and "2 questions asked the other way round" in out


def test_a_run_is_judged_against_its_oracle(tmp_path: Path) -> None:
    texts = ["Is the star red?", "Is the star large?", "Is the background black?"]
    recipe = {"scorers": {"vqa": {"type": "vqa", "path": "embedded:vqa"}, "oracle": {"type": "shapes-oracle"}}}
    recipe |= {"pairs": {"choose": {"weights": {"vqa": 1.0}}}}
    with Run.create(tmp_path / "run", yaml.safe_dump(recipe)) as run:
        file = encode_png(draw_scene(Scene((STAR,), "cream")))
        tables: dict[str, list[Any]] = {
            "captions": [Caption("c", "a red star", "things", "train")],
            "questions": [Question(f"q{n}", "c", text, "yes", "", "color") for n, text in enumerate(texts)],
            "candidates": [Candidate(str(n), "c", n, n, "base", file) for n in range(3)],
        }
        for table, rows in tables.items():
            run.commit(table, {"unit": rows}, type(rows[0]).schema)
            run.select(table, ["unit"])
    scorers = read_scorers(tmp_path / "run", [], None)
    found = judge_answers(tmp_path / "run", scorers, SilentProgress(), limit=2).answers
    assert list(found) == ["vqa"] and (found["vqa"]["questions"], found["vqa"]["images"]) == (6, 2)
    # The background is neither black nor, as its opposite asks, white: no couple.
    assert found["vqa"]["opposite"]["couples"] == 4
    # A judge that is named takes the place of the recipe's judges, not of the truth.
    named = read_scorers(tmp_path / "run", ["vqa=vqa:embedded:vqa"], None)
    assert judge_answers(tmp_path / "run", named, SilentProgress(), limit=2).answers == found
    recipe["scorers"].pop("oracle")
    Run.create(tmp_path / "blind", yaml.safe_dump(recipe)).close()
    with pytest.raises(RecipeError, match="none of its recipe's scorers knows the true answers"):
        judge_answers(tmp_path / "blind", named, SilentProgress())


def test_what_cannot_be_judged_is_refused_in_a_line(tmp_path: Path) -> None:
    file = write_table(tmp_path, ("gone.png", "Is there a star?", "yes"))
    with pytest.raises(RecipeError, match="none of clip answers questions: name one, as vqa="):
        judge_answers(file, read_scorers(file, ["clip=clip:embedded:clip"], None), SilentProgress())
    with pytest.raises(FormatError, match="no question can be asked: missing image"):
        judge_answers(file, read_scorers(file, ["vqa=vqa:embedded:vqa"], None), SilentProgress())

from typing import Any

import pytest

from agfsync.chat.meter import TokenCount
from agfsync.errors import RecipeError
from agfsync.recipe import Captions, LanguageModel, Questions
from agfsync.stages import writing
from agfsync.stages.context import Context
from agfsync.store.spending import SPENDING, read_spending

MODEL = LanguageModel(type="openai", path="fake")


@pytest.mark.parametrize(
    ("stage", "settings", "says"),
    [
        ("questions", Questions(verify=True), "questions.verify: writer 'shapes' can't verify questions"),
    ],
)
def test_a_writer_that_does_not_fit_its_settings_is_told(stage: str, settings: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        writing.digest_writer(stage, settings)


def test_what_names_a_writer_follows_what_shapes_its_texts_and_nothing_else() -> None:
    def source(**changes: Any) -> str:
        return writing.digest_writer("captions", Captions(writer=MODEL.model_copy(update=changes)))

    assert source() == source(timeout=3.0, retries=1, concurrency=2, base_url="http://other/v1")
    assert len({source(), source(path="b"), source(temperature=0.2)}) == 3


def test_what_was_spent_is_entered_however_the_work_ends(context: Context) -> None:
    settings = Captions(writer=MODEL)
    for cost in (7, 14):
        with pytest.raises(KeyboardInterrupt), writing.open_writer(context, "captions", settings) as session:
            with session.account.meter.request(TokenCount(10, 10)) as count:
                count(TokenCount(4, 3))
            raise KeyboardInterrupt
        entered = read_spending(context.run.path).get("captions", {})
        assert entered["input_tokens"] + entered["output_tokens"] == cost


def test_a_writer_that_costs_nothing_enters_nothing(context: Context) -> None:
    with writing.open_writer(context, "captions", Captions()) as session:
        session.account.note()
        assert session.account.to_notes() == {}
    assert not (context.run.path / SPENDING).exists()

import yaml

from agfsync.formats import Dataset
from agfsync.formats.card import Statistics, card


def counted(dataset: Dataset) -> Statistics:
    statistics = Statistics()
    for caption in dataset.captions:
        statistics.counted(caption)
    for question in dataset.questions:
        statistics.asked(question)
    return statistics


def test_the_figures_are_those_of_the_papers_tables(dataset: Dataset) -> None:
    statistics = counted(dataset)
    assert statistics.totals() == {
        "captions": "6",
        "questions": "4",
        "questions per caption": "0.67",
        "words per caption": "2.00",
        "elements per caption": "0.33",
        "words per question": "3.25",
    }
    assert statistics.element_types == {"object": 3, "color": 1}
    assert statistics.categories == {"even": 3, "odd": 3}


def test_nothing_is_counted_of_nothing() -> None:
    assert Statistics().totals()["questions per caption"] == "none"


def test_the_card_names_its_subsets_and_escapes_what_it_is_given(dataset: Dataset) -> None:
    statistics = counted(dataset)
    statistics.categories["a | <b>\n"] += 1
    text = card(dataset, statistics, 1234)
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert [each["config_name"] for each in metadata["configs"]] == ["pairs", "captions", "questions"]
    assert metadata["size_categories"] == ["1K<n<10K"]
    assert "| pairs | 1,234 |" in body and "| color | 1 |" in body and "| pictures | a model |" in body
    assert "| a \\| &lt;b> | 1 |" in body

from pathlib import Path

import datasets
import pytest
import yaml

from agfsync.formats import Dataset, Preference
from agfsync.formats.huggingface import SUBSETS, DatasetStatistics, HuggingFace, render_dataset_card


@pytest.fixture
def folder(tmp_path: Path, dataset: Dataset) -> Path:
    assert HuggingFace().write(dataset, tmp_path / "made") == {"pairs": 5, "ties": 1}
    return tmp_path / "made"


def test_its_subsets_load_by_name_the_pairs_by_default(folder: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    assert datasets.get_dataset_config_names(str(folder)) == list(SUBSETS)
    rows = {name: datasets.load_dataset(str(folder), name, cache_dir=cache)["train"] for name in SUBSETS}
    assert {name: len(of) for name, of in rows.items()} == {"pairs": 5, "captions": 6, "questions": 4}
    assert rows["pairs"][0]["chosen"].getpixel((0, 0)) == (255, 0, 0)
    assert rows["pairs"][0]["margin"] == rows["pairs"][0]["chosen_score"] - rows["pairs"][0]["rejected_score"] == 30.0
    assert rows["captions"][0]["text"] == "prompt 0" and rows["questions"][0]["answer"] == "yes"
    assert datasets.load_dataset(str(folder), cache_dir=cache)["train"].column_names == rows["pairs"].column_names


def test_pairs_captions_and_questions_are_read_again(folder: Path) -> None:
    assert HuggingFace().recognises(folder)
    assert all(isinstance(each, Preference) for each in HuggingFace().pairs(folder))
    prompts = list(HuggingFace().prompts(folder))
    assert [(p.text, len(p.questions)) for p in prompts[:3]] == [("prompt 0", 3), ("prompt 1", 1), ("prompt 2", 0)]


def test_a_folder_without_one_of_the_three_is_none(tmp_path: Path) -> None:
    assert not HuggingFace().recognises(tmp_path)


def counted(dataset: Dataset) -> DatasetStatistics:
    statistics = DatasetStatistics()
    for caption in dataset.captions:
        statistics.count_caption(caption)
    for question in dataset.questions:
        statistics.count_question(question)
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
    assert DatasetStatistics().totals()["questions per caption"] == "none"


def test_the_card_names_its_subsets_and_escapes_what_it_is_given(dataset: Dataset) -> None:
    statistics = counted(dataset)
    statistics.categories["a | <b>\n"] += 1
    text = render_dataset_card(dataset, statistics, 1234)
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert [each["config_name"] for each in metadata["configs"]] == ["pairs", "captions", "questions"]
    assert metadata["size_categories"] == ["1K<n<10K"]
    assert "| pairs | 1,234 |" in body and "| color | 1 |" in body and "| images | a model |" in body
    assert "| a \\| &lt;b> | 1 |" in body

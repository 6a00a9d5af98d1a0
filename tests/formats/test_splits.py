from pathlib import Path

import pytest

from agfsync.errors import FormatError
from agfsync.formats.splits import split_of, take_split


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/validation_unique-00000-of-00001.parquet", "validation_unique"),
        ("data/train_sft-00000-of-00001.parquet", "train_sft"),
        ("data/gold-00000-of-00001.parquet", "gold"),
        ("data/data-00000-of-00001.arrow", ""),
        ("pick_a_pic-test-00000-of-00003.arrow", "test"),
        ("train.parquet", "train"),
        ("train-1.parquet", "train"),
        ("my_train_file.parquet", "train"),
        ("dev.csv", "validation"),
        ("val/0000.parquet", "validation"),
        ("default/partial-train/0000.parquet", "train"),
        ("training/shard/a.parquet", "train"),
        ("test/train_like.parquet", "test"),
        ("eval1.parquet", "test"),
        ("00000.parquet", ""),
        ("contest.parquet", ""),
        ("trains.parquet", ""),
    ],
)
def test_the_split_is_told_by_hugging_faces_names(path: str, split: str) -> None:
    assert split_of(path.split("/")) == split


@pytest.mark.parametrize(
    ("there", "asked", "taken"),
    [
        (["train", "test", ""], "", ["train"]),
        (["", ""], "", ["", ""]),
        (["test"], "", ["test"]),
        (["", "test"], "", [""]),
        (["train_sft", "test"], "", ["train_sft"]),
        (["train", "train_sft"], "", ["train"]),
        (["train", "test", ""], "all", ["train", "test", ""]),
        (["train", "validation_unique"], "validation", ["validation_unique"]),
        (["validation", "validation_unique"], "validation", ["validation"]),
        (["train", "test"], "test", ["test"]),
    ],
)
def test_the_train_split_is_taken_or_the_one_that_is_asked_for(there: list[str], asked: str, taken: list[str]) -> None:
    found, others = take_split(Path("x"), [(name, name) for name in there], asked)
    assert found == taken and sum(map(len, others.values())) == len(there) - len(taken)


@pytest.mark.parametrize(
    ("there", "asked", "says"),
    [
        (["validation", "test"], "", "x: has the splits validation, test, none called train: choose one of them"),
        (["train_a", "train_b"], "", "has the splits train_a, train_b, none called train"),
        (["train", "test"], "dev", "no split 'dev'"),
        (["", ""], "test", "has no splits that its names tell, no split 'test'"),
        (["validation_a", "validation_b"], "validation", "no split 'validation'"),
    ],
)
def test_a_split_that_is_not_there_or_not_clear_is_told(there: list[str], asked: str, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        take_split(Path("x"), [(name, name) for name in there], asked)

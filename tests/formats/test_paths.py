from pathlib import Path

import pytest

from agfsync.errors import FormatError
from agfsync.formats.paths import locate_image, split_of, take_split, walk_files
from agfsync.formats.reading import UnusableRow


def names(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in walk_files(folder)]


def put(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_files_come_in_order_of_name_and_those_of_systems_not_at_all(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a/c.PNG", "a/b.png", ".DS_Store", "a/._b.png", "__MACOSX/b.png", "Thumbs.db", "desktop.ini")
    put(tmp_path, ".ipynb_checkpoints/b.png", "@eaDir/b.png", "a/.hidden/b.png")
    assert names(tmp_path) == ["a/b.png", "a/c.PNG", "b.png"]


def test_links_are_followed_but_not_to_a_folder_above(tmp_path: Path) -> None:
    put(tmp_path, "far/x.png", "far/deep/y.png", "here/a.png")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "here" / "up").symlink_to(tmp_path / "here")
    (tmp_path / "far" / "deep" / "round").symlink_to(tmp_path / "far")
    (tmp_path / "here" / "nothing.png").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path / "here") == ["a.png", "link/deep/y.png", "link/x.png", "nothing.png"]


def test_a_name_is_found_as_it_is_written_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    put(tmp_path, "one/a.png", "two/a.png", "two/b/c.png", "two/d\\e.png")
    one, two = tmp_path / "one", tmp_path / "two"
    assert locate_image("a.png", one, two) == one / "a.png" and locate_image("./a.png", two, one) == two / "a.png"
    assert (
        locate_image("b\\c.png", one, two)
        == locate_image("b//c.png", one, two)
        == locate_image("x/../b/c.png", one, two)
    )
    # Unpacked where a backslash is a character like any other.
    assert locate_image("d\\e.png", one, two) == two / "d\\e.png"
    assert locate_image("none.png", one, two) == one / "none.png"
    assert locate_image("x" * 5000, one) == one / ("x" * 5000)


def test_a_link_may_lead_out_of_the_folder_and_a_name_may_not(tmp_path: Path) -> None:
    put(tmp_path, "secret.png", "in/a.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    assert locate_image("link.png", tmp_path / "in") == tmp_path / "in" / "link.png"
    # Through a link, the system would go up from where it leads.
    assert locate_image("out/../secret.png", tmp_path / "in") == tmp_path / "in" / "secret.png"
    for name in ("../secret.png", "/etc/passwd", "a/../../b.png", "..\\b.png", "C:\\b.png", "\\\\server\\b.png", "."):
        with pytest.raises(UnusableRow, match="an image outside of its folder"):
            locate_image(name, tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "says"),
    [("https://a.b/c.png", "on the web"), ("a\0b", "as no file can be"), ("\ud800", "as no file can be")],
)
def test_names_of_no_file_are_refused(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(UnusableRow, match=says):
        locate_image(name, tmp_path)


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
def test_the_split_follows_hugging_faces_names(path: str, split: str) -> None:
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
        (["foo", "test"], "", "x: has the splits foo, test, none called train"),
        (["train_a", "train_b"], "", "has the splits train_a, train_b, none called train"),
        (["train", "test"], "dev", "no split 'dev'"),
        (["", ""], "test", "has no splits that its names tell, no split 'test'"),
        (["validation_a", "validation_b"], "validation", "no split 'validation'"),
    ],
)
def test_a_split_that_is_not_there_or_not_clear_is_reported(there: list[str], asked: str, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        take_split(Path("x"), [(name, name) for name in there], asked)

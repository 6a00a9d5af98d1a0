import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from anything import STEADY
from hypothesis import given, settings
from hypothesis import strategies as st

from agfsync.errors import FormatError
from agfsync.formats import LeftOut, NoPreference, Preference
from agfsync.formats.folders import AMBIGUOUS, NO_PROMPT, SIDE_NAMES, Folders


@pytest.fixture
def put(tmp_path: Path, image_file: Callable[..., bytes]) -> Callable[..., Path]:
    """Writes an image, or what is given, under each of the names."""

    def make(*names: str, data: bytes | str = image_file()) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return tmp_path

    return make


def paired(folder: Path, split: str = "") -> list[tuple[str, str, str]]:
    return [
        (each.prompt, str(Path(str(each.winner)).relative_to(folder)), str(Path(str(each.loser)).relative_to(folder)))
        for each in Folders().pairs(folder, split)
        if isinstance(each, Preference)
    ]


def left(folder: Path, split: str = "") -> list[tuple[str, str]]:
    return [(each.reason, each.where) for each in Folders().pairs(folder, split) if not isinstance(each, Preference)]


def test_images_are_paired_by_name_and_what_has_no_partner_is_counted(tmp_path: Path, put: Callable[..., Path]) -> None:
    put("winner/a.png", "winner/b.png", "winner/c.png", "loser/a.JPG", "loser/b.png", "loser/d.png")
    put("winner/a.txt", data="a cat\n")
    assert Folders().recognises(tmp_path) and not Folders().recognises(tmp_path / "winner")
    assert list(Folders().pairs(tmp_path)) == [
        Preference("a cat", tmp_path / "winner" / "a.png", tmp_path / "loser" / "a.JPG"),
        LeftOut(NO_PROMPT, "winner/b.png"),
        NoPreference("", "a winner without a loser of its name"),
        NoPreference("", "a loser without a winner of its name"),
    ]


def test_the_prompts_may_stand_in_a_table(tmp_path: Path, put: Callable[..., Path]) -> None:
    put("chosen/a.png", "rejected/a.png")
    put("metadata.csv", data="file_name,text,category\na.png,a cat,animals\n")
    (found,) = Folders().pairs(tmp_path)
    assert isinstance(found, Preference) and (found.prompt, found.category) == ("a cat", "animals")


@pytest.mark.parametrize("place", ["", "winner/", "loser/"])
@pytest.mark.parametrize("column", ["text", "caption", "Prompt"])
def test_metadata_may_be_json_lines_and_lie_next_to_the_images(
    tmp_path: Path, put: Callable[..., Path], place: str, column: str
) -> None:
    put("winner/a.png", "loser/a.webp", "winner/b/c.png", "loser/b/c.png")
    names = ("a.png", "b\\c.png") if place else ("winner/a.png", "loser\\b\\c.png")
    names = tuple(name.replace("a.png", "a.webp") for name in names) if place == "loser/" else names
    rows = [{"file_name": name, column: f"thing {number}"} for number, name in enumerate(names)]
    rows += [{"file_name": "nowhere.png", column: "x"}, {column: "y"}, {"file_name": "../../x.png", column: "z"}]
    put(f"{place}metadata.jsonl", data="\n".join(map(json.dumps, rows)))
    assert [prompt for prompt, *_ in paired(tmp_path)] == ["thing 0", "thing 1"]
    assert left(tmp_path) == [
        ("no text under 'file_name'", f"{place}metadata.jsonl: line 4"),
        ("an image outside of its folder", f"{place}metadata.jsonl: line 5"),
        ("a row on an image that isn't there", f"{place}metadata.jsonl: line 3"),
    ]


def test_captions_lie_next_to_winner_or_loser_under_either_ending(tmp_path: Path, put: Callable[..., Path]) -> None:
    put("winner/a.png", "loser/a.png", "winner/b.png", "loser/b.png", "winner/c.d.png", "loser/c.d.png")
    put("winner/a.caption", data="a cat")
    put("loser/b.TXT", data="a dog\n".encode("utf-16"))
    put("winner/c.d.png.txt", data="a cow")
    put("winner/e.txt", data="a fish")
    assert [prompt for prompt, *_ in paired(tmp_path)] == ["a cat", "a dog", "a cow"]
    assert left(tmp_path) == [("a caption without an image", "winner/e.txt")]


@pytest.mark.parametrize("names", SIDE_NAMES)
def test_the_two_folders_are_called_by_many_names_and_may_lie_deeper(
    tmp_path: Path, put: Callable[..., Path], names: tuple[str, str]
) -> None:
    winner, loser = names
    put(f"1_name/{winner}/a.png", f"1_name/{loser.upper()}/a.png", f"x/y/z/{winner}/a.png", f"x/y/z/{loser}/a.png")
    put(f"1_name/{winner}/a.caption", f"x/y/z/{winner}/a.caption", data="a thing")
    assert Folders().recognises(tmp_path) and len(paired(tmp_path)) == 2 and left(tmp_path) == []


def test_several_images_of_one_name_are_paired_by_their_endings(tmp_path: Path, put: Callable[..., Path]) -> None:
    put("winner/a.jpg", "winner/a.png", "loser/a.jpg", "loser/a.PNG", "winner/b.png", "winner/b.jpg", "loser/b.jpg")
    put("winner/c.png", "winner/c.jpg", "loser/c.webp", "winner/d.png", "winner/d.jpg", "loser/d.png", "loser/d.webp")
    put(*(f"winner/{name}.txt" for name in "abcd"), data="a thing")
    assert [(winner, loser) for _, winner, loser in paired(tmp_path)] == [
        ("winner/a.jpg", "loser/a.jpg"),
        ("winner/a.png", "loser/a.PNG"),
        ("winner/b.jpg", "loser/b.jpg"),
        ("winner/d.png", "loser/d.png"),
        ("winner/d.jpg", "loser/d.webp"),
    ]
    assert left(tmp_path) == [
        ("a winner without a loser of its name", "winner/b.png"),
        (AMBIGUOUS, "winner/c.jpg"),
        (AMBIGUOUS, "winner/c.png"),
        (AMBIGUOUS, "loser/c.webp"),
    ]


def test_each_of_several_images_of_one_name_may_have_a_text_of_its_own(
    tmp_path: Path, put: Callable[..., Path]
) -> None:
    put("winner/a.jpg", "winner/a.png", "loser/a.jpg", "loser/a.png")
    put("winner/a.jpg.txt", data="of the JPEG")
    put("winner/a.png.txt", data="of the PNG")
    assert paired(tmp_path) == [
        ("of the JPEG", "winner/a.jpg", "loser/a.jpg"),
        ("of the PNG", "winner/a.png", "loser/a.png"),
    ]


def test_of_two_rows_on_an_image_the_first_is_taken_and_the_other_counted(
    tmp_path: Path, put: Callable[..., Path]
) -> None:
    put("winner/a.png", "loser/a.png")
    put("metadata.csv", data="file_name,text\na.png,first\na.png,second\n")
    assert [prompt for prompt, *_ in paired(tmp_path)] == ["first"]
    assert left(tmp_path) == [("another row on an image", "metadata.csv: line 3")]


def test_subfolders_are_read_and_other_kinds_of_images_are_paired_too(tmp_path: Path, put: Callable[..., Path]) -> None:
    put("winner/a.png", "loser/a.png", "winner/set2/a.bmp", "loser/set2/a.bmp", "winner/set2/b.GIF", "loser/b.gif")
    put("winner/a.txt", "winner/set2/a.txt", data="a thing")
    put("notes.md", "winner/model.safetensors", "other/c.png", data="x")
    assert [winner for _, winner, _ in paired(tmp_path)] == ["winner/a.png", "winner/set2/a.bmp"]
    assert left(tmp_path) == [
        ("neither image nor prompt", "notes.md"),
        ("an image of neither side", "other/c.png"),
        ("neither image nor prompt", "winner/model.safetensors"),
        ("a loser without a winner of its name", "loser/b.gif"),
        ("a winner without a loser of its name", "winner/set2/b.GIF"),
    ]


def test_of_folders_by_split_train_is_taken(tmp_path: Path, put: Callable[..., Path]) -> None:
    for split in ("train", "test"):
        put(f"{split}/winner/a.png", f"{split}/loser/a.png")
        put(f"{split}/winner/a.txt", data=f"of {split}")
    assert [prompt for prompt, *_ in paired(tmp_path)] == ["of train"]
    assert [prompt for prompt, *_ in paired(tmp_path, "test")] == ["of test"]
    (found,) = [each for each in Folders().pairs(tmp_path) if isinstance(each, LeftOut)]
    assert (found.reason, found.count, found.failed) == ("images of the split 'test'", 2, False)
    with pytest.raises(FormatError, match="no split 'dev'"):
        paired(tmp_path, "dev")


def test_names_are_the_same_however_a_system_spells_their_letters(tmp_path: Path, put: Callable[..., Path]) -> None:
    put("winner/cafe\u0301.png", "loser/caf\u00e9.png")
    put("metadata.csv", data="file_name,text\ncaf\u00e9.png,a café\n")
    assert [prompt for prompt, *_ in paired(tmp_path)] == ["a café"]


NAMES = st.sampled_from(
    [
        *("a.png", "a.jpg", "a.PNG", "a.bmp", "a.b.png", "a.txt", "a.caption", "b.png", "b.webp", "b.txt"),
        *("metadata.csv", "notes.md", ".DS_Store", "._a.png", "Thumbs.db", "set/a.png", "set/a.txt", "set/b.gif"),
        *("set/.hidden/a.png", "__MACOSX/a.png", "test/a.png", "noend", "link.png", "dangling.png"),
    ]
)
TREES = st.dictionaries(
    st.tuples(st.sampled_from(["winner", "loser", "", "1_x/w", "1_x/l", "test/chosen", "test/rejected"]), NAMES),
    st.sampled_from(["file", "link"]),
    max_size=14,
)
HIDDEN = {".DS_Store", "._a.png", "Thumbs.db", ".hidden", "__MACOSX"}


@pytest.mark.slow
@settings(STEADY, max_examples=150)
@given(tree=TREES)
def test_whatever_lies_there_is_read_once_or_counted(tree: dict[tuple[str, str], str], tmp_path: Path) -> None:
    root, far = tmp_path / "root", tmp_path / "far"
    for folder in (root, far):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for number, ((side, name), kind) in enumerate(sorted(tree.items())):
        path = root / side / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "file_name,text\n" if name == "metadata.csv" else "a thing"
        target = path if kind == "file" and name != "link.png" else far / f"{number}"
        if name != "dangling.png":
            target.write_text(text)
        if target != path or name == "dangling.png":
            path.symlink_to(far / f"{number}")
    if not Folders().recognises(root):
        return
    read: Counter[str] = Counter()
    prompts = images_left = 0
    try:
        for each in Folders().pairs(root):
            if isinstance(each, Preference):
                read.update([str(each.winner), str(each.loser)])
            elif isinstance(each, NoPreference):
                read[str(root / each.where)] += 1
            elif each.reason == NO_PROMPT:
                images_left += 2
            elif each.reason.startswith("images of"):
                images_left += each.count
            elif each.reason == "a caption without an image":
                prompts += 1
            else:
                assert each.reason in ("neither image nor prompt", "an image of neither side"), each
                read[str(root / each.where)] += 1
    except FormatError as reason:
        assert "choose one of them" in str(reason)
        return
    there = [side_name for side_name in tree if not HIDDEN & set(Path(*side_name).parts)]
    captions = [n for _, n in there if n.endswith((".txt", ".caption"))]
    wanted = [each for each in there if each[1] != "metadata.csv" and each[1] not in captions]
    assert all(count == 1 for count in read.values())
    outside = sum(Path(each).suffix in (".txt", ".caption") for each in read)
    assert len(read) - outside + images_left == len(wanted)
    assert prompts + outside <= len(captions)

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agfsync import catalog
from agfsync.commands.inspect import inspect_path
from agfsync.errors import FormatError
from agfsync.formats import PairSet, Preference, PromptFile, sources
from agfsync.formats.sources import SourceCaptions, fingerprint_source, read_pair_prompts, read_pairs, recognise_format
from agfsync.formats.tables import CsvTable
from agfsync.language import CaptionWriter
from agfsync.language.text import normalise_text


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,category\na cat,animals\nA  Cat!,animals\nbread,food\na dog,animals\n???,food\n")
    return path


def test_the_most_special_format_that_does_what_is_wanted_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"tag": "counting", "include": [], "prompt": "two cats"}\n')
    assert recognise_format(path, PromptFile).title == "GenEval"
    path.write_text('{"prompt": "two cats"}\n')
    assert recognise_format(path, PromptFile).title == "JSON lines"


def test_what_is_missing_or_of_no_format_is_reported_with_what_there_is(tmp_path: Path, file: Path) -> None:
    with pytest.raises(FormatError, match="nowhere: no such file or folder"):
        recognise_format(tmp_path / "nowhere", PromptFile)
    with pytest.raises(
        FormatError,
        match="holds pairs in no known format: it is a CSV or TSV table, for captions.source; known are pick-a-pic, ",
    ):
        recognise_format(file, PairSet)
    says = (
        "holds captions in no known format: name one of its files, such as prompts.csv; known are huggingface, tifa, "
    )
    with pytest.raises(FormatError, match=says):
        recognise_format(tmp_path, PromptFile)


def test_a_prompt_file_writes_what_it_holds_each_once_and_in_its_order(file: Path) -> None:
    prompts: SourceCaptions = SourceCaptions(str(file))
    writer: CaptionWriter = prompts
    assert list(writer.categories) == ["animals", "food"] and prompts.rooms == {"animals": 2, "food": 2}
    assert prompts.left_out.counts == {"repeated": 1}
    assert writer.captions("animals", 1, [], 0) == ["a cat"]
    assert writer.captions("animals", 5, ["a cat"], 0) == ["a dog"]
    others = SourceCaptions(str(file), {"a cat"})
    assert others.rooms == {"animals": 1, "food": 2} and others.left_out.counts == {"in the pair set as well": 2}


def test_its_identity_is_what_it_holds_wherever_it_lies(file: Path) -> None:
    before = SourceCaptions(str(file)).identity
    elsewhere = file.rename(file.with_name("other.csv"))
    assert SourceCaptions(str(elsewhere)).identity == before
    elsewhere.write_text("prompt,category\na cat,animals\n")
    assert SourceCaptions(str(elsewhere)).identity != before


def test_its_questions_are_found_by_the_caption(tmp_path: Path, file: Path) -> None:
    assert SourceCaptions(str(file)).questions_on("a cat") == ((), {})
    path = tmp_path / "asked.csv"
    path.write_text(
        "prompt,question,answer\na cat,Is there a cat?,yes\na cat,What is it?,a cat that is there\na dog,,\n"
    )
    prompts = SourceCaptions(str(path))
    questions, left_out = prompts.questions_on("A cat")
    assert [each.text for each in questions] == ["Is there a cat?"]
    assert left_out == {"answer has more than 3 words": 1}
    assert prompts.questions_on("a dog") == prompts.questions_on("a horse") == ((), {})


def test_a_pair_sets_captions_are_those_that_somebody_prefers_an_image_of(pair_set: Callable[..., Path]) -> None:
    folder = pair_set(("a cat", "red", "blue"), ("a dog", "red", "blue"), ("a cat", "blue", "green"))
    (folder / "loser" / "1.png").unlink()
    assert read_pair_prompts(str(folder)) == {"a cat": "things"}


@pytest.mark.parametrize("small", [1 << 20, 0])
def test_the_fingerprint_follows_what_is_there(file: Path, monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(sources, "_SMALL", small)
    seen = {fingerprint_source(str(file)), fingerprint_source(str(file.parent)), fingerprint_source("/nowhere")}
    assert fingerprint_source(str(file)) in seen and len(seen) == 3
    file.write_text("prompt\na horse\n")
    assert not {fingerprint_source(str(file)), fingerprint_source(str(file.parent))} & seen


def test_a_small_file_that_is_only_touched_is_the_same(file: Path) -> None:
    before = fingerprint_source(str(file))
    os.utime(file, (0, 0))
    assert fingerprint_source(str(file)) == before


def test_a_format_of_another_package_is_asked_before_those_that_take_any_table(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(CsvTable):
        title = "mine"

    def find(kind: str, name: str) -> type[CsvTable]:
        return Mine if name == "mine" else original(kind, name)

    original, ours = catalog.find, catalog.list_names("formats")
    monkeypatch.setattr(catalog, "list_names", lambda kind: [*ours, "mine"])
    monkeypatch.setattr(catalog, "find", find)
    assert recognise_format(file, PromptFile).title == "mine"


@pytest.fixture
def cache(tmp_path: Path, pair_set: Callable[..., Path]) -> Path:
    """A pair set as the hub's cache has it: names in a snapshot that are links to blobs."""
    root = tmp_path / "hub" / "datasets--somebody--pairs"
    (root / "blobs").mkdir(parents=True)
    folder = pair_set(("a cat", "red", "blue"))
    for number, file in enumerate(sorted(each for each in folder.rglob("*") if each.is_file())):
        place = root / "snapshots" / "0123abc" / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.rename(root / "blobs" / str(number))
        place.symlink_to(os.path.relpath(root / "blobs" / str(number), place.parent))
    return root


def test_a_repository_in_the_hubs_cache_is_read_by_its_name_or_its_snapshots(cache: Path) -> None:
    for path in (cache.parent, cache, cache / "snapshots" / "0123abc"):
        (found,) = read_pairs(path)
        assert isinstance(found, Preference) and found.prompt == "a cat" and inspect_path(path).pairs == 1
    (cache / "snapshots" / "other").mkdir()
    with pytest.raises(FormatError, match="has 2 snapshots and no refs/main: name one of them"):
        recognise_format(cache, PairSet)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abc\n")
    assert inspect_path(cache).pairs == 1


def test_the_fingerprint_follows_links_and_passes_over_hidden_files(cache: Path) -> None:
    snapshot = cache / "snapshots" / "0123abc"
    before = fingerprint_source(str(snapshot))
    (snapshot / ".DS_Store").write_bytes(b"x")
    (snapshot / "nothing.png").symlink_to(cache / "nowhere")
    assert fingerprint_source(str(snapshot)) == before
    (cache / "blobs" / "0").write_bytes(b"other")
    assert fingerprint_source(str(snapshot)) != before


def test_a_split_is_of_a_folder(file: Path) -> None:
    with pytest.raises(FormatError, match="prompts.csv: is one file, and has no split 'test'"):
        SourceCaptions(str(file), split="test")
    assert SourceCaptions(str(file), split="all").rooms == {"animals": 2, "food": 2}


def test_what_of_a_file_is_no_caption_is_counted(file: Path) -> None:
    file.write_text("prompt,category\na cat,animals\n,animals\na  cat,food\na dog,animals\na horse,food\n")
    prompts = SourceCaptions(str(file), {normalise_text("a horse")})
    assert prompts.left_out.counts == {"no text under 'prompt'": 1, "repeated": 1, "in the pair set as well": 1}
    assert (prompts.left_out.failed.total(), prompts.rows, prompts.rooms) == (1, 5, {"animals": 2})
    assert next(iter(prompts.left_out.lines())) == "no text under 'prompt' 1 (line 3)"

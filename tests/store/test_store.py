import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from agfsync.errors import DamagedError, RunError, StoreError
from agfsync.records import Candidate, Caption
from agfsync.store import Run, parts
from agfsync.store.manifest import Manifest, Skipped


def captions(*names: str) -> list[Caption]:
    return [Caption(name, f"text {name}", "animals", "train") for name in names]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run.create(tmp_path / "run", "seed: 0\n") as made:
        yield made


def commit(run: Run, **units: list[Caption]) -> None:
    run.commit("captions", units, Caption.schema)


def keys(run: Run, *units: str) -> list[str]:
    return [caption.key for caption in run.read("captions", Caption, units or None)]


def test_what_is_committed_is_read_in_the_order_of_the_selection(run: Run) -> None:
    commit(run, a=captions("1", "2"), b=[], c=captions("3"))
    commit(run, d=captions("4"))
    run.select("captions", ["d", "c", "missing", "b", "a"])
    assert list(run.list_selected("captions")) == ["d", "c", "b", "a"]
    assert keys(run) == ["4", "3", "1", "2"]
    assert keys(run, "c", "d") == ["3", "4"]
    assert set(run.list_made("captions")) == {"a", "b", "c", "d"}
    assert list(run.rows_by_unit("captions", ["key"], ["b", "c"])) == [("b", []), ("c", [{"key": "3"}])]


def test_units_of_several_parts_may_take_turns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is read once, however often the table goes to and fro."""
    loads: list[str] = []
    read = parts.read_part
    monkeypatch.setattr(parts, "read_part", lambda path, *rest: loads.append(path.name) or read(path, *rest))
    for part in "abc":
        commit(run, **{f"{part}{n}": captions(*(f"{part}{n}-{row}" for row in range(n % 3))) for n in range(100)})
    order = [f"{part}{n}" for n in range(100) for part in "cab"]
    run.select("captions", order)
    assert list(run.list_selected("captions")) == order
    assert keys(run) == [f"{unit}-{row}" for unit in order for row in range(int(unit[1:]) % 3)]
    assert len(loads) == 3
    assert (run.count("captions"), run.count_rows("captions")) == (300, 3 * 99)


def test_the_end_of_a_part_is_asked_for_again_and_again_and_read_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caption's images are judged in several batches, and each asks for their unit."""
    loads: list[str] = []
    read = parts.read_part
    monkeypatch.setattr(parts, "read_part", lambda path, *rest: loads.append(path.name) or read(path, *rest))
    commit(run, a=captions("1"), b=captions("2"))
    commit(run, c=captions("3"), d=captions("4"))
    asked = [["a"], ["a", "b"], ["b"], ["b"], ["b", "c"], ["c", "d"], ["d"], ["d"]]
    assert [keys(run, *units) for units in asked][3:5] == [["2"], ["2", "3"]]
    assert loads == ["part-000000.parquet", "part-000001.parquet"]


def test_a_selection_may_be_read_from_the_run_while_it_is_made(run: Run) -> None:
    commit(run, a=captions("1"), b=captions("2"))
    run.select("captions", ["a", "b"])
    run.select("captions", sorted((key for key in run.list_selected("captions")), reverse=True))
    run.select("captions", (unit for unit, _ in run.rows_by_unit("captions")))
    assert list(run.list_selected("captions")) == ["b", "a"]


def test_a_selection_that_is_broken_off_changes_nothing(run: Run) -> None:
    commit(run, a=captions("1"), b=captions("2"))
    run.select("captions", ["a", "b"])

    def broken() -> Iterator[str]:
        yield "b"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.select("captions", broken())
    assert list(run.list_selected("captions")) == ["a", "b"]
    run.select("captions", ["b"])
    assert list(run.list_selected("captions")) == ["b"]


def test_a_part_found_damaged_while_a_selection_is_read_from_it_is_set_aside(run: Run) -> None:
    commit(run, a=captions("1"))
    run.select("captions", ["a"])
    (part,) = (run.path / "captions").iterdir()
    part.write_bytes(part.read_bytes()[:-9] + b"\0" * 9)
    with pytest.raises(DamagedError, match="it was quarantined"):
        run.select("questions", (unit for unit, _ in run.rows_by_unit("captions")))
    assert run.list_made("captions") == []


def test_done_says_which_of_those_asked_for(run: Run) -> None:
    commit(run, **{f"u{n}": [] for n in range(1200)})
    assert run.find_done("captions", (f"u{n}" for n in range(1100, 1300))) == {f"u{n}" for n in range(1100, 1200)}


def test_reasons_are_counted(run: Run) -> None:
    commit(run, a=[], b=[], c=[])
    run.commit("captions", {"d": []}, Caption.schema, dropped={"d": {"odd": 2, "empty": 1}})
    run.commit("captions", {"e": []}, Caption.schema, dropped={"e": {"odd": 2, "empty": 1}})
    run.select("captions", "abcde")
    assert run.count_dropped("captions") == {"odd": 4, "empty": 2}


def test_another_selection_keeps_what_was_made(run: Run) -> None:
    commit(run, a=captions("1"), b=captions("2"))
    run.select("captions", ["a", "b"])
    run.select("captions", ["b"])
    assert keys(run) == ["2"]
    assert set(run.list_made("captions")) == {"a", "b"}


def test_a_unit_without_rows_makes_no_file(run: Run) -> None:
    commit(run, a=[])
    assert set(run.list_made("captions")) == {"a"}
    assert not (run.path / "captions").exists()


def test_what_is_skipped_is_left_out_and_forgotten_when_the_stage_reopens(run: Run) -> None:
    commit(run, a=captions("1"), b=captions("2"))
    run.skip("captions", "a", "too odd", "row 7 of prompts.csv")
    run.skip("captions", "rest", "empty", count=4)
    run.select("captions", ["a", "b"])
    assert list(run.list_selected("captions")) == ["b"]
    assert run.list_skipped("captions") == [
        Skipped("captions", "a", "too odd", "row 7 of prompts.csv"),
        Skipped("captions", "rest", "empty", "", 4),
    ]
    run.finish("captions", "digest", 0.0, {})
    finished = run.find_finished("captions")
    assert finished is not None and (finished.rows, finished.skipped) == (1, 5)
    run.reopen("captions")
    assert run.list_skipped("captions") == []


def test_finished_tells_how_a_stage_ended(run: Run) -> None:
    commit(run, a=captions("1"))
    run.select("captions", ["a"])
    run.finish("captions", "digest", 1.5, {"train": 1})
    finished = run.find_finished("captions")
    assert finished is not None
    assert (finished.digest, finished.seconds, finished.rows, finished.notes) == ("digest", 1.5, 1, {"train": 1})
    run.reopen("captions")
    assert run.find_finished("captions") is None


def test_the_mark_follows_what_was_made_and_not_the_settings(run: Run) -> None:
    commit(run, a=captions("1"), b=captions("2"))
    marks = []
    for digest, units in (("x", ["a"]), ("y", ["a"]), ("y", ["a", "b"])):
        run.select("captions", units)
        run.finish("captions", digest, 0.0, {})
        finished = run.find_finished("captions")
        assert finished is not None
        marks.append(finished.mark)
    assert marks[0] == marks[1] != marks[2]


def test_dropped_reasons_are_summed_over_the_selection(run: Run) -> None:
    units = {"a": captions("1"), "b": captions("2")}
    run.commit("captions", units, Caption.schema, dropped={"a": {"odd": 2}, "b": {"odd": 1, "long": 1}})
    run.select("captions", ["a"])
    assert run.count_dropped("captions") == {"odd": 2}


def test_death_between_rename_and_manifest_never_happened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: Manifest) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "transaction", die)
        with pytest.raises(KeyboardInterrupt):
            commit(run, a=captions("lost"))
    assert set(run.list_made("captions")) == set()
    commit(run, a=captions("kept"))
    assert [p.name for p in (run.path / "captions").iterdir()] == ["part-000000.parquet"]
    assert keys(run, "a") == ["kept"]


def test_an_error_inside_a_transaction_undoes_it(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run._manifest.transaction() as db:
        db.execute("INSERT INTO skipped VALUES ('captions', 'a', 'odd', '', 1)")
        raise ZeroDivisionError
    assert run.list_skipped("captions") == []


@pytest.mark.parametrize("columns", [None, ["text"]])
def test_a_corrupt_part_is_set_aside_and_its_units_are_forgotten(run: Run, columns: list[str] | None) -> None:
    commit(run, a=captions("1"))
    commit(run, b=captions(*map(str, range(100))))
    run.finish("captions", "digest", 0.0, {})
    part = run.path / "captions" / "part-000001.parquet"
    data = bytearray(part.read_bytes())
    for at in range(4, len(data) // 2):
        data[at] ^= 0xFF
    part.write_bytes(data)
    with pytest.raises(StoreError, match=r"part-000001.parquet is damaged: it was quarantined; type the same"):
        list(run.rows("captions", columns, ["b"]))
    assert set(run.list_made("captions")) == {"a"}
    assert run.find_finished("captions") is None
    assert part.with_name(part.name + ".corrupt").exists()


def test_a_cut_or_missing_part_is_told(run: Run) -> None:
    commit(run, a=captions("1"))
    commit(run, b=captions("2"))
    cut, missing = sorted((run.path / "captions").iterdir())
    cut.write_bytes(cut.read_bytes()[:-1])
    missing.unlink()
    with pytest.raises(StoreError, match="is damaged"):
        keys(run, "a")
    with pytest.raises(StoreError, match="is missing"):
        keys(run, "b")


def test_a_table_beside_the_stages_own_is_the_stages(run: Run) -> None:
    run.commit("evaluation_images", {"a": captions("1")}, Caption.schema, seconds=2.0)
    run.select("evaluation_images", ["a"])
    run.commit("evaluation", {"b": captions("2")}, Caption.schema, seconds=1.0)
    run.select("evaluation", ["b"])
    assert (run.count_made("evaluation"), run.count_made("evaluation_images")) == (2, 1)
    assert run.sum_seconds("evaluation", until=run.find_newest_part()) == 3.0
    run.skip("evaluation_images", "odd", "why")
    assert [each.key for each in run.list_skipped("evaluation")] == ["odd"]
    assert run.list_skipped("evaluation", own=True) == []
    run.reopen("evaluation")
    assert run.list_skipped("evaluation_images") == []
    run.finish("evaluation", "digest", 0.0, {})
    (run.path / "evaluation_images" / "part-000000.parquet").unlink()
    with pytest.raises(StoreError, match="quarantined"):
        list(run.rows("evaluation_images"))
    assert run.find_finished("evaluation") is None
    with pytest.raises(StoreError, match="type `agfsync evaluation "):
        list(run.rows("evaluation_images", units=["a"]))


def test_who_only_looks_sets_nothing_aside(run: Run) -> None:
    commit(run, a=captions("1"))
    (run.path / "captions" / "part-000000.parquet").unlink()
    with Run.open(run.path) as looking, pytest.raises(StoreError, match="next `agfsync run`"):
        keys(looking, "a")
    assert set(run.list_made("captions")) == {"a"}


def test_one_writes_and_any_number_read_in_the_same_process_too(run: Run) -> None:
    with pytest.raises(RunError, match="is in use by this process itself: close it there first, or open it to read"):
        Run.open(run.path, writing=True)
    commit(run, a=captions("1"))
    with Run.open(run.path) as reading, Run.open(run.path) as another:
        commit(run, b=captions("2"))
        assert set(reading.list_made("captions")) == set(another.list_made("captions")) == {"a", "b"}
        with pytest.raises(RunError, match="itself"):
            Run.open(run.path, writing=True)
    commit(run, c=captions("3"))
    run.close()
    with Run.open(run.path) as reading, Run.open(run.path, writing=True) as again:
        commit(again, d=captions("4"))
        assert set(reading.list_made("captions")) == set("abcd")


def test_what_is_open_for_reading_is_never_written(run: Run) -> None:
    commit(run, a=captions("1"))
    with Run.open(run.path) as reading:
        for write in (
            lambda: reading.skip("captions", "b", "odd"),
            lambda: reading.select("captions", ["a"]),
            lambda: reading.reopen("captions"),
        ):
            with pytest.raises(RunError, match=f"{run.path} is open for reading only: open it with writing=True"):
                write()
    assert run.list_skipped("captions") == [] and list(run.list_selected("captions")) == []


def test_the_lock_names_who_holds_it(run: Run) -> None:
    (run.path / "lock").write_text("4711 on another")
    with pytest.raises(RunError, match=f"{run.path} is in use by process 4711 on another: wait for it, or stop it"):
        Run.open(run.path, writing=True)


def test_a_run_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="contains files that aren.t a run.s"):
        Run.create(tmp_path, "")
    with pytest.raises(RunError, match="isn't the folder of a run: it has no recipe.yaml"):
        Run.open(tmp_path, writing=True)
    with pytest.raises(RunError, match="no run at"):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "study.yaml").write_text("arms: {}")
    with pytest.raises(RunError, match="is a study, not a run: `agfsync study status"):
        Run.open(tmp_path)


def test_creation_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    Run.create(tmp_path, "seed: 1\n").close()
    (tmp_path / "recipe.yaml").unlink()
    with Run.create(tmp_path, "seed: 2\n") as run:
        assert run.recipe_yaml == "seed: 2\n"
    with pytest.raises(RunError, match="is a run already"):
        Run.create(tmp_path, "")


def test_a_run_without_its_manifest_is_told(tmp_path: Path) -> None:
    Run.create(tmp_path, "").close()
    (tmp_path / "run.db").unlink()
    with pytest.raises(RunError, match=r"run\.db is missing"):
        Run.open(tmp_path, writing=True)


def test_a_manifest_of_another_format_or_none_is_told(tmp_path: Path) -> None:
    with Run.create(tmp_path, "") as run, run._manifest.transaction() as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(
        RunError, match=f"{tmp_path} is a run of format 99, this agfsync reads format 3: choose another --out"
    ):
        Run.open(tmp_path)
    (tmp_path / "run.db").write_bytes(b"not a database, but long enough to look at" * 99)
    with pytest.raises(StoreError, match=r"run\.db"):
        Run.open(tmp_path, writing=True)


def test_what_a_killed_process_left_is_swept_out(run: Run) -> None:
    commit(run, a=captions("1"))
    left = [run.path / "captions" / "part-000001.parquet", run.path / "scores" / "part-000000.parquet.tmp"]
    for path in [*left, run.path / "recipe.yaml.tmp"]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    with Run.open(run.path):
        assert left[0].exists()
    run.close()
    with Run.open(run.path, writing=True) as again:
        assert not any(path.exists() for path in [*left, again.path / "recipe.yaml.tmp"])
        assert keys(again, "a") == ["1"]


def make_candidates(count: int) -> list[Candidate]:
    return [Candidate(f"k{n}", "c", n, n, "g", bytes([n]) * 100) for n in range(count)]


@pytest.mark.parametrize("columns", [None, ["key"], ["key", "image"]])
def test_any_bit_of_what_is_read_is_held_against_what_was_written(run: Run, columns: list[str] | None) -> None:
    run.commit("candidates", {"a": make_candidates(3)}, Candidate.schema)
    part = run.path / "candidates" / "part-000000.parquet"
    receipt, data = run._manifest.find_part(1), part.read_bytes()
    assert receipt.hollow.end - receipt.hollow.first > 20
    unread = range(receipt.hollow.first, receipt.hollow.end) if columns == ["key"] else range(0)
    for place in range(len(data)):
        part.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        if place in unread:
            assert parts.read_part(part, columns, receipt).column("key").to_pylist() == ["k0", "k1", "k2"]
        else:
            with pytest.raises(parts.DamagedPartError):
                parts.read_part(part, columns, receipt)


def test_a_long_table_is_read_in_order_and_in_steps(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agfsync.store.manifest.ROWS_AT_ONCE", 3)
    monkeypatch.setattr("agfsync.store.manifest.KEYS_AT_ONCE", 2)
    names = [f"u{n}" for n in range(10)]
    commit(run, **{name: captions(name) for name in names})
    run.select("captions", names[::-1])
    assert keys(run) == names[::-1]
    assert keys(run, *names) == names


def test_images_are_read_by_hugging_face_datasets(run: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    png = io.BytesIO()
    Image.new("RGB", (4, 3), (9, 8, 7)).save(png, format="PNG")
    run.commit("candidates", {"a": [Candidate("k", "c", 0, 2**62, "g", png.getvalue())]}, Candidate.schema)
    assert next(run.read("candidates", Candidate, ["a"])).image == png.getvalue()
    files = str(run.path / "candidates" / "*.parquet")
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert table[0]["image"].getpixel((0, 0)) == (9, 8, 7)
    assert table[0]["seed"] == 2**62


def test_spans_join_neighbours_of_one_part() -> None:
    places = [
        parts.UnitPlace("a", 1, 0, 2),
        parts.UnitPlace("b", 1, 2, 1),
        parts.UnitPlace("c", 2, 0, 1),
        parts.UnitPlace("d", None, 0, 0),
    ]
    assert [[place.unit for place in span] for span in parts.group_spans(places)] == [["d"], ["a", "b"], ["c"]]

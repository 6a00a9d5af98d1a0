import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agfsync.errors import RunError, StoreError
from agfsync.records import Candidate, Caption
from agfsync.store import Run, forks
from agfsync.store.forks import fork


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A run with two tables, a skipped unit and a finished training."""
    path = tmp_path / "base"
    with Run.create(path, "name: base\n") as run:
        for name in "ab":
            caption = Caption(name, f"text {name}", "animals", "train")
            run.commit("captions", {name: [caption]}, Caption.schema)
            run.commit("candidates", {name: [Candidate(name, name, 0, 0, "g", name.encode() * 99)]}, Candidate.schema)
        run.skip("candidates", "c", "too odd", "row 3")
        for stage in ("captions", "candidates"):
            run.select(stage, "ab")
            run.finish(stage, f"digest of {stage}", 1.0, {"noted": 1})
        for name in ("model/unet/weights.safetensors", "model/README.md", "training/metrics.jsonl", "spending.json"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(f"{{}} {name}")
        run.finish("training", "digest", 1.0, {}, ["model", "training/metrics.jsonl"])
    return path


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def same_file(one: Path, other: Path, name: str) -> bool:
    return os.path.samefile(one / name, other / name)


def check_whole(path: Path) -> None:
    with Run.open(path) as run:
        assert run.verify() == []
        assert [c.image for c in run.read("candidates", Candidate)] == [b"a" * 99, b"b" * 99]
        assert [each.where for each in run.list_skipped("candidates")] == ["row 3"]
        finished = run.find_finished("training")
        assert finished is not None and finished.digest == "digest"


def test_a_fork_holds_the_same_and_shares_what_nobody_writes_into(base: Path, tmp_path: Path) -> None:
    before = contents(base)
    made = fork(base, tmp_path / "arms" / "one")
    shared = [name for name in before if name.endswith((".parquet", ".safetensors"))]
    assert (made.linked, made.copied, len(shared)) == (5, 0, 5)
    assert str(made) == f"{made.path}: shares 5 files with its base"
    differing = {"lock", "run.db", "run.db.sum", "run.db.copy"}  # SQLite counts the copies of a database in it
    after = contents(made.path)
    assert {n: after[n] for n in after.keys() - differing} == {n: before[n] for n in before.keys() - differing}
    assert contents(base).keys() == before.keys() and {n for n, d in contents(base).items() if d != before[n]} <= {
        "lock"
    }
    assert all(same_file(base, made.path, name) == (name in shared) for name in before)
    check_whole(base)
    check_whole(made.path)


def test_neither_reaches_the_other(base: Path, tmp_path: Path) -> None:
    """Not by what it makes, nor by what it loses and makes anew, nor by its end."""
    paths = [fork(base, tmp_path / name).path for name in ("one", "two")]
    before = contents(base)
    with Run.open(paths[0], writing=True) as arm:
        arm.commit("candidates", {"d": [Candidate("d", "d", 0, 0, "g", b"d")]}, Candidate.schema)
        new = arm.path / "candidates" / "part-000002.parquet"
        new.write_bytes(b"damaged")
        arm.rewrite_recipe("name: arm\n")
        (arm.path / "candidates" / "part-000000.parquet").unlink()
        assert {damage.path for damage in arm.verify()} == {f"candidates/part-00000{n}.parquet" for n in (0, 2)}
        arm.commit("candidates", {"a": [Candidate("a", "a", 0, 0, "g", b"a" * 99)]}, Candidate.schema)
        with (arm.path / "training" / "metrics.jsonl").open("a") as log:
            log.write("more")
    assert contents(base) == before
    check_whole(base)
    check_whole(paths[1])
    shutil.rmtree(base)
    check_whole(paths[1])


def test_a_damaged_part_of_a_fork_is_set_aside_there_alone(base: Path, tmp_path: Path) -> None:
    """What damages the shared bytes themselves is seen in each run, and each makes them anew for itself."""
    arm = fork(base, tmp_path / "arm").path
    part = "candidates/part-000000.parquet"
    whole = (base / part).read_bytes()
    (base / part).write_bytes(whole[:-1])
    with Run.open(arm, writing=True) as run:
        assert [damage.path for damage in run.verify()] == [part]
        run.commit("candidates", {"a": [Candidate("a", "a", 0, 0, "g", b"a" * 99)]}, Candidate.schema)
        assert run.verify() == []
    assert (base / part).read_bytes() == whole[:-1]
    with Run.open(base) as run:
        assert [damage.path for damage in run.verify()] == [part]


def test_on_another_disk_it_is_copied_and_says_so(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    made = fork(base, tmp_path / "arm")
    assert (made.linked, made.copied) == (0, 5)
    assert "5 files (0.0 MB) were copied, since its disk can't share them" in str(made)
    assert not any(same_file(base, made.path, name) for name in contents(base))
    check_whole(made.path)


def test_what_can_not_be_forked_is_told(base: Path, tmp_path: Path) -> None:
    with Run.open(base, writing=True), pytest.raises(RunError, match=f"{base} is in use by this process itself"):
        fork(base, tmp_path / "arm")
    for taken in (base, tmp_path):
        with pytest.raises(RunError, match=f"{taken} exists already: choose another folder"):
            fork(base, taken)
    with pytest.raises(RunError, match="no run at"):
        fork(tmp_path / "nothing", tmp_path / "arm")
    (base / "captions" / "part-000001.parquet").unlink()
    with pytest.raises(StoreError, match=r"part-000001.parquet is missing: type `agfsync run`"):
        fork(base, tmp_path / "arm")
    assert not (tmp_path / "arm").exists()


def test_others_may_read_and_fork_meanwhile_and_none_may_write(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, seen = os.link, list[str]()

    def look(source: Path, target: Path) -> None:
        link(source, target)
        if not seen:
            seen.append("")
            check_whole(base)
            check_whole(fork(base, tmp_path / "two").path)
            with pytest.raises(RunError, match="in use by this process itself"):
                Run.open(base, writing=True)

    monkeypatch.setattr(os, "link", look)
    check_whole(fork(base, tmp_path / "one").path)
    Run.open(base, writing=True).close()


@pytest.mark.parametrize("step", ["_link_file", "_copy_file", "write_atomic"])
def test_a_crash_leaves_nothing_that_passes_for_a_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(forks, step, die)
        with pytest.raises(KeyboardInterrupt):
            fork(base, tmp_path / "arm")
    assert not list(tmp_path.glob("arm*/recipe.yaml")) and not (tmp_path / "arm").exists()
    check_whole(fork(base, tmp_path / "arm").path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arm", "base"]

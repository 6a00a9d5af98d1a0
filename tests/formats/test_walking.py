from pathlib import Path

import pytest

from agfsync.formats.reading import UnusableRow
from agfsync.formats.walking import locate, walk_files


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
    assert locate("a.png", one, two) == one / "a.png" and locate("./a.png", two, one) == two / "a.png"
    assert locate("b\\c.png", one, two) == locate("b//c.png", one, two) == locate("x/../b/c.png", one, two)
    # Unpacked where a backslash is a character like any other.
    assert locate("d\\e.png", one, two) == two / "d\\e.png"
    assert locate("none.png", one, two) == one / "none.png"
    assert locate("x" * 5000, one) == one / ("x" * 5000)


def test_a_link_may_lead_out_of_the_folder_and_a_name_may_not(tmp_path: Path) -> None:
    put(tmp_path, "secret.png", "in/a.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    assert locate("link.png", tmp_path / "in") == tmp_path / "in" / "link.png"
    # Through a link, the system would go up from where it leads.
    assert locate("out/../secret.png", tmp_path / "in") == tmp_path / "in" / "secret.png"
    for name in ("../secret.png", "/etc/passwd", "a/../../b.png", "..\\b.png", "C:\\b.png", "\\\\server\\b.png", "."):
        with pytest.raises(UnusableRow, match="a picture outside of its folder"):
            locate(name, tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "says"),
    [("https://a.b/c.png", "on the web"), ("a\0b", "as no file can be"), ("\ud800", "as no file can be")],
)
def test_what_names_no_file_is_told(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(UnusableRow, match=says):
        locate(name, tmp_path)

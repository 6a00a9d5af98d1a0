from collections.abc import Callable
from pathlib import Path

from agfsync.formats import NoPreference, Preference
from agfsync.formats.folders import Folders


def test_pictures_are_paired_by_name_and_what_has_no_partner_is_told(
    tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    for place in ("winner/a.png", "winner/b.png", "winner/c.png", "loser/a.JPG", "loser/b.png", "loser/d.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(picture())
    (tmp_path / "winner" / "a.txt").write_text("a cat\n")
    assert Folders().recognises(tmp_path) and not Folders().recognises(tmp_path / "winner")
    assert list(Folders().pairs(tmp_path)) == [
        Preference("a cat", tmp_path / "winner" / "a.png", tmp_path / "loser" / "a.JPG"),
        NoPreference("", "no prompt: neither a .txt beside the winner nor a row in metadata.csv"),
        NoPreference("", "a winner without a loser of its name"),
        NoPreference("", "a loser without a winner of its name"),
    ]


def test_the_prompts_may_stand_in_a_table(tmp_path: Path, picture: Callable[..., bytes]) -> None:
    for place in ("chosen/a.png", "rejected/a.png"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_bytes(picture())
    (tmp_path / "metadata.csv").write_text("file_name,text,category\na.png,a cat,animals\n")
    (found,) = Folders().pairs(tmp_path)
    assert (found.prompt, found.category) == ("a cat", "animals")

from pathlib import Path

from PIL import Image

from agfsync.recipe.scorers import EmbeddingSettings
from agfsync.scorers import Item, Measurement
from agfsync.scorers.clip import Clip
from agfsync.scorers.hpsv2 import Hpsv2
from agfsync.stages.context import digest_scorer


def _scorer(folders: Path) -> Hpsv2:
    return Hpsv2(path=str(folders / "clip"), weights=str(folders / "hps.safetensors"), device="cpu")


def test_the_weights_are_those_of_the_head(folders: Path, items: list[Item]) -> None:
    base = Clip(path=str(folders / "clip"), device="cpu").score(items)
    assert Hpsv2(path=str(folders / "clip"), device="cpu").score(items) == base
    assert _scorer(folders).score(items) != base


def test_an_oblong_image_is_seen_whole_on_black(folders: Path) -> None:
    oblong = Image.effect_noise((64, 16), 90).convert("RGB")
    framed = Image.new("RGB", (64, 64))
    framed.paste(oblong, (0, 24))
    scorer = _scorer(folders)
    wide, square = scorer.score([Item("a red star", (), image) for image in (oblong, framed)])
    assert isinstance(wide, Measurement) and isinstance(square, Measurement)
    assert wide == square


def test_the_versions_scores_are_told_apart() -> None:
    sources = {
        digest_scorer("hps", EmbeddingSettings(type=version, path="m", weights="w")) for version in ("hpsv2", "hpsv2.1")
    }
    assert len(sources) == 2

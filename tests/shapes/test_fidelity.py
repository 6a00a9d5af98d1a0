import random
from pathlib import Path
from statistics import fmean

import pytest
import torch
from PIL import Image

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.fidelity import FidelityNetwork, ShapesFidelity
from agfsync.shapes.training.flaws import assemble_drawing, paint_clean
from agfsync.shapes.training.images import sample_scene


def test_a_saved_network_is_loaded_with_the_same_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, pixels = FidelityNetwork((8, 16)).eval(), torch.rand(2, 3, 64, 64) * 2 - 1
    network.save(tmp_path / "fidelity")
    assert torch.equal(FidelityNetwork.load(str(tmp_path / "fidelity"))(pixels), network(pixels))


def test_tensors_that_dont_fit_the_configuration_are_one_line(tmp_path: Path) -> None:
    FidelityNetwork((8, 16)).save(tmp_path)
    (tmp_path / "config.json").write_text('{"widths": [8, 24]}')
    with pytest.raises(ModelError, match="can't load the model"):
        FidelityNetwork.load(str(tmp_path))


def test_whole_things_beat_broken_ones() -> None:
    rng = random.Random(0)
    whole, broken = [], []
    for _ in range(40):
        scene = sample_scene(rng)
        whole.append(draw_scene(scene))
        pieces = [paint_clean(thing) for thing in scene.things]
        pieces[0].cover[:, : len(pieces[0].cover) // 2] = 0
        broken.append(assemble_drawing(pieces, scene.background).image)
    scorer = catalog.build("scorers", {"type": "shapes-fidelity", "path": "embedded:fidelity"})
    assert isinstance(scorer, ShapesFidelity)
    found = [[rate.value for rate in scorer.score([Item("", (), i) for i in images])] for images in (whole, broken)]
    better = [one > other for one, other in zip(*found, strict=True)]
    assert sum(better) >= 34 and fmean(found[0]) > fmean(found[1]) + 20


def test_an_image_of_any_size_and_mode_is_scored() -> None:
    scorer = ShapesFidelity(path=catalog.model_path("embedded:fidelity"))
    (large,) = scorer.score([Item("", (), Image.new("L", (200, 100)))])
    assert isinstance(large, Measurement)
    assert scorer.score([]) == []

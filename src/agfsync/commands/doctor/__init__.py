"""Estimate the needs of a run and report what it lacks, before anything runs; nothing is loaded or written.

`examine` returns each stage's models, memory, disk, time and tokens; `docs/doctor.md` explains each figure.
"""

from pathlib import Path

from agfsync import pipeline
from agfsync.commands.doctor import missing
from agfsync.commands.doctor.needs import Estimator
from agfsync.commands.doctor.page import CARD, Examination, Need
from agfsync.errors import FormatError
from agfsync.models.pretrained import torch_device
from agfsync.pipeline.counts import count_items
from agfsync.recipe import Recipe

__all__ = ["Examination", "Need", "examine"]


def examine(recipe: Recipe, path: Path, card: float | None = None) -> Examination:
    """Estimate the needs of a run of `recipe` at `path` on this machine, and find what it lacks.

    With `card` the models are taken to run on an accelerator of so many bytes, which need not be here: its time isn't
    known. Work that a run there has already done is not subtracted.
    """
    recipe = pipeline.choose_dtypes(recipe, fallback="fp32")  # a device that is not there is reported below
    found = Examination(recipe.name, torch_device("auto").type if card is None else CARD, card=card)
    # Whether a card that isn't here has the kernels and the compiler can't be tried.
    absent = {"model.attention": None, "model.compile": False, "training.compile": False}
    found.missing += map(str, pipeline.find_faults(recipe if card is None else recipe.with_(absent)))
    try:
        found.needs = Estimator(recipe, count_items(recipe), found).estimate()
    except FormatError as fault:
        # What cannot be read cannot be counted.
        found.missing.append(str(fault))
    found.download = missing.report_weights(recipe, found)
    missing.report_servers(recipe, found)
    missing.report_resources(recipe, path, found)
    missing.report_money(recipe, found)
    found.missing, found.notes = (list(dict.fromkeys(lines)) for lines in (found.missing, found.notes))
    return found

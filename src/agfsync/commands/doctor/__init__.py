"""Estimate the needs of a run and report what is missing, before anything runs; nothing is loaded or written.

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
    """Estimate the needs of a run of `recipe` at `path` on this machine, and find what is missing.

    With `card`, the models are assumed to run on an accelerator with this many bytes, which may be another machine's:
    times are unknown then. Finished work of an existing run is not subtracted.
    """
    recipe = pipeline.choose_dtypes(recipe, fallback="fp32")  # a missing device is reported below
    examination = Examination(recipe.name, torch_device("auto").type if card is None else CARD, card=card)
    # The kernels and the compiler of another machine's accelerator can't be tried.
    absent = {"model.attention": None, "model.compile": False, "training.compile": False}
    examination.missing += map(str, pipeline.find_faults(recipe if card is None else recipe.with_(absent)))
    try:
        examination.needs = Estimator(recipe, count_items(recipe), examination).estimate()
    except FormatError as fault:
        # An unreadable file can't be counted.
        examination.missing.append(str(fault))
    examination.download = missing.report_weights(recipe, examination)
    missing.report_servers(recipe, examination)
    missing.report_resources(recipe, path, examination)
    missing.report_money(recipe, examination)
    examination.missing = list(dict.fromkeys(examination.missing))
    examination.notes = list(dict.fromkeys(examination.notes))
    return examination

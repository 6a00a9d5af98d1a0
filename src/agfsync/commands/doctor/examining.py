"""Goes through a recipe's stages and says what each takes, then through all that it names and says what is missing."""

from pathlib import Path

from agfsync import pipeline
from agfsync.commands.doctor import missing
from agfsync.commands.doctor.findings import Examination, Findings
from agfsync.commands.doctor.needs import needs
from agfsync.commands.doctor.writing import counts
from agfsync.errors import FormatError
from agfsync.models.pretrained import torch_device
from agfsync.recipe import Recipe


def examine(recipe: Recipe, path: Path) -> Examination:
    """What a run of `recipe` at `path` would take on this machine, and what it lacks; nothing is made or loaded.

    What a run there has done already isn't taken off.
    """
    findings = Findings()
    recipe = pipeline.choose_dtypes(recipe, fallback="fp32")  # a device that is not there is a finding below
    for fault in pipeline.faults(recipe):
        findings.add(str(fault), blocks=True)
    try:
        found = needs(recipe, counts(recipe), findings)
    except FormatError as fault:
        # What can't be read can't be counted.
        findings.add(str(fault), blocks=True)
        found = []
    download = missing.weights(recipe, findings)
    missing.servers(recipe, findings)
    missing.memory(recipe, found, findings)
    missing.disk(path, found, download, findings)
    missing.patience(found, findings)
    missing.money(recipe, found, findings)
    device = torch_device("auto").type
    return Examination(recipe.name, device, tuple(found), tuple(findings.all), download)

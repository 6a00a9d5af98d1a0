"""Whether a generator's LoRAs fit it, by their names and shapes: nothing is fetched, and no weight is made."""

from collections.abc import Iterator
from pathlib import Path

from agfsync import catalog
from agfsync.commands.doctor.drawing import source_of
from agfsync.commands.doctor.networks import UnknownModel, pipeline
from agfsync.commands.doctor.tally import imagined
from agfsync.errors import ModelError
from agfsync.models import hub
from agfsync.models.lora_files import choose_file
from agfsync.models.loras import check_lora
from agfsync.recipe import ModelSettings


def lora_faults(settings: ModelSettings) -> Iterator[str]:
    """Yield a line on each LoRA that is at hand and that drawing would refuse."""
    source = source_of(settings)
    is_guessed = bool(source.otherwise) and not settings.configuration
    # Another model gives the network, or it is only known what such models mostly are: the loading knows.
    if not settings.loras or settings.parts.keys() & {"unet", "transformer"} or is_guessed:
        return
    try:
        with imagined():
            networks = pipeline(source)
    except UnknownModel:
        return
    for lora in settings.loras:
        try:
            file = _at_hand(lora.path, lora.file)
            if file is not None:
                check_lora(networks, lora.model_dump(), file)
        except ModelError as fault:
            yield str(fault)


def _at_hand(path: str, name: str | None) -> Path | None:
    """The LoRA's file, if it is on this machine and can be told from others."""
    place = Path(catalog.model_path(path)).expanduser()
    if place.is_file():
        return place
    folder = place if place.is_dir() else hub.snapshot(path) if hub.is_hub_id(path) else None
    if folder is None:
        return None
    try:
        return folder / choose_file(path, [p.relative_to(folder).as_posix() for p in folder.rglob("*")], name)
    except ModelError:
        return None  # `weights` tells of it.

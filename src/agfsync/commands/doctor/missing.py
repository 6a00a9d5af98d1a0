"""Checks for what a run lacks: weights, servers and their key, memory, disk, money. Each finding is one line."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from agfsync import catalog
from agfsync.chat.endpoint import BASE_URL, Endpoint, find_address_fault, open_client
from agfsync.commands.doctor import machine
from agfsync.commands.doctor.networks import Pipeline
from agfsync.commands.doctor.page import Examination, format_bytes, format_span
from agfsync.errors import ModelError
from agfsync.models import EXCHANGED, hub
from agfsync.models.lora_files import choose_file
from agfsync.models.loras import check_lora
from agfsync.models.pretrained import torch_device
from agfsync.models.published import UnknownModel
from agfsync.models.weights import WeightQuery, find_weights
from agfsync.pipeline import STAGES
from agfsync.recipe import LanguageModel, ModelSettings, Recipe, list_named_models
from agfsync.recipe.named_models import drawing_models
from agfsync.stages.spending import ACCOUNT

LONG = 2 * 86400.0
"""seconds of computation from which on a note is made"""
CONNECT_SECONDS = 2.0
"""seconds within which a server must accept a connection"""


def report_weights(recipe: Recipe, found: Examination) -> float:
    """Report weights that are neither here nor downloadable, and LoRAs that don't fit; return the bytes to download."""
    total = 0.0
    for query, place in list_loaded(recipe).items():
        try:
            weights = find_weights(replace(query, model=catalog.find_place(query.model)))
        except ModelError as fault:
            found.missing.append(str(fault))
            continue
        total += weights.to_download
        if weights.here or weights.to_download:
            continue
        if hub.is_hub_id(query.model):
            found.missing.append(hub.describe_absence(query.model, query.revision, place, weights.fault))
        else:
            found.missing.append(f"{place}: {query.model}: {weights.fault}")
    for place, settings in drawing_models(recipe).items():
        found.missing += [f"{place}.loras: {fault}" for fault in find_lora_faults(settings)]
    return total


def list_loaded(recipe: Recipe) -> dict[WeightQuery, str]:
    """Return the models of this project's own types whose weights are loaded, with their places in the recipe."""
    loaded: dict[WeightQuery, str] = {}
    for named in list_named_models(recipe):
        section = named.section.model_dump()
        is_replaced = named.role == "scorer" and section.get("weights") is not None
        if named.type in catalog.CATALOG[named.kind] and named.role != "config" and not is_replaced:
            without = tuple(part for part in EXCHANGED if section.get(part))
            variant, file = section.get("variant"), section.get("file")
            query = WeightQuery(named.path, named.revision, named.role, without, variant, file)
            loaded.setdefault(query, named.place)
    return loaded


def find_lora_faults(settings: ModelSettings) -> Iterator[str]:
    """Yield a line on each local LoRA that drawing would refuse, by the names and shapes of its tensors."""
    # If the network comes from another model, or is only guessed, only loading can check.
    is_guessed = settings.path.endswith(hub.SAFE) and not settings.configuration
    if not settings.loras or is_guessed or settings.parts.keys() & {"unet", "transformer"}:
        return
    try:
        networks = Pipeline.build(settings).networks
    except UnknownModel:
        return
    for lora in settings.loras:
        place = hub.find_snapshot(lora.path) if hub.is_hub_id(lora.path) else Path(catalog.find_place(lora.path))
        if place is None:
            continue
        names = [file.relative_to(place).as_posix() for file in place.rglob("*")]
        try:
            file = place if place.is_file() else place / choose_file(lora.path, names, lora.file)
        except ModelError:
            continue  # `find_weights` reports it
        try:
            check_lora(networks, lora.model_dump(), file)
        except ModelError as fault:
            yield str(fault)


def report_servers(recipe: Recipe, found: Examination) -> None:
    """Report language models without a key, and servers that can't be reached; no request is sent."""
    for where, endpoint in _list_endpoints(recipe):
        try:
            open_client(endpoint).close()
        except ModelError as fault:
            found.missing.append(f"{where}: {fault}")
        if not (find_address_fault(endpoint.url) or getproxies() or _is_reached(endpoint.url)):
            found.missing.append(
                f"{where}: no server answers at {endpoint.server}: start it, connect to the network, or fix {BASE_URL}"
            )


def _list_endpoints(recipe: Recipe) -> Iterator[tuple[str, Endpoint]]:
    """Yield each server once, with the first section of the recipe that names it."""
    endpoints: dict[str, tuple[str, Endpoint]] = {}
    for section, model in _list_language_models(recipe):
        endpoint = Endpoint(model.path, **model.model_dump(exclude=ACCOUNT | {"type", "path"}))
        endpoints.setdefault(endpoint.url, (section, endpoint))
    for name, scorer in recipe.scorers.items():
        if (server := scorer.asked_server) is not None and scorer.type in catalog.CATALOG["scorers"]:
            arguments = server.model_dump(exclude=ACCOUNT)
            endpoint = Endpoint(scorer.path, temperature=0.0, **{"structured": False, **arguments})
            endpoints.setdefault(endpoint.url, (f"scorers.{name}.server", endpoint))
    for name, settings in recipe.evaluation.sets.items():
        if (judge := settings.pairwise) is not None and (server := judge.asked_server) is not None:
            arguments = server.model_dump(exclude=ACCOUNT)
            endpoint = Endpoint(judge.path, temperature=0.0, **arguments)
            endpoints.setdefault(endpoint.url, (f"evaluation.sets.{name}.pairwise.server", endpoint))
    yield from endpoints.values()


def _list_language_models(recipe: Recipe) -> list[tuple[str, LanguageModel]]:
    """Return the language models that write or polish texts, with their sections."""
    captions = recipe.captions
    writers = {
        "captions.writer": None if captions.source else captions.writer,
        "captions.polish": captions.polish,
        "questions.writer": recipe.questions.writer,
    }
    return [(section, model) for section, writer in writers.items() if writer and (model := writer.language_model)]


def _is_reached(url: str) -> bool:
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
        return True
    except OSError:
        return False


def report_resources(recipe: Recipe, path: Path, found: Examination) -> None:
    """Report stages that don't fit in memory with advice, disks without space, and a CPU that would take too long."""
    from huggingface_hub import constants

    advice = {stage.name: stage.advise_on_memory(recipe) for stage in STAGES}
    try:
        device = found.device if found.card else str(torch_device(recipe.model.device))
        available = found.card - machine.CONTEXT if found.card else machine.read_memory(device)
    except ModelError:
        available = inf
    for need in found.needs:
        if need.memory > available:
            taken, has = format_bytes(need.memory), format_bytes(available)
            message = f"{need.stage} takes about {taken} of memory, {device} has {has}"
            found.missing.append(f"{message}: lower {advice[need.stage]}")
    wanted_by_run, cache = sum(need.disk for need in found.needs), Path(constants.HF_HUB_CACHE)
    for name, place, needed, remedy in (
        ("the run", path, wanted_by_run, "choose another --out, or lower captions.count"),
        ("the weights to download", cache, found.download, "set HF_HOME to a larger disk"),
    ):
        if needed > (free := machine.read_free_space(place)):
            message = f"{name} takes about {format_bytes(needed)}, {format_bytes(free)} are free at {place}: {remedy}"
            found.missing.append(message)
    seconds = sum(need.seconds for need in found.needs if need.memory and not isnan(need.seconds))
    if found.device == "cpu" and seconds > LONG:
        found.notes.append(f"there is no accelerator: on this CPU the networks would run for {format_span(seconds)}")


def report_money(recipe: Recipe, found: Examination) -> None:
    """Report language models without prices, and caps that the run will likely reach."""
    unpriced: list[str] = []
    for section, model in _list_language_models(recipe):
        stage = section.partition(".")[0]
        need = next((need for need in found.needs if need.stage == stage and need.tokens), None)
        if need is None:
            continue
        if isnan(need.cost):
            unpriced.append(f"{section}.prices")
        for what, value, cap, name in (
            (f"cost about {need.cost:,.2f}", need.cost, model.max_cost, "max_cost"),
            (f"take about {need.tokens:,.0f} tokens", need.tokens, model.max_tokens_total, "max_tokens_total"),
        ):
            if cap is not None and value > cap:
                what = f"{stage} will {what} and stops at {section}.{name} = {cap}"
                found.notes.append(f"{what}: raise it, or go on later with a higher one")
    if unpriced:
        found.notes.append(f"the cost isn't known: give {' and '.join(unpriced)}")

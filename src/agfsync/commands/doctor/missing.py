"""What a run would lack: weights, servers and their key, memory, disk, money. Each is told in a line."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from agfsync.chat.endpoint import BASE_URL, Endpoint, find_address_fault, open_client
from agfsync.commands.doctor import machine
from agfsync.commands.doctor.findings import Findings, Need
from agfsync.commands.doctor.page import size, span
from agfsync.commands.doctor.weights import SERVED, look, places
from agfsync.errors import ModelError
from agfsync.models import hub
from agfsync.models.pretrained import torch_device
from agfsync.pipeline import STAGES
from agfsync.recipe import Recipe
from agfsync.stages.spending import ACCOUNT

LONG = 2 * 86400.0
"""seconds from which on it is worth a word"""
NEARBY = 2.0
"""seconds that a server has to be reached"""


def weights(recipe: Recipe, findings: Findings) -> float:
    """Tells of weights that aren't here and can't be had; bytes of those that would be downloaded."""
    total = 0.0
    for place in places(recipe):
        try:
            found = look(place)
        except ModelError as fault:
            findings.add(str(fault), blocks=True)
            continue
        total += found.to_download
        if found.here or found.to_download:
            continue
        says = f"{place.key}: {place.model}" + (f" at {place.revision}" if place.revision else "")
        if found.fault == hub.NO_NETWORK:
            says += " isn't in the cache and can't be looked at: no network; fetch it, or name a folder"
        else:
            says += f": {found.fault}"
        findings.add(says, blocks=True)
    return total


def servers(recipe: Recipe, findings: Findings) -> None:
    """Tells of language models without a key, and of servers that can't be reached; nothing is asked of them."""
    for where, endpoint in _endpoints(recipe):
        try:
            open_client(endpoint).close()
        except ModelError as fault:
            findings.add(f"{where}: {fault}", blocks=True)
        if not (find_address_fault(endpoint.url) or getproxies() or _reached(endpoint.url)):
            findings.add(f"{where}: no server answers at {endpoint.server}: start it, or mend {BASE_URL}", blocks=True)


def _endpoints(recipe: Recipe) -> Iterator[tuple[str, Endpoint]]:
    """Every server once, with the first key of the recipe that names it."""
    found: dict[str, tuple[str, Endpoint]] = {}
    for stage, model in (
        ("captions", recipe.captions.writer.language_model),
        ("questions", recipe.questions.writer.language_model),
    ):
        if model is not None and not (stage == "captions" and recipe.captions.source):
            endpoint = Endpoint(model.path, **model.model_dump(exclude=ACCOUNT | {"type", "path"}))
            found.setdefault(endpoint.url, (f"{stage}.writer", endpoint))
    for where, scorers in (("scorers", recipe.scorers),):
        for name, each in scorers.items():
            if each.type in SERVED and each.asked_server is not None:
                asked = each.asked_server.model_dump(exclude=ACCOUNT)
                endpoint = Endpoint(each.path, temperature=0.0, structured=False, **asked)
                found.setdefault(endpoint.url, (f"{where}.{name}.server", endpoint))
    yield from found.values()


def _reached(url: str) -> bool:
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=NEARBY).close()
    except OSError:
        return False
    return True


def memory(recipe: Recipe, needs: Sequence[Need], findings: Findings) -> None:
    """Tells of stages that don't fit, and what to lower."""
    lighter = {stage.name: stage.lighter for stage in STAGES}
    try:
        device = str(torch_device(recipe.model.device))
    except ModelError:
        return
    has = machine.memory(device)
    for need in needs:
        if has is not None and need.memory is not None and need.memory > has:
            says = f"{need.stage} takes about {size(need.memory)} of memory, {device} has {size(has)}"
            findings.add(f"{says}: lower {lighter[need.stage]}", blocks=True)


def disk(path: Path, needs: Sequence[Need], download: float, findings: Findings) -> None:
    """Tells where the run, or the weights that it fetches, don't fit on their disks."""
    from huggingface_hub import constants

    wanted = sum(need.disk or 0.0 for need in needs)
    for what, place, bytes_, mend in (
        ("the run", path, wanted, "choose another --out, or lower captions.count"),
        ("the weights to download", Path(constants.HF_HUB_CACHE), download, "set HF_HOME to a larger disk"),
    ):
        if bytes_ > (free := machine.room(place)):
            findings.add(f"{what} takes about {size(bytes_)}, {size(free)} are free at {place}: {mend}", blocks=True)


def patience(needs: Sequence[Need], findings: Findings) -> None:
    """Tells where a CPU would be at it for long."""
    seconds = sum(need.seconds or 0.0 for need in needs if need.runs)
    if torch_device("auto").type == "cpu" and seconds > LONG:
        findings.add(f"there is no accelerator: on this CPU the networks would run for {span(seconds)}", blocks=False)


def money(recipe: Recipe, needs: Sequence[Need], findings: Findings) -> None:
    """Tells of language models without prices, and of caps that the run will likely reach."""
    unpriced: list[str] = []
    for stage, model in (
        ("captions", recipe.captions.writer.language_model),
        ("questions", recipe.questions.writer.language_model),
    ):
        need = next((each for each in needs if each.stage == stage and each.tokens), None)
        if model is None or need is None:
            continue
        if need.cost is None:
            unpriced.append(f"{stage}.model.prices")
        elif model.max_cost is not None and need.cost > model.max_cost:
            findings.add(
                f"{stage} will cost about {need.cost:,.2f} and stops at {stage}.model.max_cost = {model.max_cost:g}:"
                " raise it, or go on later with a higher one",
                blocks=False,
            )
        if model.max_tokens_total is not None and (need.tokens or 0) > model.max_tokens_total:
            findings.add(
                f"{stage} will take about {need.tokens:,.0f} tokens and stops at {stage}.model.max_tokens_total ="
                f" {model.max_tokens_total}: raise it, or go on later with a higher one",
                blocks=False,
            )
    if unpriced:
        findings.add(f"the cost isn't known: give {' and '.join(unpriced)}", blocks=False)

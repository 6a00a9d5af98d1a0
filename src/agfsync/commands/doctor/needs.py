"""What each stage of a recipe takes on this machine."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from agfsync.commands.doctor import machine
from agfsync.commands.doctor.drawing import Drawing, Teaching, drawing, picture_size, teaching
from agfsync.commands.doctor.findings import Findings, Need
from agfsync.commands.doctor.judging import CLIP_FAMILY, Batch, Judging, judging
from agfsync.commands.doctor.lora_fit import lora_faults
from agfsync.commands.doctor.networks import UnknownModel
from agfsync.commands.doctor.page import size
from agfsync.commands.doctor.weights import SERVED
from agfsync.commands.doctor.writing import Counts, Tokens, caption_tokens, question_tokens
from agfsync.engine.local_pool import count_cores, count_wanted_workers
from agfsync.errors import ModelError
from agfsync.models.pretrained import torch_device
from agfsync.recipe import LanguageModel, Recipe, ScorerSettings
from agfsync.stages.training import ENCODED_AT_ONCE
from agfsync.training.checkpoints import KEPT

T = TypeVar("T")

PICTURE = 1.6
"""bytes of PNG a pixel, as photographs have; plain pictures have less"""
TEXT = 2500.0
"""bytes of a caption with its questions"""
SCORE = 300.0
"""bytes of a score with its answers"""
SERVED_SECONDS = 1.5
"""for a server to look at a picture and answer"""
SERVED_TOKENS = 65
"""of a request to it, its answer included, beside the picture"""
PATCH = 28
"""pixels a side of what a vision-language model makes a token of"""


def needs(recipe: Recipe, there: Counts, findings: Findings) -> list[Need]:
    """Every stage's, in order; what isn't known is told."""
    return [
        _captions(recipe, there),
        _questions(recipe, there),
        _candidates(recipe, there, findings),
        _scores(recipe, there, findings),
        Need("pairs"),
        _training(recipe, there, findings),
        _evaluation(recipe, there, findings),
        Need("report"),
    ]


def _device(name: str, where: str, findings: Findings) -> str | None:
    """The device called `name`; None, which is told, where it isn't there."""
    try:
        return str(torch_device(name))
    except ModelError as fault:
        findings.add(f"{where}: {fault}", blocks=True)
        return None


def _kind(device: str | None) -> str:
    """How networks are held there: on any accelerator alike, on a CPU in float32."""
    return "cpu" if device == "cpu" else "cuda"


def _process(device: str | None) -> float:
    """What the program takes beside its tensors; an accelerator's share is taken off what it has."""
    return machine.PROCESS if device == "cpu" else 0.0


def _known(work: Callable[[], T], where: str, findings: Findings) -> T | None:
    """What `work` reckons; None, which is told, where a model isn't known."""
    try:
        return work()
    except UnknownModel as fault:
        findings.add(f"{where}: {fault}; it is in no figure", blocks=False)
    except ModelError as fault:
        findings.add(str(fault), blocks=True)
    except Exception as failure:
        # An unusual configuration may fail in any way where it is gone through; whether it can be drawn with is asked
        # by itself.
        findings.add(f"{where}: what it takes isn't known ({type(failure).__name__}); it is in no figure", blocks=False)
    return None


def _short(model: str) -> str:
    """The last part of a path or a hub id."""
    return model.rstrip("/").rpartition("/")[2].removeprefix("embedded:")


def _pixels(recipe: Recipe) -> tuple[int, int]:
    """Height and width of the pictures."""
    settings = recipe.model
    if settings.sampling.height and settings.sampling.width:
        return settings.sampling.height, settings.sampling.width
    found = _known(lambda: picture_size(settings), "model", Findings())
    return found or (settings.sampling.height or 512, settings.sampling.width or 512)


# What writes


def _captions(recipe: Recipe, there: Counts) -> Need:
    tokens = caption_tokens(there.written) if recipe.captions.writer.language_model and there.written else None
    disk = TEXT * (there.train + there.held_out)
    return _asking("captions", recipe.captions.writer.language_model, tokens, disk)


def _questions(recipe: Recipe, there: Counts) -> Need:
    settings = recipe.questions
    asks = settings.writer.language_model is not None and there.asked > 0
    tokens = question_tokens(there.asked, settings.rounds, settings.verify) if asks else None
    return _asking("questions", settings.writer.language_model, tokens, 0.0)


def _asking(stage: str, model: LanguageModel | None, tokens: Tokens | None, disk: float) -> Need:
    need = Need(stage, disk=disk or None)
    if model is not None and tokens is not None:
        need.models, need.requests, need.tokens = [model.path], tokens.requests, tokens.input + tokens.output
        need.seconds, need.cost = tokens.seconds(model.concurrency), tokens.cost(model)
    return need


# What draws


def _candidates(recipe: Recipe, there: Counts, findings: Findings) -> Need:
    if recipe.pairs.source:
        return Need("candidates", [Path(recipe.pairs.source).name])
    settings, count = recipe.model, recipe.candidates.per_caption
    need = Need("candidates", _generator_names(recipe), runs=True)
    device = _device(settings.device, "model.device", findings)
    found = _known(lambda: drawing(settings, _kind(device), count, 1), "model", findings)
    if found is None:
        return need
    for fault in lora_faults(settings):
        findings.add(f"model.loras: {fault}", blocks=True)
    need.memory = (found.memory + _process(device)) * _workers_beside(recipe, device)
    need.disk = PICTURE * found.pixels[0] * found.pixels[1] * count * there.train
    need.seconds = _drawn(found, device, there.train, count)
    return need


def _generator_names(recipe: Recipe) -> list[str]:
    settings = recipe.model
    names = [settings.path, *(lora.path for lora in settings.loras)]
    return [_short(each) for each in [*names, *([settings.refining.path] if settings.refining else [])]]


def _workers_beside(recipe: Recipe, device: str | None) -> int:
    """Return how many workers share a CPU's memory; accelerators have theirs each."""
    return max(1, count_wanted_workers(recipe.engine, 0)) if device == "cpu" else 1


def _drawn(found: Drawing, device: str | None, batches: float, pictures: int) -> float | None:
    """Seconds of drawing, and of writing the pictures, which has every core."""
    if device is None:
        return None
    speed, (writing, _) = machine.speed(device), machine.picture_seconds(*found.pixels)
    each = sum(speed.seconds(work) * times for work, times in found.works)
    return batches * (each + writing * pictures / min(pictures, count_cores()))


def _training(recipe: Recipe, there: Counts, findings: Findings) -> Need:
    settings, training = recipe.model, recipe.training
    method = f"{training.method.type}, LoRA" if training.lora else training.method.type
    need = Need("training", [_short(settings.path), method], runs=True)
    device = _device(settings.device, "model.device", findings)
    if device == "cpu" and training.precision == "fp16":
        findings.add("training.precision fp16 needs an accelerator: on a CPU set it to bf16 or fp32", blocks=True)
    found = _known(lambda: teaching(settings, training, _kind(device), ENCODED_AT_ONCE), "model", findings)
    if found is None:
        return need
    encoded = 2 * there.pairs * found.kept + there.pairs * found.kept_prompt
    need.memory = found.memory + _process(device) + (encoded if device == "cpu" else 0.0)
    need.disk = encoded + (KEPT + 1) * found.checkpoint + found.model
    need.seconds = _trained(recipe, there, found, device)
    _host(encoded, device, findings)
    return need


def _trained(recipe: Recipe, there: Counts, found: Teaching, device: str | None) -> float | None:
    if device is None:
        return None
    speed, training = machine.speed(device), recipe.training
    step = training.accumulate * speed.seconds(found.step) + found.updated / speed.bandwidth
    encoding = 2 * there.pairs * speed.seconds(found.encode_image) + there.pairs * speed.seconds(found.encode_prompt)
    return training.steps * step + encoding


def _host(encoded: float, device: str | None, findings: Findings) -> None:
    """The encoded pairs are kept in the machine's own memory, beside an accelerator's."""
    has = machine.memory("cpu")
    if device != "cpu" and has is not None and encoded + machine.PROCESS > has:
        findings.add(
            f"training keeps {size(encoded)} of encoded pairs in the machine's memory, which has {size(has)}:"
            " lower captions.count",
            blocks=True,
        )


# What judges


def _scores(recipe: Recipe, there: Counts, findings: Findings) -> Need:
    scorers = recipe.candidate_scorers
    if recipe.pairs.source:
        return Need("scores")
    pictures = there.train * recipe.candidates.per_caption
    batch = max(1, min(recipe.scores.batch, pictures))
    shown = Batch(batch, batch / recipe.candidates.per_caption, there.questions)
    need = _judged(recipe, "scores", scorers, "scorers", shown, pictures, findings)
    need.disk = SCORE * pictures * len(scorers)
    return need


def _evaluation(recipe: Recipe, there: Counts, findings: Findings) -> Need:
    """Base and aligned draw each held-out caption, and every judge sees all of it."""
    settings, pictures = recipe.model, 2 * there.held_out
    judges = recipe.evaluation_scorers
    batch = max(1, min(recipe.scores.batch, pictures))
    where = "scorers"
    need = _judged(recipe, "evaluation", judges, where, Batch(batch, batch, there.questions), pictures, findings)
    need.models = [_short(settings.path), *need.models]
    device = _device(settings.device, "model.device", findings)
    at_once = max(1, min(recipe.evaluation.batch, there.held_out))
    found = _known(lambda: drawing(settings, _kind(device), at_once, at_once), "model", findings)
    need.runs = True
    if found is None:
        need.memory = need.seconds = None
        return need
    need.memory = max(need.memory or 0.0, found.memory + _process(device))
    need.disk = PICTURE * found.pixels[0] * found.pixels[1] * pictures + SCORE * pictures * len(judges)
    drawn = _drawn(found, device, pictures / at_once, at_once)
    need.seconds = None if drawn is None or need.seconds is None else need.seconds + drawn
    return need


def _judged(
    recipe: Recipe,
    stage: str,
    judges: Mapping[str, ScorerSettings],
    where: str,
    batch: Batch,
    pictures: int,
    findings: Findings,
) -> Need:
    """All judges on all pictures, a panel at a time; one that isn't known is told of and adds nothing."""
    need = Need(stage, [_short(m) for m in dict.fromkeys(each.path for each in judges.values()) if m])
    totals = [_panel(recipe, panel, where, batch, pictures, findings) for panel in _panels(judges)]
    known = [total for total in totals if total is not None]
    need.runs = True
    need.memory = max((memory for memory, _ in known), default=None)
    seconds = [each for _, each in known if each is not None]
    need.seconds = sum(seconds) if seconds else None
    served = [each for each in judges.values() if each.type in SERVED]
    if served:
        need.requests = len(served) * pictures * batch.questions
        height, width = _pixels(recipe)
        need.tokens = need.requests * (height * width / PATCH**2 + SERVED_TOKENS)
    return need


def _panel(
    recipe: Recipe,
    panel: Mapping[str, ScorerSettings],
    where: str,
    batch: Batch,
    pictures: int,
    findings: Findings,
) -> tuple[float, float | None] | None:
    """Memory and seconds of judges with one model; those that look through the same CLIP share what it sees."""
    name, first = next(iter(panel.items()))
    if first.type in SERVED:
        server = first.asked_server
        seconds = pictures * batch.questions * SERVED_SECONDS / (server.concurrency if server else 1)
        return machine.PROCESS, seconds
    device = _device(first.device, f"{where}.{name}.device", findings)
    if device == "cpu" and first.dtype == "fp16":
        findings.add(f"{where}.{name}.dtype fp16 is slow on a CPU: set it to fp32 or bf16", blocks=False)
    alike: dict[str, ScorerSettings] = {}
    for each in panel.values():
        alike.setdefault("clip" if each.type in CLIP_FAMILY else each.type, each)
    found = [_known(partial(judging, each, batch), f"{where}.{name}", findings) for each in alike.values()]
    known = [each for each in found if each is not None]
    if not known:
        return None
    memory = sum(each.memory for each in known) + _process(device)
    return memory, _looked(recipe, known, device, batch, pictures)


def _looked(recipe: Recipe, found: Sequence[Judging], device: str | None, batch: Batch, pictures: int) -> float | None:
    if device is None:
        return None
    speed = machine.speed(device)
    works = [pair for each in found for pair in each.works]
    _, reading = machine.picture_seconds(*_pixels(recipe))
    return pictures / batch.pictures * sum(speed.seconds(work) * times for work, times in works) + pictures * reading


def _panels(judges: Mapping[str, ScorerSettings]) -> list[dict[str, ScorerSettings]]:
    """The judges of one model together, as the stages have them in memory."""
    panels: dict[tuple[str | None, ...], dict[str, ScorerSettings]] = {}
    for name, each in judges.items():
        key = (*each.files, each.revision, each.dtype, each.device)
        panels.setdefault(key, {})[name] = each
    return list(panels.values())

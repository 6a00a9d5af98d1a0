"""The needs of each stage of a recipe on this machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan, nan
from pathlib import Path

from agfsync.commands.doctor import loads, machine
from agfsync.commands.doctor.page import Examination, Need, format_bytes
from agfsync.engine.local_pool import count_cores, count_wanted_workers
from agfsync.errors import ModelError
from agfsync.language.tokens import (
    TokenEstimate,
    estimate_caption_tokens,
    estimate_polish_tokens,
    estimate_question_tokens,
)
from agfsync.models.pretrained import torch_device
from agfsync.models.published import UnknownModel
from agfsync.pipeline.counts import Counts
from agfsync.pipeline.plan import plan_stages
from agfsync.recipe import LanguageModel, ModelSettings, Recipe, ScorerSettings
from agfsync.recipe.named_models import drawing_models
from agfsync.recipe.online import OnlineSettings
from agfsync.recipe.scorers import AnnotatorSettings, ServedScorerSettings

_PIXEL = 1.6
"""bytes of PNG for each pixel of a photograph; plain images need fewer"""
_TEXT = 2500.0
"""bytes of a caption with its questions"""
_SCORE = 300.0
"""bytes of a score with its answers"""
SERVED_SECONDS, SERVED_TOKENS = 1.5, 65
"""seconds of a request about an image, and tokens of the request and its answer without the image"""
_REASON_TOKENS, _ASPECT_TOKENS, _ANNOTATION_SECONDS = 80, 450, 12.0
"""tokens of an annotator's reason and score for an image, tokens of its instructions, and seconds of a reply"""
_PATCH = 28
"""side in pixels of the patch that is one token of a vision-language model"""
_UNKNOWN = loads.Load([], nan)


@dataclass(frozen=True, slots=True)
class _JudgeEstimate:
    """A judge's bytes of memory, the program's bytes in addition, and the seconds for all images."""

    memory: float
    process: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimator:
    """Estimates every stage of a recipe; unknown figures are reported in `found`."""

    recipe: Recipe
    counts: Counts
    found: Examination

    def estimate(self) -> list[Need]:
        """Return the needs of the recipe's stages, in order."""
        estimates: dict[str, Callable[[], Need]] = {
            "captions": self._estimate_captions,
            "questions": self._estimate_questions,
            "candidates": self._estimate_candidates,
            "scores": self._estimate_scores,
            "reward": self._estimate_reward,
            "training": self._estimate_training,
            "evaluation": self._estimate_evaluation,
        }
        names = [stage.name for stage in plan_stages(self.recipe)]
        needs = [estimates[name]() if name in estimates else Need(name) for name in names]
        return [*needs, *self._estimate_later_rounds(needs)]

    def _estimate_later_rounds(self, needs: Sequence[Need]) -> list[Need]:
        """Estimate the later rounds from the `needs` of the first; the base model's images are shared."""
        if (rounds := self.recipe.rounds) is None:
            return []
        later = Need("rounds", [f"2 to {rounds.count}"])
        shares = {"evaluation": 0.5} | dict.fromkeys(("captions", "questions"), float(rounds.captions == "new"))
        for need in needs:
            share = (rounds.count - 1) * shares.get(need.stage, 1.0)
            for name in ("disk", "seconds", "requests", "tokens", "cost"):
                setattr(later, name, getattr(later, name) + share * getattr(need, name))
        return [later]

    def _estimate_captions(self) -> Need:
        model, written = self.recipe.captions.writer.language_model, self.counts.written
        need = Need("captions", disk=_TEXT * (self.counts.train + self.counts.held_out))
        if model and written:
            need = _add_tokens(need, model, estimate_caption_tokens(written))
        settings, polished = self.recipe.captions, self.counts.polished
        if settings.polish and (polisher := settings.polish.language_model) and polished:
            need = _add_tokens(need, polisher, estimate_polish_tokens(polished))
        return need

    def _estimate_questions(self) -> Need:
        settings, asked, need = self.recipe.questions, self.counts.asked, Need("questions")
        if (model := settings.writer.language_model) is None or not asked:
            return need
        return _add_tokens(need, model, estimate_question_tokens(asked, settings.rounds, settings.verify))

    def _estimate_candidates(self) -> Need:
        """Estimate drawing all captions with all generators, one model in memory at a time."""
        if self.recipe.pairs.source:
            return Need("candidates", [Path(self.recipe.pairs.source).name])
        count, captions = self.recipe.candidates.per_caption, self.counts.train
        workers = max(1, count_wanted_workers(self.recipe.engine, 0))
        models = drawing_models(self.recipe).items()
        parts = [self._estimate_drawing(place, each, captions, count, workers=workers) for place, each in models]
        memory = [part.memory for part in parts]
        return Need(
            "candidates",
            [model for part in parts for model in part.models],
            memory=nan if any(map(isnan, memory)) else max(memory),
            disk=sum(part.disk for part in parts),
            seconds=sum(part.seconds for part in parts),
        )

    def _estimate_drawing(
        self, place: str, settings: ModelSettings, batches: float, images: int, *, prompts: int = 1, workers: int = 1
    ) -> Need:
        """Estimate batches of images by one generator, and writing them as PNG on all cores."""
        device = self._find_device(settings.device, place)
        load = self._try_estimate(partial(loads.estimate_drawing, settings, device == "cpu", images, prompts), place)
        models = [settings.path, *(lora.path for lora in settings.loras)]
        writing, _ = machine.measure_image_seconds(*load.pixels) if all(load.pixels) else (0.0, 0.0)
        return Need(
            place,
            [_shorten_name(model) for model in models + ([settings.refining.path] if settings.refining else [])],
            # Workers share a CPU's memory; each accelerator has its own.
            memory=(load.memory + _count_process(device)) * (workers if device == "cpu" else 1),
            disk=_PIXEL * load.pixels[0] * load.pixels[1] * batches * images,
            seconds=batches * (load.estimate_seconds(device) + writing * images / min(images, count_cores())),
        )

    def _estimate_reward(self) -> Need:
        section = self.recipe.reward
        network = getattr(section.method, "network", None) if section is not None else None
        self.found.notes.append("the time and memory of the reward model's training are in no figure")
        return Need("reward", [_shorten_name(network.path)] if network is not None else [])

    def _estimate_training(self) -> Need:
        settings, training = self.recipe.model, self.recipe.training
        if training.method.trains == "nothing":
            self.found.notes.append(f"what {training.method.type} adds to the drawing of a model is in no figure")
            return Need("training", [training.method.type])
        is_online = isinstance(training.method, OnlineSettings)
        if training.method.needs == "captions" and not is_online:
            self.found.notes.append(
                f"the time and memory of the images that {training.method.type} draws and scores in training are in no "
                f"figure"
            )
        if self.recipe.evaluation.controls:
            self.found.notes.append("evaluation.controls: each trains and draws once more, which is in no figure")
        method = f"{training.method.type}, LoRA" if training.lora else training.method.type
        device = self._find_device(settings.device, "model")
        if device == "cpu" and training.precision == "fp16":
            self.found.missing.append("training.precision fp16 needs an accelerator: on a CPU set it to bf16 or fp32")
        examples = self.counts.train if is_online else self.counts.pairs
        estimate = partial(loads.estimate_training, settings, training, device == "cpu", examples)
        load = self._try_estimate(estimate, "model")
        if load.shared:
            memory = {n: format_bytes(load.estimate_shard_memory(n) + _count_process(device)) for n in (2, 4, 8)}
            each = ", ".join(f"{taken} with {count}" for count, taken in memory.items())
            self.found.notes.append(f"training.fsdp: the training takes less in each of several processes: {each}")
        need = Need(
            "training",
            [_shorten_name(settings.path), method],
            memory=load.memory + _count_process(device),
            disk=2 * load.encoded + load.kept,  # during the encoding they exist twice
            seconds=load.estimate_seconds(device),
        )
        return self._add_rewards(need) if is_online else need

    def _add_rewards(self, need: Need) -> Need:
        """Add the scorers of the rewards to a training: they stay in memory, and score each drawn image."""
        training, weights = self.recipe.training, self.recipe.reward_weights
        judges = {name: settings for name, settings in self.recipe.scorers.items() if weights.get(name)}
        images = training.batch * getattr(training.method, "group", 1)
        part = loads.count_part(training)
        batch = loads.ImageBatch(part, part, self.counts.questions)
        rewards = self._estimate_judging("training", judges, batch, training.steps * images, together=True)
        need.memory += rewards.memory
        need.seconds += rewards.seconds
        need.requests, need.tokens = rewards.requests, rewards.tokens
        return need

    def _estimate_scores(self) -> Need:
        candidates, scorers = self.recipe.candidates, self.recipe.candidate_scorers
        if self.recipe.pairs.source:
            return Need("scores")
        images = self.counts.train * candidates.per_caption * len(self.recipe.drawing_models)
        batch = max(1, min(self.recipe.scores.batch, images))
        shown = loads.ImageBatch(batch, batch / candidates.per_caption, self.counts.questions)
        need = self._estimate_judging("scores", scorers, shown, images)
        need.disk = _SCORE * images * len(scorers)
        return need

    def _estimate_evaluation(self) -> Need:
        """Estimate drawing each evaluated caption with the base and the aligned model, and scoring by all judges."""
        settings, captions = self.recipe.model, self.counts.evaluated
        judges = self.recipe.evaluation_scorers
        batch = max(1, min(self.recipe.scores.batch, 2 * captions))
        at_once = max(1, min(self.recipe.evaluation.batch, captions))
        shown = loads.ImageBatch(batch, batch, self.counts.questions)
        need = self._estimate_judging("evaluation", judges, shown, 2 * captions)
        batches = 2 * captions * self.recipe.evaluation.per_caption / at_once
        drawn = self._estimate_drawing("model", settings, batches, at_once, prompts=at_once)
        need.models = [_shorten_name(settings.path), *need.models]
        # `max` keeps a NaN that comes first: the result is NaN only if the generator is unknown.
        need.memory = max(drawn.memory, need.memory)
        need.seconds += drawn.seconds
        need.disk = drawn.disk + _SCORE * 2 * captions * len(judges)
        for name, each in self.recipe.evaluation.sets.items():
            if each.pairwise is not None:
                self.found.notes.append(f"evaluation.sets.{name}.pairwise: what the judge takes is in no figure")
        return need

    def _estimate_judging(
        self,
        stage: str,
        judges: Mapping[str, ScorerSettings],
        batch: loads.ImageBatch,
        images: int,
        *,
        together: bool = False,
    ) -> Need:
        """Estimate all judges on all images; judges with the same CLIP share its embeddings.

        The memory is that of the largest judge, with the program; or if `together`, of all judges, without it.
        """
        models = dict.fromkeys(each.path for each in judges.values() if each.path)
        distinct: dict[tuple[str | None, ...], str] = {}
        for name, each in judges.items():
            family = "clip" if each.type in loads.CLIP_FAMILY else each.type
            distinct.setdefault(
                (family, each.path, getattr(each, "weights", None), each.revision, each.dtype, each.device), name
            )
        estimates = [self._estimate_judge(f"scorers.{name}", judges[name], batch, images) for name in distinct.values()]
        known = [each for each in estimates if not isnan(each.memory)]
        need = Need(stage, [_shorten_name(model) for model in models])
        if estimates and together:
            need.memory = sum(each.memory for each in known) if known else nan
        elif estimates:
            need.memory = max((each.memory + each.process for each in known), default=nan)
        if estimates:
            need.seconds = sum(each.seconds for each in known) if known else nan
        for each in judges.values():
            if isinstance(each, ServedScorerSettings):
                requests, tokens = self._count_requests(each, batch, images)
                need.requests += requests
                need.tokens += requests * tokens
        return need

    def _count_requests(
        self, settings: ServedScorerSettings, batch: loads.ImageBatch, images: int
    ) -> tuple[float, float]:
        """Return the number of requests to a judge's server, and the tokens of a request with its answer."""
        height, width = self._find_pixels()
        of_image = height * width / _PATCH**2
        if not isinstance(settings, AnnotatorSettings):
            return images * batch.questions, of_image + SERVED_TOKENS
        group = batch.images / batch.prompts
        requests = images / group * len(settings.aspects) * settings.orders
        return requests, group * (of_image + _REASON_TOKENS) + _ASPECT_TOKENS

    def _estimate_judge(
        self, place: str, settings: ScorerSettings, batch: loads.ImageBatch, images: int
    ) -> "_JudgeEstimate":
        """Return the needs of one judge for all images; NaN if unknown."""
        if isinstance(settings, ServedScorerSettings):
            concurrency = settings.server.concurrency if settings.server else 1
            requests, _ = self._count_requests(settings, batch, images)
            reply_seconds = _ANNOTATION_SECONDS if settings.aspect_names else SERVED_SECONDS
            return _JudgeEstimate(0.0, machine.PROCESS, requests * reply_seconds / concurrency)
        device = self._find_device(settings.device, place)
        if device == "cpu" and settings.dtype == "fp16":
            self.found.notes.append(f"{place}.dtype fp16 is slow on a CPU: set it to fp32 or bf16")
        load = self._try_estimate(partial(loads.estimate_judging, settings, batch), place)
        _, reading = machine.measure_image_seconds(*self._find_pixels())
        seconds = images * (load.estimate_seconds(device) / batch.images + reading)
        return _JudgeEstimate(load.memory, _count_process(device), seconds)

    def _find_pixels(self) -> tuple[int, int]:
        """Return the height and width of the images that the evaluation draws."""
        settings = self.recipe.model
        at_once = max(1, min(self.recipe.evaluation.batch, self.counts.evaluated))
        on_cpu = self._find_device(settings.device) == "cpu"
        height, width = self._try_estimate(partial(loads.estimate_drawing, settings, on_cpu, at_once, at_once)).pixels
        return settings.sampling.height or height or 512, settings.sampling.width or width or 512

    def _find_device(self, name: str, place: str = "") -> str | None:
        """Return the device `name`; None if it doesn't exist, which is reported at `place`.

        It is also None for the accelerator of another machine.
        """
        if self.found.card is not None and name != "cpu":
            return None
        try:
            return str(torch_device(name))
        except ModelError as fault:
            if place:
                self.found.missing.append(f"{place}.device: {fault}")
            return None

    def _try_estimate(self, estimate: Callable[[], loads.Load], place: str = "") -> loads.Load:
        """Return the estimate; `_UNKNOWN` if a model is unknown, which is reported at `place`."""
        try:
            return estimate()
        except UnknownModel as fault:
            lines, message = self.found.notes, f"{place}: {fault}; it is in no figure"
        except ModelError as fault:
            lines, message = self.found.missing, str(fault)
        except Exception as failure:
            # An unusual configuration may raise any error; another check finds out if the model can draw.
            kind = type(failure).__name__
            lines, message = self.found.notes, f"{place}: what it takes isn't known ({kind}); it is in no figure"
        if place:
            lines.append(message)
        return _UNKNOWN


def _add_tokens(need: Need, model: LanguageModel, tokens: TokenEstimate) -> Need:
    """Add a language model's requests to those of a stage."""
    need.models = list(dict.fromkeys([*need.models, model.path]))
    need.requests, need.tokens = need.requests + tokens.requests, need.tokens + tokens.input + tokens.output
    need.seconds += tokens.estimate_seconds(model.concurrency)
    need.cost += tokens.estimate_cost(model.prices.input, model.prices.output)
    return need


def _count_process(device: str | None) -> float:
    """Return the program's bytes besides its tensors; for an accelerator, `read_memory` has subtracted them."""
    return machine.PROCESS if device == "cpu" else 0.0


def _shorten_name(model: str) -> str:
    """Return the last part of a path or a hub id."""
    return model.rstrip("/").rpartition("/")[2].removeprefix("embedded:")

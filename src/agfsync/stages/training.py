"""Stage 6: the generator's network is aligned by the recipe's method, such as DPO on the pairs (Eq. 8).

Files are written atomically: a killed run continues from its last checkpoint, and ends with the same model.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors.torch import load_file

from agfsync import catalog
from agfsync.engine import launcher
from agfsync.errors import ModelError, RecipeError, RunError
from agfsync.files.atomic import replace_folder
from agfsync.files.tensors import write_tensors
from agfsync.models import LORA_FILE
from agfsync.models.artefact import ModelArtefact
from agfsync.models.execution import check_compiler, compile_blocks
from agfsync.models.pretrained import torch_device
from agfsync.recipe import LoraSettings, ModelSettings, Recipe, ScorerSettings
from agfsync.recipe.models import TransformerSettings
from agfsync.recipe.rounds import Start
from agfsync.records import derive_seed, digest
from agfsync.stages.context import EARLIER, MODEL, NOT_SHAPING_IMAGES, Context, dump_changes
from agfsync.stages.spending import Account, open_judge_accounts
from agfsync.stages.training_data import TrainingData, load_cached_data, load_training_data, locate_cache
from agfsync.stages.watched import check_watch, list_watched, make_watcher
from agfsync.training import DiffusionModel, Reference, release_encoders
from agfsync.training.batches import EncodedPairs, RatedImages
from agfsync.training.checkpoints import Checkpoints
from agfsync.training.loop import train
from agfsync.training.lora import adapter_weights, add_adapters, continue_adapters
from agfsync.training.metrics import read_metrics
from agfsync.training.objective import Actor, Method, TrainingPlan
from agfsync.training.peak_memory import read_peak_memory, reset_peak_memory
from agfsync.training.precision import make_loss_scaler
from agfsync.training.processes import ALONE, join_processes
from agfsync.training.prompts import PromptData
from agfsync.training.publish.card import CardFacts, render_model_card
from agfsync.training.publish.kohya import convert_to_kohya, describe_lora
from agfsync.training.reference import AdaptersBefore, AdaptersOff, FrozenCopy, round_frozen_layers
from agfsync.training.sharding import check_sharding
from agfsync.training.tracking import Session, open_trackers
from agfsync.training.trainable import explain_untrainable, list_missing
from agfsync.training.watching import summarize_watch

_STAGE = "training"
PEAK_MEMORY = "peak_memory"
"""The note with the training's peak memory in bytes, in its last process, if it is known."""
_NOT_IN_PLAN = {"method", "lora", "seed", "trackers", "watch", "times", "shift", "compile"}
WATCHED = "watch"
"""The note with the results of the watched judge."""


def run(context: Context) -> Mapping[str, Any]:
    """Train by the recipe's method and save the aligned model, or its LoRA, to RUN/model.

    Raises:
        RunError: there are no pairs, or no images that the method trains on.
        ModelError: the generator can't be loaded or trained.
        DivergedError: a loss or gradient isn't finite.
        RecipeError: the settings need a missing package or accelerator, or have fewer pairs per step than processes.
        PeerError: a helper process has ended.
    """
    recipe, settings = context.recipe, context.recipe.training
    if settings.method.trains == "nothing":
        replace_folder(context.run.path / MODEL, lambda folder: _save_untrained(recipe, folder))
        return {"steps": 0}
    if settings.batch < launcher.count_processes():
        raise RecipeError(
            f"training.batch {settings.batch} is too small for {launcher.count_processes()} processes: raise it"
        )
    if _is_sharded(recipe):
        check_sharding(settings.batch, launcher.count_processes())
    context.progress.say(f"{_STAGE}: loading {recipe.model.path}")
    denoiser = _load_denoiser(recipe, recipe.start)
    reset_peak_memory(denoiser.device)
    make_loss_scaler(denoiser.device, settings.precision)  # fails now rather than after the encoding
    method, checkpoints, plan = _build_method(recipe), _open_checkpoints(context), _make_plan(recipe)
    check_watch(context)
    with open_judge_accounts(context, _STAGE, _list_rewards(recipe) | list_watched(recipe)) as accounts:
        notes = _train(context, denoiser, method, checkpoints, plan, accounts)
    peak = read_peak_memory(denoiser.device)
    return notes if peak is None else {**notes, PEAK_MEMORY: peak}


def _train(
    context: Context,
    denoiser: DiffusionModel,
    method: Method,
    checkpoints: Checkpoints,
    plan: TrainingPlan,
    accounts: Mapping[str, Account],
) -> Mapping[str, Any]:
    """Train, save the model and return the stage's notes."""
    recipe, settings, folder = context.recipe, context.recipe.training, context.run.path / _STAGE
    loaded = load_training_data(context, denoiser, method, accounts)
    actor = _prepare_actor(recipe, denoiser, method)
    log, watcher = _locate_log(context), make_watcher(context, actor, accounts)
    stopped_at = watcher.find_end() if watcher else None
    done = checkpoints.find_last_step() if stopped_at is None else plan.steps
    if done < plan.steps and launcher.count_processes() > 1:
        context.progress.say(f"{_STAGE}: by {launcher.count_processes()} processes")
        launcher.send_order({"run": str(context.run.path.resolve()), "digest": context.digest})
    session = Session(recipe.name, digest(context.digest), folder / "trackers", _list_settings(recipe))
    with (
        open_trackers(settings.trackers if done < plan.steps else (), session, done) as log_to_trackers,
        context.progress.stage(_STAGE, plan.steps, "steps", done=done) as task,
        join_processes(denoiser.device) if done < plan.steps else nullcontext(ALONE) as processes,
    ):
        watched: dict[str, float] = {}

        def report_step(line: Mapping[str, float]) -> None:
            if watcher is not None and watcher.metric in line:
                watched[watcher.judge] = line[watcher.metric]
            figures = {name.rpartition("_")[2]: line[name] for name in method.curves[:2] if name in line}
            task.advance(1 if line["step"] else 0, **figures, **watched)
            log_to_trackers(line)

        objective, say = method.objective(loaded.data, plan), context.progress.say
        train(actor, objective, plan, checkpoints, log, report_step, processes=processes, say=say, watcher=watcher)
    replace_folder(context.run.path / MODEL, lambda place: _save_model(recipe, denoiser, loaded.data, place))
    if unrewarded := _count_unrewarded(loaded.data):
        reasons = "; ".join(f"{why} ({count})" for why, count in unrewarded.items())
        context.progress.say(f"{_STAGE}: images without a reward were left out: {reasons}")
        loaded = replace(loaded, notes={**loaded.notes, "unrewarded": unrewarded})
    lines = read_metrics(log)
    notes = _collect_notes(denoiser, loaded.data, [line for line in lines if line["step"]], method.curves)
    if watcher is not None:
        notes[WATCHED] = summarize_watch(watcher.judge, watcher.metric, lines, watcher.find_result())
    return {EARLIER: _sum_seconds(lines, done), **notes, **loaded.notes}


def train_as_helper(context: Context) -> None:
    """Do this helper process's share of each training step, once the pairs are encoded.

    Raises:
        PeerError: another process has ended, or has encoded other pairs than this one reads.
    """
    recipe = context.recipe
    # This comes first, since it chooses this process's accelerator.
    with join_processes(torch_device(recipe.model.device)) as processes:
        denoiser, method = _load_denoiser(recipe, recipe.start), _build_method(recipe)
        with open_judge_accounts(context, _STAGE, _list_rewards(recipe)) as accounts:
            if method.needs == "captions":
                data: Any = load_training_data(context, denoiser, method, accounts).data
            else:
                data = load_cached_data(context, method)
            release_encoders(denoiser)
            if data is None:
                place = locate_cache(context)
                raise RunError(f"{place} is missing: the run folder must be on a disk that all processes share")
        checkpoints, plan, log = _open_checkpoints(context), _make_plan(recipe), _locate_log(context)
        actor, objective = _prepare_actor(recipe, denoiser, method), method.objective(data, plan)
        watcher = make_watcher(context, actor, {})
        train(actor, objective, plan, checkpoints, log, lambda line: None, processes=processes, watcher=watcher)


def _sum_seconds(lines: Sequence[Mapping[str, float]], done: int) -> float:
    """Return the seconds of the first `done` steps, including the measurements of the watched judge."""
    return sum(line.get(name, 0.0) for line in lines if line["step"] <= done for name in ("seconds", "watch_seconds"))


def _locate_log(context: Context) -> Path:
    return context.run.path / _STAGE / "metrics.jsonl"


def _open_checkpoints(context: Context) -> Checkpoints:
    return Checkpoints(context.run.path / _STAGE / "checkpoints", context.digest)


def _build_method(recipe: Recipe) -> Method:
    settings = recipe.training.method.model_dump()
    if "reward" in settings:
        settings["reward"] = recipe.reward_weights
    method: Method = catalog.build("methods", settings)
    return method


def _list_rewards(recipe: Recipe) -> dict[str, ScorerSettings]:
    """Return the scorers that are the rewards of images drawn in training."""
    if recipe.training.method.needs != "captions":
        return {}
    return {name: recipe.scorers[name] for name in recipe.reward_weights}


def _make_plan(recipe: Recipe) -> TrainingPlan:
    return TrainingPlan(seed=recipe.training_seed, **recipe.training.model_dump(exclude=_NOT_IN_PLAN))


def _load_denoiser(recipe: Recipe, start: Start | None = None) -> DiffusionModel:
    """Load the generator, or the pipeline of `start`, with float32 weights, since small updates vanish in bf16.

    With a LoRA, the frozen weights of a flow model or a quantized one are loaded in the training's precision; those of
    a UNet are rounded to it later (`round_frozen_layers`), except the layers that autocast keeps in float32. Text
    encoders are loaded when something is encoded.

    A network to be sharded stays on the CPU, since one accelerator may not hold it.

    The LoRAs and the refiner of the recipe are left out: the evaluation adds them to the trained model as to the base.
    Each of several processes takes its own accelerator, whichever the recipe names.
    """
    settings = recipe.model
    is_whole = isinstance(settings, TransformerSettings) or settings.quantization is not None
    is_frozen = recipe.training.lora is not None and is_whole
    dtype = recipe.training.precision if is_frozen else "fp32"
    changes: dict[str, Any] = {"dtype": dtype, "loras": (), "lazy": True, "compile": False}
    changes["offload"] = _is_sharded(recipe)  # then the network stays on the CPU, and the encoders take turns
    if settings.is_attention_for_drawing:
        changes["attention"] = None
    if settings.refining is not None:
        changes["refiner"] = None
    times = {"training_times": recipe.training.times, "training_shift": recipe.training.shift}
    changes |= {name: value for name, value in times.items() if value is not None}
    if launcher.count_processes() > 1:
        changes["device"] = torch_device(settings.device).type
    arguments = settings.arguments() | changes
    if start is not None and recipe.training.lora is None:
        arguments = ModelArtefact.load(Path(start.path)).extend_arguments(arguments, Path(start.path))
    denoiser = catalog.build("models", arguments, {*settings.defaults(), "lazy"})
    if missing := list_missing(denoiser):
        raise ModelError(explain_untrainable(settings.type, missing))
    trained: DiffusionModel = denoiser
    return trained


def _is_sharded(recipe: Recipe) -> bool:
    return recipe.training.fsdp and launcher.count_processes() > 1


def _prepare_actor(recipe: Recipe, denoiser: DiffusionModel, method: Method) -> Actor:
    """Prepare the network for training, before a checkpoint is loaded.

    The reference is the base or, if the recipe says so, the model that a later round starts from. A round continues to
    train the LoRA of the round before, so that its result is a single LoRA of the base.
    """
    settings, start, lora = recipe.training, recipe.start, recipe.training.lora
    reference: Reference | None
    keeps_start = start is not None and start.reference == "previous"
    if lora is not None:
        seed = derive_seed(recipe.training_seed, "lora")
        add_adapters(denoiser.network, lora.rank, _find_alpha(lora), seed, denoiser.adapter_targets)
        round_frozen_layers(denoiser.network, settings.precision)
        if start is not None:
            weights = load_file(Path(start.path) / LORA_FILE)
            continue_adapters(denoiser.network, weights, lora.rank, _find_alpha(lora))
        reference = AdaptersBefore(denoiser.network) if keeps_start else AdaptersOff(denoiser.network)
    else:
        base = denoiser if start is None or keeps_start or not method.uses_reference else _load_denoiser(recipe, None)
        reference = FrozenCopy(base.network, settings.precision, settings.compile) if method.uses_reference else None
        denoiser.network.requires_grad_(True)
    if settings.compile:
        check_compiler(denoiser.device)
        compile_blocks(denoiser.network)
    return Actor(denoiser, reference, settings.precision)


def _find_alpha(lora: LoraSettings) -> float:
    return lora.rank if lora.alpha is None else lora.alpha


def _save_model(recipe: Recipe, denoiser: DiffusionModel, data: TrainingData, folder: Path) -> None:
    """Save the pipeline, or the LoRA in both layouts, and the model card."""
    lora = recipe.training.lora
    if lora is None:
        denoiser.save(folder)
    else:
        weights = adapter_weights(denoiser.network, lora.rank, _find_alpha(lora))
        denoiser.save_adapter(weights, folder)
        if kohya := _name_kohya_file(recipe, denoiser):
            text_width = getattr(getattr(denoiser.network, "config", None), "cross_attention_dim", None)
            metadata = describe_lora(recipe.name, text_width, denoiser.schedule.prediction_type, lora.rank)
            write_tensors(folder / kohya, convert_to_kohya(weights), metadata)
    adapters = (LORA_FILE,) if lora is not None else ()
    base = dump_changes(recipe.model, *NOT_SHAPING_IMAGES)
    ModelArtefact("adapters" if adapters else "pipeline", base, adapters).save(folder)
    (folder / "README.md").write_text(render_model_card(_collect_facts(recipe, denoiser, data)), encoding="utf-8")


def _save_untrained(recipe: Recipe, folder: Path) -> None:
    """Write the artefact of a method that trains nothing: the base and its steering, or the given model."""
    folder.mkdir()
    base = dump_changes(recipe.evaluated_models["aligned"], *NOT_SHAPING_IMAGES)
    ModelArtefact("base", base, steering=recipe.steering).save(folder)


def _name_kohya_file(recipe: Recipe, denoiser: DiffusionModel) -> str | None:
    """Return the name of a UNet's LoRA in kohya's layout; None for transformers.

    It is named after the run, since other programs keep all LoRAs in one folder. A transformer's LoRA needs no such
    file: programs read it in the layout of diffusers.
    """
    is_flow = denoiser.schedule.prediction_type == "velocity"
    return None if is_flow else f"{recipe.name}-kohya.safetensors"


def _collect_facts(recipe: Recipe, denoiser: DiffusionModel, data: TrainingData) -> CardFacts:
    settings, generator = recipe.training, recipe.model
    is_public = "/" in generator.path and not Path(generator.path).expanduser().exists()
    return CardFacts(
        name=recipe.name,
        base=generator.path if is_public else Path(generator.path).name,
        base_is_public=is_public,
        method=settings.method.type,
        trained_on=_describe_data(data),
        choice=_describe_choice(recipe),
        settings=_list_settings(recipe),
        lora_files=(LORA_FILE, _name_kohya_file(recipe, denoiser)) if settings.lora else None,
    )


def _count_unrewarded(data: TrainingData) -> dict[str, int]:
    """Return the number of images without a reward in this process's steps, by reason."""
    return dict(data.rewards.failures) if isinstance(data, PromptData) else {}


def _describe_choice(recipe: Recipe) -> str:
    """Return a description of what makes an image better than another, for the model card."""
    if recipe.training.method.needs == "pairs":
        return recipe.pairs.summary
    return "a higher sum of " + ", ".join(f"{weight:g} {name}" for name, weight in recipe.reward_weights.items())


def _describe_data(data: TrainingData) -> str:
    """Return the model card's description of the data."""
    if isinstance(data, PromptData):
        return f"to raise the rewards of the images that it drew for {len(data):,} prompts"
    if isinstance(data, EncodedPairs):
        return f"to prefer the better image of {len(data):,} pairs on {len(data.prompt_P.unique()):,} prompts"
    return f"on {len(data):,} of the images that it drew for {len(data.prompt_I.unique()):,} prompts"


def _list_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of the training as plain values."""
    settings = recipe.training
    method = settings.method.model_dump() | {"LoRA": _describe_lora(settings.lora)}
    left_out = {"method", "lora", "seed", "checkpoint_every", "trackers", "watch"}
    rest = settings.model_dump(exclude=left_out, exclude_none=True)
    if watch := settings.stopping_watch:
        rest["stopped by"] = f"{watch.by} if it falls, measured every {watch.every} steps"
    named = {("method" if name == "type" else name): value for name, value in method.items()}
    base = {"base stored in": recipe.model.quantization} if recipe.model.quantization else {}
    return named | _list_parts(recipe.model) | base | rest | {"seed": recipe.training_seed}


def _list_parts(generator: ModelSettings) -> dict[str, str]:
    """Return the exchanged networks of the base, which its LoRA needs, by name; never a local path."""
    names = {"vae": "VAE", "unet": "UNet", "transformer": "transformer"}
    return {
        f"{names[name]} of the base": Path(part.path).name if Path(part.path).expanduser().exists() else part.path
        for name, part in generator.parts.items()
    }


def _describe_lora(lora: LoraSettings | None) -> str:
    return "none, the whole network" if lora is None else f"rank {lora.rank}, alpha {_find_alpha(lora):g}"


def _collect_notes(
    denoiser: DiffusionModel, data: TrainingData, lines: Sequence[Mapping[str, float]], curves: Sequence[str]
) -> dict[str, Any]:
    """Return counts, and the means of `curves` over the last tenth of the steps."""
    last = lines[-max(1, len(lines) // 10) :]
    kinds = {EncodedPairs: "pairs", RatedImages: "images", PromptData: "prompts"}
    return {
        kinds[type(data)]: len(data),
        "steps": len(lines),
        "trained_parameters": sum(p.numel() for p in denoiser.network.parameters() if p.requires_grad),
        "step_seconds": sum(line["seconds"] for line in lines),
        **{name: fmean(line[name] for line in last) for name in curves if last},
    }

"""Checks that all files, models and packages of a recipe exist, before anything runs."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from agfsync import catalog
from agfsync.engine.packages import QUANTIZED_BY, require_package, require_trackers
from agfsync.errors import AgfsyncError, ModelError, RecipeError
from agfsync.formats import PairSet, PromptFile
from agfsync.formats.sources import SourceCaptions, check_source
from agfsync.models import hub
from agfsync.models.artefact import ModelArtefact
from agfsync.pipeline.generators import check_drawing, check_steerable, check_steered_type, check_trainable
from agfsync.recipe import HELD_OUT, ModelSettings, NamedModel, Recipe, ScorerSettings, list_named_models
from agfsync.recipe.named_models import drawing_models
from agfsync.recipe.rounds import Start
from agfsync.stages import NAMES
from agfsync.stages.context import asks_questions, takes_any_answer
from agfsync.stages.evaluation.spread import list_reference
from agfsync.stages.report.checked import read_check
from agfsync.stages.writing import digest_polisher, digest_writer


def find_faults(recipe: Recipe) -> list[AgfsyncError]:
    """Return an error for each file, model or package of the recipe that is missing, without loading anything."""
    faults: list[AgfsyncError] = []
    for check in _list_checks(recipe):
        try:
            check()
        except AgfsyncError as fault:
            faults.append(fault)
    messages = {str(fault) for fault in faults}
    return [*faults, *(fault for fault in find_generator_faults(recipe) if str(fault) not in messages)]


def check_names(recipe: Recipe) -> None:
    """Raise the first fault of the recipe now, rather than hours later when its stage runs."""
    for check in _list_checks(recipe):
        check()


def _list_checks(recipe: Recipe) -> Iterator[Callable[[], object]]:
    if recipe.captions.source:
        yield partial(_check_answers, recipe)
    for section, kind in ((recipe.captions, PromptFile), (recipe.pairs, PairSet)):
        if section.source:
            yield partial(check_source, Path(section.source), kind, section.split)
    yield partial(digest_writer, "captions", recipe.captions)
    yield partial(digest_writer, "questions", recipe.questions)
    yield partial(digest_polisher, recipe.captions)
    for named in list_named_models(recipe):
        yield partial(catalog.check_place, named.path)
    for name, settings in recipe.evaluation.sets.items():
        if settings.source:
            yield partial(check_source, Path(settings.source), PromptFile, settings.split)
            yield partial(_check_judges, recipe, name)
    if recipe.embedding is not None:
        yield partial(_check_embedding, recipe.embedding, recipe.scorers[recipe.embedding].type)
    if recipe.evaluation.reference:
        yield partial(list_reference, Path(recipe.evaluation.reference))
    for file in recipe.report.checks:
        yield partial(read_check, Path(file))
    if recipe.training.optimizer == "adamw8bit":
        yield partial(require_package, "bitsandbytes", "training.optimizer adamw8bit")
    for place, drawing in drawing_models(recipe).items():
        if (bits := drawing.quantization) is not None:
            yield partial(require_package, QUANTIZED_BY[bits], f"{place}.quantization {bits}")
    if recipe.engine.type == "ray":
        yield partial(require_package, "ray", "engine ray")
    else:
        # A cluster's machines may have other accelerators and packages than this one.
        for model in recipe.drawing_models:
            yield partial(_check_execution, recipe, model)
    yield partial(require_trackers, recipe.training.trackers)
    if recipe.steering is not None:
        yield partial(check_steered_type, recipe.model, recipe.steering)
        if (parser := recipe.steering.get("parser")) is not None:
            yield partial(_check_parser, parser)
    if recipe.captions.source and recipe.rounds is not None and recipe.rounds.captions == "new":
        yield partial(_check_prompt_count, recipe, recipe.rounds.count)
    if recipe.start is not None:
        yield partial(_check_start, recipe, recipe.start)
    if recipe.training.method.uses == "gradients":
        yield partial(_check_rewards, recipe)


def _check_execution(recipe: Recipe, settings: ModelSettings) -> None:
    """Check that this machine supports a generator's attention, and can compile its network if the recipe compiles it.

    Raises:
        ModelError: it doesn't.
    """
    method = recipe.training.method
    trains = settings is recipe.model and method.trains == "model" and method.type != "none"
    compiles = settings.compile or (trains and recipe.training.compile)
    if settings.attention is None and not compiles:
        return
    # Imported by name: most runs need no torch here.
    execution, dtypes, pretrained = (
        import_module(f"agfsync.models.{name}") for name in ("execution", "dtypes", "pretrained")
    )
    device = pretrained.torch_device(settings.device)
    if settings.attention is not None:
        check = partial(execution.check_attention, settings.type, settings.attention, device)
        check(dtypes.torch_dtype(settings.dtype, device))
        if trains and not settings.is_attention_for_drawing:
            check(dtypes.torch_dtype(recipe.training.precision, device), training=True)
    if compiles:
        execution.check_compiler(device)


def _check_prompt_count(recipe: Recipe, rounds: int) -> None:
    """Check that a file of prompts has enough captions for every round.

    Raises:
        RecipeError: it has fewer.
    """
    settings = recipe.captions
    prompts = SourceCaptions(str(settings.source), split=settings.split)
    available, needed = sum(prompts.rooms.values()), settings.held_out + settings.skip + rounds * settings.count
    if available < needed:
        raise RecipeError(
            f"rounds: {prompts.path} has {available} captions, and {rounds} rounds of new ones need {needed}: lower "
            f"captions.count, or set rounds.captions to same"
        )


def _check_start(recipe: Recipe, start: Start) -> None:
    """Check that the trained model to start from exists, and that it is of the kind that the recipe trains.

    Raises:
        ModelError: it doesn't exist or is of the other kind.
    """
    kind = ModelArtefact.load(Path(start.path)).kind
    if kind != ("pipeline" if recipe.training.lora is None else "adapters"):
        raise ModelError(
            f"start: {start.path} holds {kind}, and a whole network is trained further from a whole one, a LoRA from a "
            f"LoRA: change training.lora"
        )


def _check_judges(recipe: Recipe, name: str) -> None:
    """Check that scorers that need questions get some: an evaluation set's own, or another scorer judges by default.

    Raises:
        RecipeError: the file has no questions, and its scorers can't judge without.
    """
    settings, judges = recipe.evaluation.sets[name], recipe.set_scorers(name)
    asking = [judge for judge, scorer in judges.items() if asks_questions(scorer)]
    source = Path(str(settings.source))
    if not asking or not source.exists():
        return
    prompts = SourceCaptions(str(source), split=settings.split)
    _check_open_questions(prompts, judges, f"evaluation.sets.{name}")
    if (settings.by is not None or len(asking) == len(judges)) and not prompts.has_questions:
        raise RecipeError(
            f"evaluation.sets.{name}: {source.name} has no questions{prompts.explain_left_out()}, and "
            f"{', '.join(asking)} can only judge by questions: name other scorers in its `by`, such as clip, or a file "
            f"with questions"
        )


def _check_answers(recipe: Recipe) -> None:
    """Check that the scorers can give the answers that the questions of the captions' file expect.

    Raises:
        RecipeError: a scorer can only say yes or no, and a question expects another answer.
    """
    source = Path(str(recipe.captions.source))
    judges = recipe.candidate_scorers | (recipe.set_scorers(HELD_OUT) if HELD_OUT in recipe.evaluation.sets else {})
    if source.exists() and any(map(asks_questions, judges.values())):
        _check_open_questions(SourceCaptions(str(source), split=recipe.captions.split), judges, "captions.source")


def _check_open_questions(prompts: SourceCaptions, judges: Mapping[str, ScorerSettings], place: str) -> None:
    limited = [name for name, settings in judges.items() if asks_questions(settings) and not takes_any_answer(settings)]
    if limited and (question := prompts.find_open_question()):
        raise RecipeError(
            f'{place}: {prompts.path.name} asks for other answers than yes and no, such as "{question}", and '
            f"{', '.join(limited)} can only say yes or no: name scorers that can say more, such as a vqa or a vlm"
        )


def _check_parser(settings: Mapping[str, Any]) -> None:
    """Check that a parser of prompts and the packages it needs are installed; nothing is loaded.

    Raises:
        RecipeError: one isn't installed.
    """
    check = getattr(catalog.find("parsers", settings["type"]), "check", None)
    if check is not None:
        check(**{name: value for name, value in settings.items() if name != "type"})


def _check_embedding(name: str, type_: str) -> None:
    """Check that a scorer can embed images."""
    if not hasattr(catalog.find("scorers", type_), "embed_images"):
        raise RecipeError(
            f"evaluation.embedding: '{name}', a {type_} scorer, gives no embeddings: name one of type clip"
        )


def _check_rewards(recipe: Recipe) -> None:
    """Check that the scorers that the method trains on are differentiable."""
    for name in recipe.reward_weights:
        type_ = recipe.scorers[name].type
        if not hasattr(catalog.find("scorers", type_), "rewards"):
            raise RecipeError(
                f"training.method.reward names '{name}', a {type_} scorer, which gives no gradient of its scores: name "
                f"one that does, such as clip or imagereward, or take a method that needs no gradient of its rewards"
            )


def find_generator_faults(
    recipe: Recipe, stages: Collection[str] = NAMES, *, may_load: bool = False
) -> Iterator[AgfsyncError]:
    """Yield the faults that keep `stages` from drawing with the generators that they load, or from training the first.

    With `may_load`, a generator of a third-party package is loaded if nothing else shows whether it can be trained.
    """
    for settings in _loaded_generators(recipe, stages):
        try:
            reason = check_drawing(settings)
            if settings is not recipe.model:
                continue
            if recipe.steering is not None:
                check_steerable(settings, recipe.steering)
                if (parser := recipe.steering.get("parser")) is not None:
                    _check_parser(parser)
            elif "training" in stages and recipe.given is None:
                check_trainable(settings, reason, may_load=may_load, uses=recipe.training.uses)
        except AgfsyncError as fault:
            yield fault


def _loaded_generators(recipe: Recipe, stages: Collection[str]) -> Sequence[ModelSettings]:
    """Return the generators that `stages` load, the recipe's own model first.

    Only the stage candidates loads the recipe's further models, and only if no pair set gives the candidates.
    """
    if "candidates" in stages and recipe.pairs.source is None:
        return recipe.drawing_models
    compared = [] if recipe.given is None else [recipe.given.model]
    return [recipe.model, *compared] if {"training", "evaluation"} & set(stages) else []


def _is_loaded(named: NamedModel, recipe: Recipe, stages: Collection[str]) -> bool:
    """Return True if `stages` load this model; False for a third-party type, whose path may mean something else."""
    if named.type not in catalog.CATALOG[named.kind]:
        return False
    if named.kind == "networks":
        return "reward" in stages
    if named.kind == "scorers":
        return bool({"scores", "evaluation"} & set(stages))
    models = _loaded_generators(recipe, stages)
    return bool(models) and (named.place.split(".")[0] != "candidates" or len(models) > 1)


def check_generators(recipe: Recipe, stages: Collection[str]) -> None:
    """Check, before anything is written or drawn, that `stages` can draw, score and train.

    Raises:
        ModelError: they can't, or a hub model that they load doesn't exist or isn't accessible.
    """
    for named in list_named_models(recipe):
        if not _is_loaded(named, recipe, stages) or not hub.is_hub_id(named.path):
            continue
        if reason := hub.why_absent(named.path, named.revision):
            raise ModelError(hub.describe_absence(named.path, named.revision, named.place, reason))
    for fault in find_generator_faults(recipe, stages, may_load=True):
        raise fault

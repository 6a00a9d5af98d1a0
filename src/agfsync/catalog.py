"""Objects by kind and name, imported on use. Other packages add theirs as entry points of the group `agfsync.KIND`.

To add a scorer, method, generator or format takes one file, one line here and one test.
"""

import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from functools import cache
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from importlib.resources import files
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from agfsync.errors import ModelError, RecipeError, model_errors

CATALOG: dict[str, dict[str, str]] = {
    "captions": {
        "shapes": "agfsync.shapes.language:ShapesWriter",
        "openai": "agfsync.language.captions:LanguageModelCaptions",
    },
    "questions": {
        "shapes": "agfsync.shapes.language:ShapesWriter",
        "openai": "agfsync.language.questions:LanguageModelQuestions",
        "none": "agfsync.language.no_questions:NoQuestions",
    },
    "polishers": {
        "openai": "agfsync.language.polish:LanguageModelPolisher",
    },
    "models": {
        "stable-diffusion": "agfsync.models.stable_diffusion:StableDiffusion",
        "stable-diffusion-xl": "agfsync.models.stable_diffusion_xl:StableDiffusionXL",
        "stable-diffusion-3": "agfsync.models.stable_diffusion_3:StableDiffusion3",
        "flux": "agfsync.models.flux:Flux",
        "flux2": "agfsync.models.flux2:Flux2",
        "flux2-klein": "agfsync.models.flux2:Flux2Klein",
        "qwen-image": "agfsync.models.qwen_image:QwenImage",
        "z-image": "agfsync.models.z_image:ZImage",
        "sana": "agfsync.models.sana:Sana",
    },
    "scorers": {
        "vqa": "agfsync.scorers.vqa:Vqa",
        "vqa-openai": "agfsync.scorers.vqa_openai:VqaOpenAI",
        "aspects": "agfsync.scorers.annotators.aspects_local:AspectsLocal",
        "aspects-openai": "agfsync.scorers.annotators.aspects_openai:AspectsOpenAI",
        "vlm": "agfsync.scorers.vlm:Vlm",
        "vqascore": "agfsync.scorers.vlm:VqaScore",
        "clip": "agfsync.scorers.clip:Clip",
        "aesthetic": "agfsync.scorers.aesthetic:Aesthetic",
        "pickscore": "agfsync.scorers.pickscore:PickScore",
        "hpsv2": "agfsync.scorers.hpsv2:Hpsv2",
        "hpsv2.1": "agfsync.scorers.hpsv2:Hpsv2",
        "hpsv3": "agfsync.scorers.hpsv3:Hpsv3",
        "unifiedreward": "agfsync.scorers.unifiedreward:UnifiedReward",
        "imagereward": "agfsync.scorers.imagereward:ImageReward",
        "vp-score": "agfsync.scorers.vp_score:VpScore",
        "shapes-oracle": "agfsync.shapes.oracle:Oracle",
        "shapes-fidelity": "agfsync.shapes.fidelity:ShapesFidelity",
        "shapes-annotator": "agfsync.shapes.annotator:ShapesAnnotator",
    },
    "pairwise": {
        "pairwise": "agfsync.scorers.pairwise_vlm:PairwiseVlm",
        "pairwise-openai": "agfsync.scorers.pairwise_openai:PairwiseOpenAI",
    },
    "methods": {
        "dpo": "agfsync.training.methods.dpo:DiffusionDPO",
        "ipo": "agfsync.training.methods.ipo:DiffusionIPO",
        "hinge": "agfsync.training.methods.hinge:DiffusionHinge",
        "sdpo": "agfsync.training.methods.sdpo:DiffusionSDPO",
        "linear-dpo": "agfsync.training.methods.linear_dpo:LinearDPO",
        "smpo": "agfsync.training.methods.smpo:SmoothedDPO",
        "mapo": "agfsync.training.methods.mapo:MaPO",
        "kto": "agfsync.training.methods.kto:DiffusionKTO",
        "best": "agfsync.training.methods.best:Best",
        "reward-weighted": "agfsync.training.methods.best:RewardWeighted",
        "random-sft": "agfsync.training.methods.best:RandomCandidate",
        "policy-gradient": "agfsync.training.methods.policy_gradient:PolicyGradient",
        "nft": "agfsync.training.methods.nft:DiffusionNFT",
        "awm": "agfsync.training.methods.awm:AdvantageWeightedMatching",
        "reward-gradient": "agfsync.training.methods.reward_gradient:RewardGradient",
        "syngen": "agfsync.models.steering.syngen:SynGen",
        "structure-diffusion": "agfsync.models.steering.structure_diffusion:StructureDiffusion",
        "attend-and-excite": "agfsync.models.steering.attend_and_excite:AttendAndExcite",
        "given": "agfsync.training.objective:Given",
        "bradley-terry": "agfsync.training.methods.bradley_terry:BradleyTerry",
        "none": "agfsync.training.objective:Nothing",
    },
    "networks": {
        "clip-head": "agfsync.scorers.reward_networks.clip_head:ClipReward",
        "blip-head": "agfsync.scorers.reward_networks.blip_head:BlipReward",
        "blip2-head": "agfsync.scorers.reward_networks.blip2_head:Blip2Reward",
    },
    "parsers": {
        "spacy": "agfsync.language.spacy_syntax:SpacyParser",
        "shapes": "agfsync.shapes.syntax:ShapesParser",
    },
    "choices": {
        "best-worst": "agfsync.choices.best_worst:BestWorst",
        "every": "agfsync.choices.every:EveryCouple",
        "calibrated": "agfsync.choices.calibrated:CalibratedBestWorst",
        "pareto": "agfsync.choices.pareto:ParetoFronts",
        "vote": "agfsync.choices.vote:MajorityVote",
        "by-aspect": "agfsync.choices.by_aspect:ByAspect",
        "lot": "agfsync.choices.lot:DrawnByLot",
    },
    "measures": {
        "tifa": "agfsync.measures.tifa:measure_tifa",
        "dsg": "agfsync.measures.dsg:measure_dsg",
        "dpg": "agfsync.measures.dpg:measure_dpg",
        "hpsv2": "agfsync.measures.hpsv2:measure_hpsv2",
        "soft-tifa": "agfsync.measures.soft_tifa:measure_soft_tifa",
        "t2i-compbench": "agfsync.measures.t2i_compbench:measure_t2i_compbench",
    },
    # A file is tried in this order, so the more specific formats come first.
    "formats": {
        "pick-a-pic": "agfsync.formats.pick_a_pic:PickAPic",
        "binarized": "agfsync.formats.binarized:Binarized",
        "huggingface": "agfsync.formats.huggingface:HuggingFace",
        "hpdv2": "agfsync.formats.hpd:HPDv2",
        "hpdv1": "agfsync.formats.hpd:HPDv1",
        "imagereward": "agfsync.formats.imagereward:ImageRewardDB",
        "mmrb2": "agfsync.formats.mmrb2:MMRB2",
        "answers": "agfsync.formats.answers:AnswerTable",
        "folders": "agfsync.formats.folders:Folders",
        "tifa": "agfsync.formats.tifa:Tifa",
        "hpsv2": "agfsync.formats.hpsv2:HPSv2",
        "geneval2": "agfsync.formats.geneval2:GenEval2",
        "geneval": "agfsync.formats.geneval:GenEval",
        "dsg": "agfsync.formats.dsg:DSG",
        "mjhq-30k": "agfsync.formats.mjhq:MJHQ",
        "t2i-compbench": "agfsync.formats.t2i_compbench:T2ICompBench",
        "partiprompts": "agfsync.formats.partiprompts:PartiPrompts",
        "drawbench": "agfsync.formats.drawbench:DrawBench",
        "diffusiondb": "agfsync.formats.diffusiondb:DiffusionDB",
        "image-folder": "agfsync.formats.image_folder:ImageFolder",
        "text": "agfsync.formats.tables:TextLines",
        "jsonl": "agfsync.formats.tables:JsonLines",
        "json": "agfsync.formats.tables:JsonList",
        "csv": "agfsync.formats.tables:CsvTable",
        "parquet": "agfsync.formats.tables:ParquetTable",
    },
}

EMBEDDED = "embedded:"
MODELS = ("models", "scorers", "networks", "pairwise")
"""Kinds that load a model when they are created; the libraries' errors while doing so are reported in one line."""


def list_names(kind: str) -> list[str]:
    """Return all names of `kind`, this package's own first."""
    return [*CATALOG[kind], *(each.name for each in list_plugins(kind))]


def list_plugins(kind: str) -> EntryPoints:
    """Return the entry points that other packages add to `kind`."""
    return _read_entry_points(f"agfsync.{kind}", tuple(sys.path))


@cache
def _read_entry_points(group: str, path: tuple[str, ...]) -> EntryPoints:
    """Read the entry points once for each search path: it is slow with many packages, and each recipe section asks."""
    return entry_points(group=group)


def find(kind: str, name: str) -> Any:
    """Import and return the object called `name` among `kind`.

    Raises:
        RecipeError: there is no such name; the message suggests one or lists all.
    """
    if name in CATALOG[kind]:
        module, _, attribute = CATALOG[kind][name].partition(":")
        return getattr(import_module(module), attribute)
    for entry in list_plugins(kind):
        if entry.name == name:
            return entry.load()
    close = get_close_matches(name, list_names(kind), n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(list_names(kind))}"
    raise RecipeError(f"no {kind.removesuffix('s')} is called '{name}': {hint}")


def model_path(model: str) -> str:
    """Return this package's folder of the model `embedded:NAME`, else `model` itself, a folder or a hub id.

    Raises:
        ModelError: the package has no such embedded model.
    """
    if not model.startswith(EMBEDDED):
        return model
    folder = _locate_weights()
    path = folder / model.removeprefix(EMBEDDED)
    if not path.is_dir():
        there = ", ".join(sorted(EMBEDDED + p.name for p in folder.glob("*") if p.is_dir())) or "none yet"
        raise ModelError(f"no embedded model '{model}': there are {there}; `agfsync shapes train` makes them")
    return str(path)


def find_place(model: str) -> str:
    """Return `model_path(model)` with `~` expanded if that path exists, else `model` unchanged.

    Raises:
        ModelError: the package has no such embedded model.
    """
    path = Path(model_path(model)).expanduser()
    return str(path) if path.exists() else model


def build(kind: str, settings: Mapping[str, Any], optional: Collection[str] = ()) -> Any:
    """Create the object of `kind` named `settings["type"]`, with the other settings as arguments and models resolved.

    A setting that the type doesn't take is ignored if it is empty, `optional` or in `OF_EVERY_MODEL`.

    Raises:
        RecipeError: there is no such type, or it has no such setting. ModelError: there is no such model.
    """
    maker = find(kind, settings["type"])
    rest = {name: value for name, value in settings.items() if name != "type"}
    known = take_known(maker, rest, f"{settings['type']} {kind.removesuffix('s')}", optional)
    places = _find_places(known) if kind in MODELS else {}
    with model_errors(f"can't load the model {settings.get('path')}") if kind in MODELS else nullcontext():
        return maker(**known | places)


def check_place(path: str) -> str:
    """Return `find_place(path)`; check that it exists unless it may be a hub id, an address or a plug-in's `KIND:NAME`.

    Nothing is loaded.

    Raises:
        ModelError: `path` is written as a path, or has spaces, and doesn't exist.
    """
    place = find_place(path)
    is_no_id = ":" not in path and (path.count("/") > 1 or any(map(str.isspace, path)))
    if (is_no_id or path.startswith(("/", "./", "../", "~"))) and not Path(place).exists():
        raise ModelError(f"no model at '{path}': give a folder that exists, a hub id or {EMBEDDED}NAME")
    return place


def fingerprint(*models: str | None) -> str:
    """Return the digest of the files of all embedded models among `models`, which may change with the package.

    Other models are identified by name and revision: hashing gigabytes would take too long.
    """
    state = blake2b(digest_size=8)
    for model in models:
        if model is None or not model.startswith(EMBEDDED):
            continue
        for file in sorted(p for p in (_locate_weights() / model.removeprefix(EMBEDDED)).rglob("*") if p.is_file()):
            state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()


OF_EVERY_MODEL = ("dtype", "device")
"""Settings of every model and scorer in a recipe. A class that runs nothing on a device need not take them."""


def take_known(maker: Any, settings: Mapping[str, Any], what: str, optional: Collection[str] = ()) -> dict[str, Any]:
    """Return the `settings` that `maker` takes. `what` names `maker` in the error.

    Raises:
        RecipeError: `maker` doesn't take a setting that isn't empty, `optional` or in `OF_EVERY_MODEL`.
    """
    parameters = signature(maker).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(settings)
    for name, value in settings.items():
        if name not in (*parameters, *optional, *OF_EVERY_MODEL) and value not in (None, "", ()):
            raise RecipeError(f"a {what} has no {name}: leave out {name} '{value}'")
    return {name: value for name, value in settings.items() if name in parameters}


def _find_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that name models, with each path resolved and checked."""
    named = ("path", "config", "head", "weights", "nearest")
    places: dict[str, Any] = {name: check_place(settings[name]) for name in named if settings.get(name)}
    if settings.get("loras"):
        places["loras"] = [{**lora, "path": check_place(lora["path"])} for lora in settings["loras"]]
    for name in ("refiner", "vae", "unet", "transformer"):
        if isinstance(settings.get(name), Mapping):
            places[name] = {**settings[name], "path": check_place(settings[name]["path"])}
        elif settings.get(name):
            places[name] = check_place(settings[name])
    return places


def _locate_weights() -> Path:
    return Path(str(files("agfsync"))) / "shapes" / "weights"

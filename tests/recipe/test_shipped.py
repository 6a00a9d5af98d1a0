"""Every recipe for real models, all of its stages, on tiny ones of the same architectures and without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_diffusion
import tiny_flows
from fake_language import FakeServer
from tiny_vlm import save_hpsv3, save_vlm

from agfsync import pipeline
from agfsync import recipe as config
from agfsync.models import LORA_FILE
from agfsync.records import Candidate, Pair, Score
from agfsync.stages.report.verdict import find_role
from agfsync.stages.selection import list_choosing_scorers
from agfsync.store import Run

REAL = [name for name in config.list_shipped() if not name.startswith("shapes") and name != "visionprefer"]
TINY: dict[str, Callable[[], Any]] = {
    "stable-diffusion": tiny_diffusion.pipeline,
    "stable-diffusion-xl": tiny_diffusion.xl_pipeline,
    "stable-diffusion-3": tiny_diffusion.sd3_pipeline,
    "flux": tiny_diffusion.flux_pipeline,
    "flux2": tiny_flows.flux2_pipeline,
    "flux2-klein": tiny_flows.flux2_klein_pipeline,
    "qwen-image": tiny_flows.qwen_image_pipeline,
    "z-image": tiny_flows.z_image_pipeline,
    "sana": tiny_flows.sana_pipeline,
}
PAPER = {
    "sd14": (5e-7, 128, 512),
    "sd15": (5e-7, 128, 512),
    "sdxl": (1e-6, 64, 1024),
}
"""Learning rate, batch and size."""


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_have_its_settings(name: str) -> None:
    recipe = config.resolve_recipe(name)
    candidates, training, generator = recipe.candidates, recipe.training, recipe.model
    assert (training.learning_rate, training.batch, generator.sampling.height) == PAPER[name]
    assert (generator.sampling.width, generator.sampling.steps, generator.dtype) == (
        generator.sampling.height,
        50,
        "fp16",
    )
    assert (candidates.per_caption, candidates.embedding_noise) == (8, 0.1)
    assert (training.steps, training.schedule, training.method.type, training.lora) == (
        1000,
        "cosine",
        "dpo",
        None,
    )
    assert (
        recipe.pairs.weights == {"vqa": 0.35, "clip": 0.55, "aesthetic": 0.10}
        and recipe.pairs.choose.minimum_margin == 0
    )
    assert (recipe.captions.count, recipe.questions.rounds, recipe.questions.minimum) == (45_834, 6, 5)
    assert recipe.scorers["vqa"].template == "Question: {} Choices:['yes','no'] Answer:"
    assert {name: recipe.scorers[name].path for name in recipe.pairs.weights} == {
        "vqa": "Salesforce/blip2-flan-t5-xxl",
        "clip": "openai/clip-vit-base-patch16",
        "aesthetic": "openai/clip-vit-large-patch14",
    }


@pytest.mark.parametrize("name", config.list_shipped())
def test_the_judges_of_every_recipe_are_independent_of_what_selects(name: str) -> None:
    recipe = config.resolve_recipe(name)
    roles = {
        judge: find_role(judge, recipe, list_choosing_scorers(recipe))
        for judge in recipe.scorers.keys() - recipe.pairs.weights
    }
    # An annotator selects under the names of its aspects; its parts in Shapes score the candidates too.
    scored = {"visionprefer": {"selected on"}, "shapes-visionprefer": {"unweighted", "selected on"}}
    assert roles and set(roles.values()) == {"independent"} | scored.get(name, set())
    assert name != "shapes-visionprefer" or roles["oracle"] == "independent"


def test_sd14_is_sd15_but_for_the_model() -> None:
    one, two = config.resolve_recipe("sd14"), config.resolve_recipe("sd15")
    assert one.model.path != two.model.path
    same = two.model.model_copy(update={"path": one.model.path})
    assert one == two.model_copy(update={"name": "sd14", "model": same})


def save_judges(folder: Path) -> dict[str, str]:
    """The judges of 2026 that no embedded model stands for, as tiny Qwen-VLs: their paths by their names."""
    save_vlm(folder / "vqa", "qwen2_5_vl")
    save_hpsv3(folder / "hpsv3", folder / "hpsv3" / "HPSv3.safetensors")
    return {name: str(folder / name) for name in ("vqa", "hpsv3")}


def tiny(name: str, model: Path, url: str, **changes: Any) -> config.Recipe:
    """The recipe, of few and small things; `changes` are of its generator."""
    scorers = {"vqa": "embedded:vqa", "clip": "embedded:clip", "aesthetic": "embedded:clip"}
    if name.endswith("-2026"):
        scorers |= save_judges(model.parent / "judges")
    few = {
        "captions.count": 4,
        "captions.held_out": 2,
        "captions.writer.base_url": url,
        "questions.writer.base_url": url,
        "questions.minimum": 1,  # the fake writer asks once for each word
        "candidates.per_caption": 3,
        "model.path": model,
        "model.sampling.steps": 2,
        "model.sampling.height": 16,
        "model.sampling.width": 16,
        "scorers.aesthetic.head": "embedded:aesthetic",
        "training.steps": 2,
        "training.batch": 2,
        "training.accumulate": 2,
        "scorers.pickscore.path": "embedded:clip",
        "scorers.pickscore.weights": "null",
        "evaluation.resamples": 100,
        **{f"scorers.{scorer}.path": place for scorer, place in scorers.items()},
        **({"scorers.hpsv3.weights": scorers["hpsv3"]} if "hpsv3" in scorers else {}),
        # A CPU without instructions for bf16 takes a minute for them.
        **{f"scorers.{scorer}.dtype": "fp32" for scorer in scorers},
        **{
            f"{place}.device": "cpu"
            for place in (
                "model",
                "scorers.pickscore",
                *(f"scorers.{s}" for s in scorers),
            )
        },
        **{f"model.{key}": value for key, value in changes.items()},
    }
    return config.resolve_recipe(name, [f"{key}={value}" for key, value in few.items()])


@pytest.mark.long
@pytest.mark.parametrize("name", REAL)
def test_a_run_ends_in_a_model_and_a_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base, made = tmp_path / "base", TINY[config.resolve_recipe(name).model.type]()
    made.save_pretrained(base)
    with FakeServer() as server:
        pipeline.prepare(tmp_path / "run", tiny(name, base, server.url))
        pipeline.run(tmp_path / "run")
    assert {standing.state for standing in pipeline.read_status(tmp_path / "run")} == {"done"}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    model = tmp_path / "run" / "model"
    if name.endswith(("-lora", "-2026")):
        aligned = type(made).from_pretrained(base, use_safetensors=True)
        aligned.load_lora_weights(model, weight_name=LORA_FILE)
        assert aligned.get_active_adapters()
    else:
        type(made).from_pretrained(model, use_safetensors=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "recipe"),
    [("stable-diffusion-3", "sd15"), ("flux", "sdxl-lora"), ("flux2", "flux2-klein-lora"), ("sana", "z-image-lora")],
)
def test_flow_models_are_drawn_scored_paired_and_trained(
    kind: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of no recipe of their own among them."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, sampling = tmp_path / "base", {"sampling.scheduler": "model"}
    if kind == "sana":
        sampling |= {"sampling.height": 32, "sampling.width": 32}
    TINY[kind]().save_pretrained(folder)
    path = tmp_path / "run"
    with FakeServer() as server:
        pipeline.prepare(path, tiny(recipe, folder, server.url, **{"type": kind, **sampling}))
        pipeline.run(path)
    assert {standing.state for standing in pipeline.read_status(path)} == {"done"}
    files = {file.name for file in (path / "model").iterdir()}
    assert ({"README.md", "model.json", LORA_FILE} == files) if recipe.endswith("-lora") else ("transformer" in files)
    with Run.open(path) as run:
        candidates, scores = list(run.read("candidates", Candidate)), list(run.read("scores", Score))
        pairs = list(run.read("pairs", Pair))
    assert len(candidates) == 4 * 3 and len({candidate.generator for candidate in candidates}) == 1
    assert len({candidate.image for candidate in candidates}) == len(candidates)
    assert len(scores) == 3 * len(candidates) and all(score.value is not None for score in scores)
    assert 1 <= len(pairs) <= 4 and all(pair.margin > 0 for pair in pairs)

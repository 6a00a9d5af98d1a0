"""Every model that a recipe names is yielded with its place, and none twice."""

from agfsync.recipe import resolve
from agfsync.recipe.models import named_models


def test_every_model_is_yielded_with_its_place() -> None:
    more = [
        "candidates.generator.refiner={from_step: 40}",
        "candidates.generator.loras=[{path: somebody/lora}]",
        "candidates.generator.unet={model: some/unet, revision: v2}",
        "candidates.beside={other: {type: stable-diffusion, model: some/other, vae: some/vae}}",
        "evaluation.judges={gpt: {type: vqa-openai, model: gpt-4o, server: {}}, oracle: {type: mine, model: none}}",
    ]
    found = {each.place: each for each in named_models(resolve("sdxl", more))}
    assert len(found) == len(list(named_models(resolve("sdxl", more))))
    assert {place: each.role for place, each in found.items()} == {
        "candidates.generator": "generator",
        "candidates.generator.unet": "unet",
        "candidates.generator.loras": "lora",
        "candidates.generator.refiner": "refiner",
        "candidates.beside.other": "generator",
        "candidates.beside.other.vae": "vae",
        "scores.scorers.vqa": "scorer",
        "scores.scorers.clip": "scorer",
        "scores.scorers.aesthetic": "scorer",
        "scores.scorers.aesthetic.head": "head",
        "evaluation.judges.gpt": "scorer",
    }
    assert (found["candidates.generator.unet"].model, found["candidates.generator.unet"].revision) == (
        "some/unet",
        "v2",
    )
    assert [place for place, each in found.items() if each.is_served] == ["evaluation.judges.gpt"]

"""Every model that a recipe names is yielded with its place, and none twice."""

from agfsync.recipe import list_named_models, resolve_recipe


def test_every_model_is_yielded_with_its_place() -> None:
    more = [
        "model.refiner={from_step: 40}",
        "model.loras=[{path: somebody/lora}]",
        "model.unet={path: some/unet, revision: v2}",
        "candidates.beside={other: {type: stable-diffusion, path: some/other, vae: some/vae}}",
        "scorers.gpt={type: vqa-openai, path: gpt-4o, server: {}}",
    ]
    found = [each for each in list_named_models(resolve_recipe("sdxl", more)) if not each.place.startswith("scorers.")]
    assert [(each.place, each.role, each.path, each.revision) for each in found[1:]] == [
        ("model.unet", "unet", "some/unet", "v2"),
        ("model.refiner", "refiner", "stabilityai/stable-diffusion-xl-refiner-1.0", None),
        ("model.loras.0", "lora", "somebody/lora", None),
        ("candidates.beside.other", "model", "some/other", None),
        ("candidates.beside.other.vae", "vae", "some/vae", None),
    ]
    scorers = [each for each in list_named_models(resolve_recipe("sdxl", more)) if each.place.startswith("scorers.")]
    assert {each.role for each in scorers} == {"scorer", "head", "weights"}
    assert "scorers.gpt" not in [each.place for each in scorers]

"""Single files and LoRAs, of both families."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models import LORA_FILE, loading, stable_diffusion
from agfsync.training.lora import adapter_weights, add_adapters

FAMILIES = {"stable-diffusion": "pipeline", "stable-diffusion-xl": "xl_pipeline"}
PROMPTS = ["a red circle left of a blue star", "two small green squares"]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(family: str, tiny_generator: Path, tiny_xl_generator: Path) -> Path:
    return {"stable-diffusion": tiny_generator, "stable-diffusion-xl": tiny_xl_generator}[family]


@pytest.fixture
def file(family: str, tmp_path: Path) -> Path:
    import single_file
    import tiny_diffusion

    return single_file.write_single_file(getattr(tiny_diffusion, FAMILIES[family])(), tmp_path / "single.safetensors")


def build(family: str, model: Path, **settings: Any) -> Any:
    common = {"type": family, "path": str(model), "steps": 2, "guidance": 3.0, "device": "cpu"}
    return catalog.build("models", common | settings)


def drawn(generator: Any) -> np.ndarray:
    return np.stack([np.asarray(image, int) for image in generator.draw(PROMPTS, [1, 2], 0.1)])


def lora_of(generator: Any, folder: Path) -> Path:
    """A random LoRA of the generator's network, which it keeps on."""
    add_adapters(generator.network, rank=2, alpha=2, seed=0)
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in generator.network.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    generator.save_adapter(adapter_weights(generator.network, 2, 2), folder)
    return folder


def configuration_of(folder: Path, to: Path) -> Path:
    """A pipeline's folder without its weights."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    return to


def test_a_single_file_is_the_same_model(family: str, folder: Path, file: Path, tmp_path: Path) -> None:
    config = configuration_of(folder, tmp_path / "config")
    single = build(family, file, config=str(config))
    assert np.abs(drawn(single) - drawn(build(family, folder))).max() == 0
    assert single.identity == build(family, file, config=str(config)).identity


def test_a_single_file_needs_its_configuration(
    family: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="weights alone, .* name a folder of such a pipeline as model"):
        build(family, file)


def test_a_single_file_of_another_family_is_said_in_a_line(family: str, file: Path) -> None:
    (other,) = FAMILIES.keys() - {family}
    with pytest.raises(ModelError, match=f"holds no model of the type {other}"):
        build(other, file)


@pytest.mark.parametrize("old", ["PNDMScheduler", "DDIMScheduler"])
def test_loading_is_silent(
    tiny_generator: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, old: str
) -> None:
    """Also of an old configuration, of which diffusers says that it is deprecated and was corrected."""
    folder = Path(shutil.copytree(tiny_generator, tmp_path / "own"))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("DDPMScheduler", old))
    config = {"_class_name": old, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    capfd.readouterr()
    loading.load_pipeline(stable_diffusion.ARCHITECTURE, loading.PipelineSource(str(folder)), torch.float32)
    assert capfd.readouterr() == ("", "") and not recwarn.list


@pytest.mark.parametrize("key", ["model", "loras"])
def test_pickles_are_never_read(tiny_generator: Path, tmp_path: Path, key: str) -> None:
    path = tmp_path / "pickle.ckpt"
    torch.save({"weight": torch.zeros(1)}, path)
    settings: dict[str, Any] = {"loras": [{"path": str(path), "strength": 1.0}]} if key == "loras" else {}
    with pytest.raises(ModelError, match=r"is no \.safetensors file"):
        build("stable-diffusion", path if key == "model" else tiny_generator, **settings)


def test_a_lora_to_draw_with_is_as_strong_as_said_and_leaves_no_layer_of_its_own(
    family: str, folder: Path, tmp_path: Path
) -> None:
    adapted = build(family, folder)
    path = lora_of(adapted, tmp_path / "lora")
    fused = build(family, folder, loras=[{"path": str(path), "strength": 1.0}])
    assert not any(isinstance(module, BaseTunerLayer) for module in fused.network.modules())
    base = drawn(build(family, folder))
    assert np.abs(drawn(fused) - drawn(adapted)).max() <= 1 < np.abs(drawn(adapted) - base).max()
    halves = [{"path": str(each), "strength": 0.5} for each in (path, path / LORA_FILE)]
    both = build(family, folder, loras=halves)
    assert np.abs(drawn(both) - drawn(fused)).max() <= 1
    assert len({each.identity for each in (adapted, fused, both)}) == 3


def test_a_lora_of_another_model_is_said_in_a_line(
    tiny_generator: Path, tiny_xl_generator: Path, tmp_path: Path
) -> None:
    path = lora_of(build("stable-diffusion-xl", tiny_xl_generator), tmp_path / "lora")
    with pytest.raises(ModelError) as caught:
        build("stable-diffusion", tiny_generator, loras=[{"path": str(path), "strength": 1.0}])
    assert "\n" not in str(caught.value)


def test_an_adapter_that_fits_in_part_is_refused(tiny_generator: Path, tmp_path: Path) -> None:
    path = lora_of(build("stable-diffusion", tiny_generator), tmp_path / "lora") / LORA_FILE
    tensors = load_file(path)
    spoilt = next(iter(tensors)).removesuffix(".lora_A.weight")
    save_file({name.replace(f"{spoilt}.", f"{spoilt}x."): tensor for name, tensor in tensors.items()}, path)
    with pytest.raises(ModelError, match=rf"1 of its {len(tensors) // 2} modules don't fit, such as {spoilt}x"):
        build("stable-diffusion", tiny_generator, adapter=path.parent)


def test_a_lora_that_isnt_there_is_said_before_anything_is_loaded() -> None:
    lora = {"path": "./nowhere", "strength": 1.0}
    with pytest.raises(ModelError, match="no model at './nowhere'"):
        catalog.build("models", {"type": "stable-diffusion", "path": "some/base", "loras": [lora]})


def test_a_negative_prompt_is_what_guidance_leads_away_from(family: str, folder: Path) -> None:
    plain, away = build(family, folder), build(family, folder, negative_prompt=PROMPTS[1])
    assert np.abs(drawn(plain) - drawn(away)).max() > 1 and plain.identity != away.identity
    asked = away.encode_prompts([PROMPTS[1]])
    (seen,) = _negative(away)
    for name in asked:
        torch.testing.assert_close(seen[name], asked[name][0])


def _negative(generator: Any) -> list[dict[str, torch.Tensor]]:
    """What stands for no prompt in a drawing's first step."""
    seen: list[dict[str, torch.Tensor]] = []
    predict = generator.predict

    def spying(network: Any, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Any) -> torch.Tensor:
        seen.append({name: tensor[0] for name, tensor in conditioning.items()})
        return predict(network, noisy, timesteps, conditioning)

    generator.predict = spying
    generator.draw(PROMPTS[:1], [1], 0.1)
    return seen[:1]


def test_more_steps_than_the_scheduler_has_are_said_in_a_line(tiny_generator: Path) -> None:
    with pytest.raises(ModelError, match="scheduler lcm can't make 60 steps"):
        build("stable-diffusion", tiny_generator, scheduler="lcm", steps=60)

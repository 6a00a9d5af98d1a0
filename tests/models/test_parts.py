"""Weights that are missing, misnamed or of another variant; networks that another model gives."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models import flux, hub, loading, refiner, stable_diffusion, stable_diffusion_3, stable_diffusion_xl
from agfsync.models.architecture import Architecture
from agfsync.models.files import choose_variant, find_variants
from agfsync.models.loading import PipelineSource, load_pipeline
from agfsync.models.parts import PartSource, load_part

PROMPTS = ["a red circle left of a blue star", "two small green squares"]
ARCHITECTURES: Mapping[str, Architecture] = {
    "pipeline": stable_diffusion.SD_ARCHITECTURE,
    "xl_pipeline": stable_diffusion_xl.XL_ARCHITECTURE,
    "refiner_pipeline": refiner.REFINER_ARCHITECTURE,
    "sd3_pipeline": stable_diffusion_3.SD3_ARCHITECTURE,
    "flux_pipeline": flux.FLUX_ARCHITECTURE,
}
PARTS = [
    *(("pipeline", part) for part in ("unet", "vae", "text_encoder")),
    *(("xl_pipeline", part) for part in ("unet", "vae", "text_encoder", "text_encoder_2")),
    *(("refiner_pipeline", part) for part in ("unet", "vae", "text_encoder_2")),
    *(("sd3_pipeline", part) for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")),
    *(("flux_pipeline", part) for part in ("transformer", "vae", "text_encoder", "text_encoder_2")),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of each tiny pipeline, made once."""
    import tiny_diffusion

    root = tmp_path_factory.mktemp("pipelines")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            getattr(tiny_diffusion, name)().save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture
def own(tiny_generator: Path, tmp_path: Path) -> Path:
    """A copy of the tiny generator's folder."""
    return Path(shutil.copytree(tiny_generator, tmp_path / "own"))


def build(model: Path, type: str = "stable-diffusion", **settings: Any) -> Any:
    common = {"type": type, "path": str(model), "steps": 2, "guidance": 3.0, "device": "cpu"}
    return catalog.build("models", common | settings)


def drawn(generator: Any) -> np.ndarray:
    return np.stack([np.asarray(image, int) for image in generator.draw(PROMPTS, [1, 2], 0.1)])


def weights(folder: Path) -> Path:
    """The file with a part's weights."""
    (file,) = folder.glob("*.safetensors")
    return file


def with_variant(folder: Path, variant: str, keep: bool = False) -> Path:
    """Gives all weights in a pipeline's folder another name, as that of half precision; or copies of them."""
    for file in list(folder.rglob("*.safetensors")):
        (shutil.copy if keep else shutil.move)(file, file.with_suffix(f".{variant}.safetensors"))
    return folder


def with_unet_of(folder: Path, other: Path, to: Path) -> Path:
    """The pipeline with another's UNet, put there by hand."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("unet"))
    shutil.copytree(other, to / "unet")
    return to


@pytest.fixture
def tuned(tiny_generator: Path, tmp_path: Path) -> Path:
    """A folder that holds other weights of the tiny generator's UNet alone, in `unet`, as published ones do."""
    import damaged

    folder = tmp_path / "tuned" / "unet"
    shutil.copytree(tiny_generator / "unet", folder)
    damaged.change_file(weights(folder))
    return folder.parent


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(where=st.sampled_from(PARTS), place=st.integers(0, 10_000), fault=st.integers(0, 4))
def test_no_network_with_a_weight_amiss_is_loaded(
    folders: Callable[[str], Path], where: tuple[str, str], place: int, fault: int
) -> None:
    import damaged

    name, part = where
    folder = folders(name)
    library, kind = json.loads((folder / "model_index.json").read_text())[part]
    broken = folder.parent / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(folder / part, broken)
    key = damaged.damage_file(weights(folder / part), weights(broken), place, damaged.FAULTS[fault])
    found = getattr(__import__(library), kind)
    with pytest.raises(ModelError, match=f"it \\({part}\\) has no weights that fit a .*{key.rpartition('.')[0]}"):
        load_part(found, broken, None, torch.float32, f"it ({part})")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_no_pipeline_with_a_weight_amiss_is_loaded(
    folders: Callable[[str], Path], tmp_path: Path, name: str, part: str
) -> None:
    import damaged

    folder = Path(shutil.copytree(folders(name), tmp_path / "pipeline"))
    damaged.damage_file(weights(folder / part), weights(folder / part), 3, "compiled")
    with pytest.raises(ModelError) as caught:
        load_pipeline(ARCHITECTURES[name], PipelineSource(str(folder)), torch.float32)
    told = str(caught.value)
    assert f"pipeline ({part}) has no weights that fit a " in told and "_orig_mod." in told and "\n" not in told


def test_a_part_whose_folder_is_gone_is_told(own: Path) -> None:
    shutil.rmtree(own / "text_encoder")
    with pytest.raises(ModelError, match=r"own \(text_encoder\) isn't there: its folder has no config\.json"):
        build(own)


def test_a_base_without_the_part_takes_one_from_elsewhere(tiny_generator: Path, own: Path) -> None:
    shutil.rmtree(own / "vae")
    assert np.array_equal(drawn(build(own, vae=str(tiny_generator))), drawn(build(tiny_generator)))


def test_what_has_no_effect_may_be_left_over(own: Path) -> None:
    file = weights(own / "text_encoder")
    more = {"embeddings.position_ids": torch.arange(12)[None], "text_projection.weight": torch.ones(2, 2)}
    more |= {"logit_scale": torch.ones(()), "vision_model.post_layernorm.weight": torch.ones(3)}
    before = drawn(build(own))
    save_file(load_file(file) | more, file, metadata={"format": "pt"})
    assert np.array_equal(drawn(build(own)), before)


def test_names_of_before_are_understood(own: Path) -> None:
    file, names = weights(own / "vae"), {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    before, old = drawn(build(own)), {}
    for name, tensor in load_file(file).items():
        new = next((part for part in names if f".{part}." in name), None)
        old[name.replace(new, names[new]) if new else name] = tensor
    assert old.keys() != load_file(file).keys()
    save_file(old, file, metadata={"format": "pt"})
    assert np.array_equal(drawn(build(own)), before)
    assert np.array_equal(drawn(build(own, vae=str(file))), before)


# Variants


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["model.safetensors"], None, None),
        (["model.fp16.safetensors", "config.json"], None, "fp16"),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"], None, None),
        (["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"], "fp16", "fp16"),
        (["model.safetensors"], "fp16", None),
        (["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"], None, "fp16"),
        (["model-00001-of-00002.fp16.safetensors", "model-00002-of-00002.fp16.safetensors"], None, "fp16"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None, None),
        (["diffusion_pytorch_model.non_ema.safetensors"], None, "non_ema"),
        (["pytorch_model.bin", "flax_model.msgpack"], None, None),
    ],
)
def test_the_variant_is_the_wanted_the_nameless_or_the_only_one(
    names: list[str], wanted: str | None, expected: str | None
) -> None:
    assert choose_variant(names, wanted, "it") == expected


def test_of_several_variants_one_must_be_named() -> None:
    names = ["model.fp16.safetensors", "model.non_ema.safetensors"]
    assert find_variants(names) == {"fp16", "non_ema"}
    with pytest.raises(ModelError, match=r"model\.variant to one of fp16, non_ema"):
        choose_variant(names, None, "it")


@pytest.mark.parametrize(("type", "name"), [("stable-diffusion", "pipeline"), ("stable-diffusion-xl", "xl_pipeline")])
def test_half_precision_alone_is_read_by_itself(
    folders: Callable[[str], Path], tmp_path: Path, type: str, name: str
) -> None:
    before = drawn(build(folders(name), type))
    folder = with_variant(Path(shutil.copytree(folders(name), tmp_path / "own")), "fp16")
    assert np.array_equal(drawn(build(folder, type)), before)
    assert np.array_equal(drawn(build(folder, type, variant="fp16")), before)


def test_the_named_variant_is_drawn_with_and_names_the_images(own: Path) -> None:
    import damaged

    before = drawn(build(own))
    with_variant(own, "ema", keep=True)
    damaged.change_file(own / "unet" / "diffusion_pytorch_model.ema.safetensors")
    plain, ema = build(own), build(own, variant="ema")
    assert np.array_equal(drawn(plain), before) and np.abs(drawn(ema) - before).max() > 1
    assert plain.identity != ema.identity
    with pytest.raises(ModelError, match="no weights of the variant fp16: of variants it has ema"):
        build(own, variant="fp16")


def test_a_variant_in_shards_is_read(tmp_path: Path) -> None:
    import tiny_diffusion

    pipeline = tiny_diffusion.pipeline()
    pipeline.save_pretrained(tmp_path / "one")
    pipeline.save_pretrained(tmp_path / "many", variant="fp16", max_shard_size="40KB")
    assert len(list((tmp_path / "many" / "unet").glob("*.fp16-*.safetensors"))) > 1
    assert np.array_equal(drawn(build(tmp_path / "many")), drawn(build(tmp_path / "one")))


# Networks from elsewhere


@pytest.mark.parametrize("shape", ["unet alone", "root", "pipeline", "file", "settings"])
def test_a_unet_is_put_onto_a_base(tiny_generator: Path, tuned: Path, tmp_path: Path, shape: str) -> None:
    expected = with_unet_of(tiny_generator, tuned / "unet", tmp_path / "expected")
    given = {
        "unet alone": str(tuned),
        "root": str(tuned / "unet"),
        "pipeline": str(expected),
        "file": str(weights(tuned / "unet")),
        "settings": {"path": str(tuned), "revision": None},
    }[shape]
    base, put = build(tiny_generator), build(tiny_generator, unet=given)
    assert np.array_equal(drawn(put), drawn(build(expected)))
    assert np.abs(drawn(put) - drawn(base)).max() > 1
    assert put.identity != base.identity


def test_weights_of_a_part_name_its_images(tiny_generator: Path, tuned: Path) -> None:
    import damaged

    before = build(tiny_generator, unet=str(tuned)).identity
    assert build(tiny_generator, unet=str(tuned)).identity == before
    damaged.change_file(weights(tuned / "unet"), 0.1)
    assert build(tiny_generator, unet=str(tuned)).identity != before


@pytest.mark.long
@pytest.mark.parametrize("type", ["stable-diffusion-3", "flux"])
def test_a_transformer_is_put_onto_a_base(folders: Callable[[str], Path], tmp_path: Path, type: str) -> None:
    import damaged

    base, own = folders({"stable-diffusion-3": "sd3_pipeline", "flux": "flux_pipeline"}[type]), tmp_path / "own"
    shutil.copytree(base, own)
    damaged.change_file(weights(own / "transformer"), 0.2)
    put = build(base, type, transformer=str(own))
    assert np.array_equal(drawn(put), drawn(build(own, type)))
    assert np.abs(drawn(put) - drawn(build(base, type))).max() > 1


@pytest.mark.parametrize("shape", ["folder", "diffusers' names", "original names", "a whole model's"])
def test_a_vae_is_put_onto_a_base(tiny_generator: Path, tmp_path: Path, shape: str) -> None:
    import damaged
    import single_file
    from diffusers import StableDiffusionPipeline

    expected = Path(shutil.copytree(tiny_generator, tmp_path / "expected"))
    damaged.change_file(weights(expected / "vae"))
    other = StableDiffusionPipeline.from_pretrained(expected, use_safetensors=True)
    whole = single_file.write_single_file(other, tmp_path / "whole.safetensors")
    prefix, alone = "first_stage_model.", tmp_path / "alone.safetensors"
    save_file({k.removeprefix(prefix): t for k, t in load_file(whole).items() if k.startswith(prefix)}, alone)
    given = {"folder": expected / "vae", "diffusers' names": weights(expected / "vae"), "original names": alone}
    put = build(tiny_generator, vae=str(given.get(shape, whole)))
    assert np.array_equal(drawn(put), drawn(build(expected)))
    assert put.identity != build(tiny_generator).identity


def test_what_is_put_there_is_whole_too(tiny_generator: Path, tuned: Path) -> None:
    import damaged

    damaged.damage_file(weights(tuned / "unet"), weights(tuned / "unet"), 7, "dropped")
    for place in (tuned, weights(tuned / "unet")):
        with pytest.raises(ModelError, match=r"\(unet\) has no weights that fit a UNet2DConditionModel: 1 of its wei"):
            build(tiny_generator, unet=str(place))


@pytest.mark.parametrize(
    ("key", "place", "told"),
    [
        ("unet", "xl_pipeline", "made for another kind of model: its "),
        ("unet", "xl_pipeline/vae", "is a AutoencoderKL: a UNet2DConditionModel is needed|another kind of model"),
        ("vae", "sd3_pipeline", "its latent_channels is 16, and that of the model's own is 4"),
        ("unet", "sd3_pipeline", r"holds no unet: there is no config\.json"),
        ("transformer", "sd3_pipeline", "a stable-diffusion model has no transformer: leave out transformer"),
    ],
)
def test_what_doesnt_fit_is_refused(
    tiny_generator: Path, folders: Callable[[str], Path], key: str, place: str, told: str
) -> None:
    name, _, part = place.partition("/")
    with pytest.raises(ModelError if key != "transformer" else Exception, match=told) as caught:
        build(tiny_generator, **{key: str(folders(name) / part)})
    assert "\n" not in str(caught.value)


def test_a_part_that_isnt_there_is_said_before_anything_is_loaded() -> None:
    for value in ("./nowhere", {"path": "./nowhere", "revision": None}):
        with pytest.raises(ModelError, match=r"no model at './nowhere'"):
            catalog.build("models", {"type": "stable-diffusion", "path": "some/base", "vae": value})


@pytest.fixture
def hub_unet(tuned: Path, hub_cache: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tuned UNet as the hub's cache holds it, `somebody/tuned`, without a network."""
    commit = hub_cache("somebody/tuned")
    snapshot = hub.find_snapshot("somebody/tuned")
    folder = Path(str(snapshot or hub._find_cache_folder("somebody/tuned") / "snapshots" / commit))
    shutil.copytree(tuned, folder, dirs_exist_ok=True)
    return iter(["somebody/tuned"])


def test_a_part_comes_from_the_hub_and_its_commit_names_it(tiny_generator: Path, tuned: Path, hub_unet: Any) -> None:
    (model,) = hub_unet
    put = build(tiny_generator, unet={"path": model, "revision": None})
    assert np.array_equal(drawn(put), drawn(build(tiny_generator, unet=str(tuned))))
    assert PartSource.from_settings({"path": model, "revision": None}) == PartSource.from_settings(model)
    assert put.identity != build(tiny_generator, unet=str(tuned)).identity


def test_a_part_from_a_single_file_is_put_onto_a_base_of_the_hub(
    tiny_generator: Path, hub_cache: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub_cache("somebody/base")
    base = hub._find_cache_folder("somebody/base") / "snapshots" / commit
    shutil.copytree(tiny_generator, base, dirs_exist_ok=True)
    config = (base / "vae" / "config.json").read_text()
    file = tmp_path / "vae.safetensors"
    (base / "vae" / "diffusion_pytorch_model.safetensors").rename(file)
    (base / "vae" / "config.json").unlink()
    asked = []

    def find_file(model: str, name: str, revision: str | None) -> Path:
        asked.append((model, name, revision))
        (base / name).write_text(config)
        return base / name

    monkeypatch.setattr(loading, "find_file", find_file)
    put = build(Path("somebody/base"), vae=str(file))
    assert asked == [("somebody/base", "vae/config.json", None)]
    assert np.array_equal(drawn(put), drawn(build(tiny_generator)))


def test_a_part_that_the_hub_cant_give_is_said_in_a_line(tiny_generator: Path, hub_cache: Any) -> None:
    with pytest.raises(ModelError, match="somebody/none isn't on this machine, and can't be fetched: no network"):
        build(tiny_generator, unet="somebody/none")

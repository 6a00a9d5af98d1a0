"""Single files with parts or weights amiss, and what they say of their prediction."""

import shutil
from collections.abc import Callable, Mapping
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
from agfsync.models import refiner, stable_diffusion, stable_diffusion_xl
from agfsync.models.architecture import Architecture
from agfsync.models.loading import PipelineSource, load_pipeline
from agfsync.models.single_file import read_prediction

PROMPTS = ["a red circle left of a blue star", "two small green squares"]
KINDS: Mapping[str, tuple[str, Architecture]] = {
    "stable-diffusion": ("pipeline", stable_diffusion.SD_ARCHITECTURE),
    "stable-diffusion-xl": ("xl_pipeline", stable_diffusion_xl.XL_ARCHITECTURE),
}
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Gives each family's single file and the folder of the same pipeline, made once."""
    import single_file
    import tiny_diffusion

    root = tmp_path_factory.mktemp("singles")

    def made(type: str) -> tuple[Path, Path]:
        folder, file = root / type, root / f"{type}.safetensors"
        if not file.exists():
            pipeline = getattr(tiny_diffusion, KINDS[type][0])()
            pipeline.save_pretrained(folder)
            single_file.write_single_file(pipeline, file)
        return file, folder

    return made


def build(type: str, model: Path, config: Path | None = None, **settings: Any) -> Any:
    common = {"type": type, "path": str(model), "steps": 3, "guidance": 3.0, "device": "cpu"}
    return catalog.build("models", common | ({"config": str(config)} if config else {}) | settings)


def drawn(generator: Any) -> np.ndarray:
    return np.stack([np.asarray(image, int) for image in generator.draw(PROMPTS, [1, 2], 0.1)])


def changed(
    file: Path, to: Path, change: Callable[[Tensors], Tensors], metadata: Mapping[str, str] | None = None
) -> Path:
    """The file with other tensors."""
    save_file(change(load_file(file)), to, metadata=dict(metadata or {}))
    return to


def without(*prefixes: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


@pytest.mark.long
@settings(max_examples=50, deadline=None, derandomize=True)
@given(type=st.sampled_from(sorted(KINDS)), place=st.integers(0, 10_000), fault=st.integers(0, 4))
def test_no_file_with_a_weight_amiss_is_loaded(
    singles: Callable[[str], tuple[Path, Path]], type: str, place: int, fault: int
) -> None:
    import damaged

    (file, folder), architecture = singles(type), KINDS[type][1]
    key = damaged.damage_file(file, file.with_name("broken.safetensors"), place, damaged.FAULTS[fault])
    part = next(name for name, prefixes in architecture.prefixes.items() if key.startswith(prefixes))
    with pytest.raises(ModelError) as caught:
        source = PipelineSource(str(file.with_name("broken.safetensors")), config=str(folder))
        load_pipeline(architecture, source, torch.float32)
    told = str(caught.value)
    assert "\n" not in told
    # A name that begins otherwise is of no part: it says so, and the name itself says of which it was.
    assert f"({part})" in told or ("that no part" in told and f"_orig_mod.{key}" in told)


@pytest.mark.parametrize("type", KINDS)
def test_a_file_without_a_vae_takes_one_by_a_key(
    singles: Callable[[str], tuple[Path, Path]], tmp_path: Path, type: str
) -> None:
    file, folder = singles(type)
    bare = changed(file, tmp_path / "bare.safetensors", without("first_stage_model."))
    with pytest.raises(ModelError, match=r"holds no vae, .*first_stage_model.* name one as .*model\.vae"):
        build(type, bare, folder)
    expected = drawn(build(type, folder))
    for vae in (folder, folder / "vae", file):
        assert np.array_equal(drawn(build(type, bare, folder, vae=str(vae))), expected)


@pytest.mark.parametrize("type", KINDS)
def test_a_file_without_a_unet_takes_one_by_a_key(
    singles: Callable[[str], tuple[Path, Path]], tmp_path: Path, type: str
) -> None:
    file, folder = singles(type)
    bare = changed(file, tmp_path / "bare.safetensors", without("model.diffusion_model."))
    with pytest.raises(ModelError, match=r"holds no unet, .*model\.diffusion_model.* name one as .*model\.unet"):
        build(type, bare, folder)
    prefix, alone = "model.diffusion_model.", tmp_path / "alone.safetensors"
    save_file({k.removeprefix(prefix): t for k, t in load_file(file).items() if k.startswith(prefix)}, alone)
    for unet in (folder, file, alone):
        assert np.array_equal(drawn(build(type, bare, folder, unet=str(unet))), drawn(build(type, folder)))


@pytest.mark.parametrize(
    ("prefix", "part"), [("conditioner.embedders.0.", "text_encoder"), ("conditioner.embedders.1.", "text_encoder_2")]
)
def test_a_file_with_one_encoder_of_two_is_refused(
    singles: Callable[[str], tuple[Path, Path]], tmp_path: Path, prefix: str, part: str
) -> None:
    file, folder = singles("stable-diffusion-xl")
    half = changed(file, tmp_path / "half.safetensors", without(prefix))
    with pytest.raises(ModelError, match=f"holds no {part}, which would be {prefix}.* take a file that has one"):
        build("stable-diffusion-xl", half, folder)


@pytest.mark.parametrize("type", KINDS)
def test_names_of_a_text_encoder_without_its_model_are_refused(
    singles: Callable[[str], tuple[Path, Path]], tmp_path: Path, type: str
) -> None:
    file, folder = singles(type)
    flat = changed(
        file,
        tmp_path / "flat.safetensors",
        lambda tensors: {k.replace(".text_model.", "."): t for k, t in tensors.items()},
    )
    with pytest.raises(ModelError, match=r"\(text_encoder\) has no weights that fit a CLIPTextModel"):
        build(type, flat, folder)


def test_what_has_no_effect_may_be_left_over(singles: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    file, folder = singles("stable-diffusion")
    one = torch.ones(3)
    more = {
        "model_ema.decay": one,
        "model_ema.diffusion_modeltime_embed0weight": one,
        "alphas_cumprod": one,
        "betas": one,
        "sqrt_recip_alphas_cumprod": one,
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None],
        "cond_stage_model.logit_scale": torch.ones(()),
        "first_stage_model.loss.logvar": torch.ones(()),
    }
    path = changed(
        file,
        tmp_path / "more.safetensors",
        lambda tensors: tensors | {name: each.clone() for name, each in more.items()},
    )
    assert np.array_equal(drawn(build("stable-diffusion", path, folder)), drawn(build("stable-diffusion", folder)))


@pytest.mark.parametrize(
    "name", ["control_model.input_blocks.0.0.weight", "lora_unet_mid.lora_up.weight", "edm_vpred.sigma_max"]
)
def test_weights_of_no_part_are_refused(singles: Callable[[str], tuple[Path, Path]], tmp_path: Path, name: str) -> None:
    file, folder = singles("stable-diffusion")
    path = changed(file, tmp_path / "more.safetensors", lambda tensors: tensors | {name: torch.ones(2)})
    with pytest.raises(ModelError, match=f"holds 1 weights that no part of a StableDiffusionPipeline takes .{name}"):
        build("stable-diffusion", path, folder)


def test_a_file_of_stable_diffusion_2_is_read(singles: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """Its text encoder has open_clip's names, a last layer that isn't read, and a projection that isn't either."""
    import single_file
    import tiny_diffusion

    file, folder = singles("stable-diffusion")
    encoder = tiny_diffusion.pipeline().text_encoder
    encoder.load_state_dict(load_file(folder / "text_encoder" / "model.safetensors"))
    state = {f"text_model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {"text_projection.weight": torch.eye(16)}
    like = type("Encoder", (), {"state_dict": lambda self: state})()
    prefix = "cond_stage_model.model."
    theirs = single_file._open_clip(like, prefix)
    layers = [name for name in theirs if ".resblocks.0." in name]
    theirs |= {name.replace("resblocks.0.", "resblocks.23."): theirs[name].clone() for name in layers}
    theirs |= {f"{prefix}logit_scale": torch.ones(()), f"{prefix}attn_mask": torch.zeros(12, 12)}
    path = changed(
        file,
        tmp_path / "two.safetensors",
        lambda tensors: {k: t.contiguous() for k, t in (without("cond_stage_model.")(tensors) | theirs).items()},
    )
    assert np.array_equal(drawn(build("stable-diffusion", path, folder)), drawn(build("stable-diffusion", folder)))


def test_a_refiners_file_is_read(tmp_path: Path) -> None:
    import single_file
    import tiny_diffusion

    pipeline = tiny_diffusion.refiner_pipeline()
    pipeline.save_pretrained(tmp_path / "refiner")
    weights = single_file._unet(pipeline.unet) | single_file._vae(pipeline.vae)
    weights |= single_file._open_clip(pipeline.text_encoder_2, "conditioner.embedders.0.model.")
    path = tmp_path / "refiner.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, path)
    source = PipelineSource(str(path), config=str(tmp_path / "refiner"))
    loaded = load_pipeline(refiner.REFINER_ARCHITECTURE, source, torch.float32)
    for name in ("unet", "vae", "text_encoder_2"):
        theirs, ours = getattr(pipeline, name).state_dict(), getattr(loaded, name).state_dict()
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_a_variant_of_a_single_file_is_refused(singles: Callable[[str], tuple[Path, Path]]) -> None:
    file, folder = singles("stable-diffusion")
    with pytest.raises(ModelError, match="is a single file, which has no variants: leave out variant fp16"):
        build("stable-diffusion", file, folder, variant="fp16")


# What a file says of its prediction

MARK = torch.tensor([])


@pytest.mark.parametrize(
    ("marks", "header", "expected"),
    [
        ((), {}, {}),
        (("v_pred",), {}, {"prediction_type": "v_prediction"}),
        (("v_pred", "ztsnr"), {}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        ((), {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.predict_key": "v"}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
        ((), {"modelspec.predict_key": "epsilon"}, {"prediction_type": "epsilon"}),
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}),
        (
            ("ztsnr",),
            {"modelspec.prediction_type": "v"},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ),
    ],
)
def test_a_file_says_what_it_predicts(
    tmp_path: Path, marks: tuple[str, ...], header: dict[str, str], expected: dict[str, Any]
) -> None:
    path = tmp_path / "marked.safetensors"
    save_file({"weight": torch.ones(1), **dict.fromkeys(marks, MARK)}, path, metadata=header)
    assert read_prediction(str(path)) == expected


def test_another_prediction_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"modelspec.prediction_type": "x0"})
    with pytest.raises(ModelError, match="says that its network predicts 'x0': v and epsilon are understood"):
        read_prediction(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("type", KINDS)
@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DDIMScheduler", "PNDMScheduler"])
def test_images_are_drawn_by_what_the_file_predicts(
    singles: Callable[[str], tuple[Path, Path]], tmp_path: Path, type: str, scheduler: str
) -> None:
    """The same as of a folder whose scheduler says so."""
    import diffusers

    file, folder = singles(type)
    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    more = {"DDIMScheduler": {"clip_sample": False}, "PNDMScheduler": {"skip_prk_steps": True}}.get(scheduler, {})
    plain, said = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("plain", "said"))
    getattr(diffusers, scheduler)(**common, **more).save_pretrained(plain / "scheduler")
    getattr(diffusers, scheduler)(**common, **more, prediction_type="v_prediction").save_pretrained(said / "scheduler")
    for each in (plain, said):
        index = each / "model_index.json"
        name = "DDPMScheduler" if type == "stable-diffusion" else "EulerDiscreteScheduler"
        index.write_text(index.read_text().replace(name, scheduler))
    expected, noise = drawn(build(type, said)), drawn(build(type, plain))
    assert np.abs(expected - noise).max() > 1
    marked = changed(file, tmp_path / "v.safetensors", lambda tensors: tensors | {"v_pred": MARK})
    headed = changed(file, tmp_path / "h.safetensors", dict, {"modelspec.prediction_type": "v"})
    for path in (marked, headed):
        generator = build(type, path, plain)
        assert generator.schedule.prediction_type == "v_prediction"
        assert np.array_equal(drawn(generator), expected)
    back = changed(file, tmp_path / "e.safetensors", dict, {"modelspec.prediction_type": "epsilon"})
    assert np.array_equal(drawn(build(type, back, said)), noise)


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "PNDMScheduler"])
def test_a_terminal_ratio_of_zero_is_honoured(
    singles: Callable[[str], tuple[Path, Path]], tmp_path: Path, scheduler: str
) -> None:
    """PNDM, which has no such setting, becomes DDIM."""
    import diffusers

    file, folder = singles("stable-diffusion")
    plain, said = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("plain", "said"))
    common = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    pndm = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    getattr(diffusers, scheduler)(**common, **pndm).save_pretrained(plain / "scheduler")
    becomes = {"PNDMScheduler": "DDIMScheduler"}.get(scheduler, scheduler)
    more = {"clip_sample": False, "set_alpha_to_one": False} if becomes == "DDIMScheduler" else {}
    more |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    getattr(diffusers, becomes)(**common, **more).save_pretrained(said / "scheduler")
    for each, name in ((plain, scheduler), (said, becomes)):
        index = each / "model_index.json"
        index.write_text(index.read_text().replace("DDPMScheduler", name))
    path = changed(file, tmp_path / "z.safetensors", lambda tensors: tensors | {"v_pred": MARK, "ztsnr": MARK})
    generator = build("stable-diffusion", path, plain)
    assert generator.schedule.prediction_type == "v_prediction"
    assert float(generator.schedule.alphas_cumprod_N[-1]) < 1e-6
    assert np.array_equal(drawn(generator), drawn(build("stable-diffusion", said)))


def test_a_unet_of_its_own_says_what_it_predicts(singles: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    file, folder = singles("stable-diffusion")
    marked = changed(file, tmp_path / "v.safetensors", lambda tensors: tensors | {"v_pred": MARK})
    assert build("stable-diffusion", folder, unet=str(marked)).schedule.prediction_type == "v_prediction"

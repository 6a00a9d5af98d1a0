"""What of a pipeline's configuration is applied, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_diffusion
import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderKLTemporalDecoder,
    AutoencoderTiny,
    ConsistencyDecoderVAE,
    DDPMScheduler,
)
from diffusers_pixels import PIPELINES, are_same_pixels, by_diffusers, by_ours, edited, ours, replaced
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from agfsync.errors import ModelError
from agfsync.models.architecture import size_in_latents
from agfsync.models.configuration import REFINER_TYPE, check_files, check_parts, limit_tokens, read_parts
from agfsync.models.published import load_published

SD, XL = PIPELINES
VAE, UNET, INDEX = "vae/config.json", "unet/config.json", "model_index.json"
MEAN, STD = [0.3, -0.2, 0.1, 0.5], [1.5, 0.7, 2.0, 1.1]


@pytest.fixture
def folders(tiny_generator: Path, tiny_xl_generator: Path) -> dict[str, Path]:
    return {SD: tiny_generator, XL: tiny_xl_generator}


def saved(pipeline: Any, to: Path, **parts: Any) -> Path:
    for name, part in parts.items():
        setattr(pipeline, name, part)
    pipeline.register_modules(**parts)
    pipeline.save_pretrained(to)
    return to


def unlike(network: Any, **keys: Any) -> Any:
    """A new network of the same class with other `keys` in its configuration."""
    torch.manual_seed(3)
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    return type(network)(**config | keys)


def reader(folder: Path) -> Callable[[str], Any]:
    return lambda name: json.loads((folder / name).read_text()) if (folder / name).is_file() else None


def refused(type_: str, folder: Path, says: str, **settings_: Any) -> None:
    """By its files alone, and when it is loaded, with the same words."""
    with pytest.raises(ModelError, match=says) as by_files:
        check_files(type_, reader(folder), steps=4, **settings_)
    with pytest.raises(ModelError, match=says) as loaded:
        ours(type_, folder, **settings_)
    assert str(by_files.value) == str(loaded.value) and "\n" not in str(loaded.value)


@pytest.mark.parametrize("type_", PIPELINES)
@pytest.mark.parametrize(
    "keys",
    [
        {"latents_mean": MEAN, "latents_std": STD},
        {"latents_mean": MEAN},
        {"latents_std": STD},
        {"shift_factor": 0.4},
        {"scaling_factor": 1.3},
    ],
    ids=lambda keys: "+".join(keys),
)
def test_statistics_of_the_latents_are_applied_as_by_diffusers(
    folders: dict[str, Path], tmp_path: Path, type_: str, keys: dict[str, Any]
) -> None:
    where = edited(folders[type_], tmp_path / "vae", {VAE: keys})
    assert are_same_pixels(by_diffusers(type_, where), by_ours(type_, where))


def test_encoding_is_the_way_back_from_decoding(folders: dict[str, Path], tmp_path: Path) -> None:
    where = edited(folders[XL], tmp_path / "vae", {VAE: {"latents_mean": MEAN, "latents_std": STD}})
    image = Image.new("RGB", (16, 16), "red")
    plain, shifted = (ours(XL, folder).encode_images([image]) for folder in (folders[XL], where))
    mean, std = (torch.tensor(each).view(1, 4, 1, 1) for each in (MEAN, STD))
    torch.testing.assert_close(shifted, (plain / 0.5 - mean) * 0.5 / std)


def test_statistics_of_another_number_of_channels_are_said(folders: dict[str, Path], tmp_path: Path) -> None:
    where = edited(folders[XL], tmp_path / "vae", {VAE: {"latents_mean": MEAN[:3], "latents_std": STD}})
    with pytest.raises(ModelError, match="4 channels, and statistics of 3"):
        ours(XL, where)


@pytest.mark.parametrize("type_", PIPELINES)
@pytest.mark.parametrize("guidance", [1.0, 8.0])
def test_a_network_that_is_told_the_guidance_draws_as_by_diffusers(tmp_path: Path, type_: str, guidance: float) -> None:
    pipeline = tiny_diffusion.pipeline() if type_ == SD else tiny_diffusion.xl_pipeline()
    told = unlike(pipeline.unet, time_cond_proj_dim=10)
    torch.nn.init.normal_(told.time_embedding.cond_proj.weight)
    where = saved(pipeline, tmp_path / "lcm", unet=told)
    drawn = by_ours(type_, where, guidance=guidance)
    assert are_same_pixels(by_diffusers(type_, where, guidance_scale=guidance), drawn)
    assert np.abs(drawn - by_ours(type_, where, guidance=guidance + 3)).max() > 1


def test_xl_with_its_second_encoder_alone_draws_as_by_diffusers(tmp_path: Path) -> None:
    pipeline = tiny_diffusion.xl_pipeline()
    narrow = unlike(pipeline.unet, cross_attention_dim=tiny_diffusion.XL_WIDTH)
    where = saved(pipeline, tmp_path / "second", unet=narrow, text_encoder=None, tokenizer=None)
    assert are_same_pixels(by_diffusers(XL, where), by_ours(XL, where))
    assert ours(XL, where).encode_prompts(["a", ""]).keys()


@pytest.mark.parametrize("type_", PIPELINES)
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_draws_as_by_diffusers(tmp_path: Path, type_: str, clip_skip: int) -> None:
    pipeline = tiny_diffusion.pipeline() if type_ == SD else tiny_diffusion.xl_pipeline()
    torch.manual_seed(4)
    encoders = {name: part for name, part in pipeline.components.items() if name.startswith("text_encoder")}
    deep = {n: type(e)(type(e.config)(**e.config.to_dict() | {"num_hidden_layers": 4})) for n, e in encoders.items()}
    where = saved(pipeline, tmp_path / "deep", **deep)
    drawn = by_ours(type_, where, clip_skip=clip_skip)
    assert are_same_pixels(by_diffusers(type_, where, clip_skip=clip_skip), drawn)
    negative = {"negative_prompt": "two small green squares", "clip_skip": clip_skip}
    assert are_same_pixels(by_diffusers(type_, where, **negative), by_ours(type_, where, **negative))
    assert np.abs(drawn - by_ours(type_, where)).max() > 0
    generator, plain = ours(type_, where, clip_skip=clip_skip), ours(type_, where)
    assert generator.identity != plain.identity
    # No prompt is encoded as what guidance leads away from.
    for name, rows in generator.encode_prompts(["a red circle", ""]).items():
        assert torch.equal(rows[1:], plain.encode_prompts([""])[name])
    refused(type_, where, "clip_skip 9 leaves nothing of its text_encoder, which has 4 layers", clip_skip=9)


def _tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(5)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )


def _asymmetric_vae() -> AsymmetricAutoencoderKL:
    torch.manual_seed(6)
    return AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        down_block_out_channels=(8, 8),
        up_block_types=("UpDecoderBlock2D",) * 2,
        up_block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=16,
    )


@pytest.mark.parametrize("type_", PIPELINES)
@pytest.mark.parametrize("vae", [_tiny_vae, _asymmetric_vae])
def test_other_vaes_draw_as_by_diffusers_and_encode(
    folders: dict[str, Path], tmp_path: Path, type_: str, vae: Callable[[], Any]
) -> None:
    where = replaced(folders[type_], tmp_path / "vae", "vae", vae())
    assert are_same_pixels(by_diffusers(type_, where), by_ours(type_, where))
    latents = ours(type_, where).encode_images([Image.new("RGB", (16, 16), "red")])
    assert latents.shape == (1, 4, 8, 8) and torch.isfinite(latents).all()
    assert check_files(type_, reader(where), steps=4) is None, "it can be trained"


@pytest.mark.parametrize("kind", [AutoencoderKLTemporalDecoder, ConsistencyDecoderVAE])
def test_vaes_of_other_things_are_refused(folders: dict[str, Path], tmp_path: Path, kind: Any) -> None:
    where = edited(folders[SD], tmp_path / "vae", {INDEX: {"vae": ["diffusers", kind.__name__]}})
    with pytest.raises(ModelError, match=f"its VAE is a {kind.__name__}: only AutoencoderKL"):
        check_files(SD, reader(where), steps=4)


UNUSUAL = {
    "inpainting": ({"in_channels": 9}, "in_channels 9 and the VAE 4 latent channels"),
    "out": ({"out_channels": 8}, "out_channels 8 and the VAE 4 latent channels"),
    "class": ({"class_embed_type": "timestep"}, "class_embed_type timestep: it needs a class"),
    "classes": ({"num_class_embeds": 10}, "num_class_embeds 10: it needs a class"),
    "image": (
        {"encoder_hid_dim_type": "image_proj", "encoder_hid_dim": 16},
        "encoder_hid_dim_type image_proj: it needs an image",
    ),
    "added": (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 36,
        },
        "addition_embed_type text_time: None or text is understood",
    ),
    "width": ({"cross_attention_dim": 20}, r"cross_attention_dim 20 and the text encoders' hidden_size is 16"),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unets_that_need_more_than_a_text_are_refused(tmp_path: Path, name: str) -> None:
    keys, says = UNUSUAL[name]
    pipeline = tiny_diffusion.pipeline()
    where = saved(pipeline, tmp_path / "unet", unet=unlike(pipeline.unet, **keys))
    refused(SD, where, says)


def test_an_xl_without_its_sizes_is_refused(tmp_path: Path) -> None:
    pipeline = tiny_diffusion.xl_pipeline()
    for number, (keys, says) in enumerate(
        [
            ({"addition_embed_type": None}, "addition_embed_type None: text_time is understood"),
            (
                {"projection_class_embeddings_input_dim": 12 + 5 * 4},
                "projection_class_embeddings_input_dim 32, and takes projection_dim 12 of text_encoder_2 and 6 times",
            ),
        ]
    ):
        unet = unlike(pipeline.unet, **keys)
        refused(XL, saved(tiny_diffusion.xl_pipeline(), tmp_path / str(number), unet=unet), says)


def test_a_projected_text_and_a_text_embedding_draw_as_by_diffusers(tmp_path: Path) -> None:
    for keys in (
        {"encoder_hid_dim": 16, "cross_attention_dim": 24},
        {"addition_embed_type": "text", "addition_embed_type_num_heads": 2},
        {"time_embedding_type": "fourier"},
        {"center_input_sample": True, "time_embedding_act_fn": "silu", "mid_block_type": None},
    ):
        pipeline = tiny_diffusion.pipeline()
        unet = unlike(pipeline.unet, **keys)
        where = saved(pipeline, tmp_path / "-".join(keys), unet=unet)
        assert are_same_pixels(by_diffusers(SD, where), by_ours(SD, where)), keys


def test_a_learned_variance_is_drawn_as_by_diffusers_and_not_trained(tmp_path: Path) -> None:
    pipeline = tiny_diffusion.pipeline()
    unet = unlike(pipeline.unet, out_channels=8)
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False, steps_offset=1)
    where = saved(pipeline, tmp_path / "learned", unet=unet, scheduler=scheduler)
    assert are_same_pixels(by_diffusers(SD, where), by_ours(SD, where))
    reason = check_files(SD, reader(where), steps=4)
    assert reason and "predicts a variance as well" in reason
    with pytest.raises(ModelError, match="can't be trained: its network predicts a variance"):
        _ = ours(SD, where).schedule


@pytest.mark.parametrize("type_", PIPELINES)
def test_a_size_may_be_two_numbers_or_none(folders: dict[str, Path], tmp_path: Path, type_: str) -> None:
    two = edited(folders[type_], tmp_path / "two", {UNET: {"sample_size": [8, 12]}})
    drawn = by_ours(type_, two)
    assert drawn.shape == (16, 24, 3)
    assert are_same_pixels(by_diffusers(type_, two, size=(16, 24)), drawn)
    none = edited(folders[type_], tmp_path / "none", {UNET: {"sample_size": None}})
    refused(type_, none, "doesn't say the size it was made for: set height and width")
    assert [size_in_latents(each) for each in (64, [96, 64], None, "x", [1, 2, 3], 0)] == [
        (64, 64),
        (96, 64),
        *[None] * 4,
    ]
    sized = {"height": 16, "width": 16}
    assert are_same_pixels(by_diffusers(type_, none), by_ours(type_, none, **sized))
    assert check_files(type_, reader(none), steps=4, sized=True) is None


@pytest.mark.parametrize("type_", PIPELINES)
@pytest.mark.parametrize("length", [int(1e30), 10_000, None])
def test_a_tokenizers_absurd_length_is_its_encoders(
    folders: dict[str, Path], tmp_path: Path, type_: str, length: int | None
) -> None:
    names = ["tokenizer/tokenizer_config.json", *(["tokenizer_2/tokenizer_config.json"] if type_ == XL else [])]
    edits = {} if length is None else {name: {"model_max_length": length} for name in names}
    without = {name: ["model_max_length"] for name in names} if length is None else None
    where = edited(folders[type_], tmp_path / "long", edits, without)
    assert are_same_pixels(by_diffusers(type_, folders[type_]), by_ours(type_, where))


def test_a_shorter_tokenizer_stays_short(folders: dict[str, Path]) -> None:
    pipeline = ours(SD, folders[SD])._pipeline
    pipeline.tokenizer.model_max_length = 7
    limit_tokens(pipeline)
    assert pipeline.tokenizer.model_max_length == 7


@pytest.mark.parametrize(
    ("type_", "absent", "says"),
    [
        (SD, ["text_encoder"], "it has no text_encoder"),
        (SD, ["tokenizer"], "it has no tokenizer"),
        (SD, ["unet"], "it has no unet"),
        (XL, ["text_encoder_2"], "it has no text_encoder_2"),
        (XL, ["tokenizer_2"], "it has no tokenizer_2"),
        (XL, ["tokenizer"], "it has no tokenizer"),
        (XL, ["text_encoder", "tokenizer", "tokenizer_2"], "it has no tokenizer_2"),
    ],
)
def test_absent_parts_are_named(
    folders: dict[str, Path], tmp_path: Path, type_: str, absent: list[str], says: str
) -> None:
    where = edited(folders[type_], tmp_path / "absent", {INDEX: {name: [None, None] for name in absent}})
    with pytest.raises(ModelError, match=says):
        check_files(type_, reader(where), steps=4)
    with pytest.raises(ModelError) as caught:
        ours(type_, where)
    assert "\n" not in str(caught.value)


def test_published_models_are_understood() -> None:
    types = {
        "StableDiffusionPipeline": SD,
        "StableDiffusionXLPipeline": XL,
        "StableDiffusionXLImg2ImgPipeline": REFINER_TYPE,
        "StableDiffusion3Pipeline": "stable-diffusion-3",
        "FluxPipeline": "flux",
        "Flux2KleinPipeline": "flux2-klein",
        "QwenImagePipeline": "qwen-image",
        "ZImagePipeline": "z-image",
    }
    there = {name: ["transformers", "CLIPTokenizer"] for name in ("tokenizer", "tokenizer_2")}
    tried = []
    for name, files in load_published()["models"].items():
        if INDEX in files:
            kind = "FlowMatchEulerDiscreteScheduler" if "transformer" in files[INDEX] else "EulerDiscreteScheduler"
            index = {**files[INDEX], **there, "scheduler": ["diffusers", kind]}
            parts = read_parts({**files, INDEX: index, "scheduler/scheduler_config.json": {}}.get)
            tried.append(name)
            check_parts(types[str(index["_class_name"])], parts)
            assert len(parts) >= 4
    assert len(tried) >= 4


def test_a_configuration_of_which_a_file_isnt_at_hand_is_left_to_the_loading(folders: dict[str, Path]) -> None:
    read = reader(folders[SD])
    for name in (UNET, VAE, "text_encoder/config.json", "scheduler/scheduler_config.json"):
        assert check_files(SD, lambda file, name=name: None if file == name else read(file), steps=4) is None  # type: ignore[misc]
        assert not read_parts(lambda file, name=name: None if file == name else read(file))  # type: ignore[misc]


def test_another_kind_of_pipeline_is_said(folders: dict[str, Path]) -> None:
    with pytest.raises(
        ModelError, match="is a StableDiffusionXLPipeline: the type stable-diffusion needs a StableDiff"
    ):
        check_files(SD, reader(folders[XL]), steps=4)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [0, 1, 2, 3, 4, 8, 9, 16, 0.5, -1.0, 1e30, "text", "text_time", "timestep", "silu", "x", [4, 8], []]
    ),
)
KEYS = {
    UNET: [
        "in_channels", "out_channels", "sample_size", "center_input_sample", "flip_sin_to_cos", "freq_shift",
        "class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim", "encoder_hid_dim_type",
        "time_cond_proj_dim", "time_embedding_type", "timestep_post_act", "conv_in_kernel", "cross_attention_dim",
        "only_cross_attention", "dual_cross_attention", "upcast_attention", "resnet_time_scale_shift",
        "resnet_skip_time_act", "resnet_out_scale_factor", "norm_eps", "act_fn", "dropout", "mid_block_type",
        "use_linear_projection", "class_embeddings_concat", "attention_type", "somebodys_own",
    ],
    VAE: [
        "latents_mean", "latents_std", "shift_factor", "scaling_factor", "force_upcast", "latent_channels",
        "in_channels", "out_channels", "sample_size", "act_fn", "mid_block_add_attention", "use_quant_conv",
        "block_out_channels", "somebodys_own",
    ],
    "scheduler/scheduler_config.json": [
        "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type", "variance_type",
        "clip_sample", "thresholding", "timestep_spacing", "rescale_betas_zero_snr", "steps_offset", "trained_betas",
        "use_karras_sigmas", "somebodys_own",
    ],
    "text_encoder/config.json": [
        "hidden_act", "use_attention_mask", "eos_token_id", "layer_norm_eps",
    ],
    "tokenizer/tokenizer_config.json": ["model_max_length", "pad_token", "padding_side", "add_prefix_space"],
}  # fmt: skip
EDITS = st.lists(
    st.sampled_from([(file, key) for file, keys in KEYS.items() for key in keys]), min_size=1, max_size=2
).flatmap(lambda places: st.tuples(*(st.tuples(st.just(place), VALUES) for place in places)))


@pytest.mark.long
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(type_=st.sampled_from(list(PIPELINES)), edits=EDITS)
@example(type_=SD, edits=((("unet/config.json", "sample_size"), [4, 8]),))
@example(type_=SD, edits=((("scheduler/scheduler_config.json", "rescale_betas_zero_snr"), True),))
def test_any_configuration_draws_diffusers_pixels_or_is_refused_in_a_line(
    tmp_path_factory: pytest.TempPathFactory, type_: str, edits: Any
) -> None:
    base = tmp_path_factory.getbasetemp() / f"base-{type_}"
    if not base.exists():
        (tiny_diffusion.pipeline() if type_ == SD else tiny_diffusion.xl_pipeline()).save_pretrained(base)
    changed: dict[str, dict[str, Any]] = {}
    for (file, key), value in edits:
        changed.setdefault(file, {})[key] = value
    where = edited(base, tmp_path_factory.mktemp("any") / "model", changed)
    sized = {"height": 16, "width": 16}
    try:
        drawn = by_ours(type_, where, **sized)
    except ModelError as refusal:
        assert "\n" not in str(refusal)
        return
    try:
        expected = by_diffusers(type_, where)
    except Exception:
        # diffusers fails at a tokenizer that doesn't say its length, which is taken from its encoder here.
        assert "model_max_length" in changed.get("tokenizer/tokenizer_config.json", {}), changed
        return
    assert are_same_pixels(expected, drawn), changed

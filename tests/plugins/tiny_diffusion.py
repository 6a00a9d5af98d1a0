"""Models of each architecture, of a few thousand weights, saved as the big ones are."""

import json
from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

CAPTIONS = ["a red circle left of a blue star", "two small green squares", "a large yellow ring on grey"]
WIDTH, XL_WIDTH, T5_WIDTH, TOKENS = 16, 8, 32, 12


def pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@cache
def _tokenizer() -> CLIPTokenizer:
    """Byte pairs of the captions above. Made once: of equally frequent pairs the trainer takes any."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=120,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    learner.train_from_iterator(CAPTIONS, trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=learner.get_vocab(), merges=merges, model_max_length=TOKENS)


def _text_encoder(
    tokenizer: CLIPTokenizer,
    kind: type[Any] = CLIPTextModel,
    layers: int = 1,
    width: int = WIDTH,
    projected: int = WIDTH,
) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=projected,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _vae(**settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        **{"latent_channels": 4, "scaling_factor": 0.5} | settings,
    )


def _unet(**settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        **{"cross_attention_dim": WIDTH} | settings,
    )


def xl_pipeline() -> StableDiffusionXLPipeline:
    """Both encoders of their own width, sizes as SDXL's: 16 + 8 wide text, 12 wide pooled, six numbers of 4 each."""
    torch.manual_seed(1)
    tokenizer = _tokenizer()
    return StableDiffusionXLPipeline(
        vae=_vae(force_upcast=True),
        text_encoder=_text_encoder(tokenizer, layers=2),
        text_encoder_2=_text_encoder(tokenizer, CLIPTextModelWithProjection, layers=2, width=XL_WIDTH, projected=12),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=WIDTH + XL_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12 + 6 * 4,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )


def refiner_pipeline() -> StableDiffusionXLImg2ImgPipeline:
    """Of the tiny SDXL: its second text encoder, and a UNet that is told an aesthetic score."""
    base = xl_pipeline()
    torch.manual_seed(2)
    return StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=base.text_encoder_2,
        tokenizer=None,
        tokenizer_2=base.tokenizer_2,
        unet=_unet(
            cross_attention_dim=XL_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12 + 5 * 4,
        ),
        scheduler=base.scheduler,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def sd3_pipeline(t5: bool = True) -> StableDiffusion3Pipeline:
    """As 3.5: 16 + 8 wide text, filled up to the 32 of T5, 12 + 12 wide pooled, one block with a second attention."""
    torch.manual_seed(3)
    tokenizer = _tokenizer()
    return StableDiffusion3Pipeline(
        vae=flow_vae(),
        text_encoder=_text_encoder(tokenizer, CLIPTextModelWithProjection, layers=2, projected=12),
        text_encoder_2=_text_encoder(tokenizer, CLIPTextModelWithProjection, layers=2, width=XL_WIDTH, projected=12),
        text_encoder_3=_t5() if t5 else None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=_t5_tokenizer() if t5 else None,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux_pipeline(guidance: bool = True) -> FluxPipeline:
    """As dev, or without `guidance` as schnell: 32 wide text, 16 wide pooled."""
    torch.manual_seed(4)
    tokenizer = _tokenizer()
    return FluxPipeline(
        vae=flow_vae(),
        text_encoder=_text_encoder(tokenizer),
        text_encoder_2=_t5(),
        tokenizer=tokenizer,
        tokenizer_2=_t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=T5_WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if guidance else 1.0, use_dynamic_shifting=guidance),
    )


def flow_vae() -> AutoencoderKL:
    return _vae(
        latent_channels=16,
        scaling_factor=0.36,
        shift_factor=0.11,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _t5() -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=32,
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
        )
    )


def _t5_tokenizer() -> T5TokenizerFast:
    """A token a word of the captions above, as sentencepiece's unigrams."""
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{word}", -2.0) for word in words)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0)

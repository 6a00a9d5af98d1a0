"""Random flow models of a few thousand weights, of the families whose text encoder is a language model."""

from copy import copy
from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tiny_diffusion import flow_vae
from transformers import (
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH = 16
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


def z_image_pipeline() -> ZImagePipeline:
    torch.manual_seed(5)
    return ZImagePipeline(
        vae=flow_vae(),
        text_encoder=_qwen3(2),
        tokenizer=_tokenizer(),
        transformer=_filled(
            ZImageTransformer2DModel(
                dim=32,
                n_layers=1,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=WIDTH,
                axes_dims=[4, 6, 6],
                axes_lens=[1024, 64, 64],
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux2_klein_pipeline(distilled: bool = False) -> Flux2KleinPipeline:
    """Three of the language model's 28 layers are read."""
    torch.manual_seed(6)
    return Flux2KleinPipeline(**_flux2_parts(), text_encoder=_qwen3(28), tokenizer=_tokenizer(), is_distilled=distilled)


def flux2_pipeline() -> Flux2Pipeline:
    """Three of the language model's 30 layers are read. Published, the tokenizer lies in a processor of Pixtral."""
    torch.manual_seed(9)
    text = Mistral3Config(
        text_config={"model_type": "mistral", **_language_model(30)},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 32,
        },
    )
    tokenizer = copy(_tokenizer())
    tokenizer.chat_template = CHAT.replace("m.content", "m.content[0].text").replace(
        "{% for m in messages %}", "{% for m in messages if m.role == 'user' %}"
    )
    parts = _flux2_parts(guidance_embeds=True)
    return Flux2Pipeline(**parts, text_encoder=Mistral3ForConditionalGeneration(text), tokenizer=tokenizer)


def _flux2_parts(guidance_embeds: bool = False) -> dict[str, Any]:
    """The VAE's batch normalisation has seen some latents."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"vae": vae, "transformer": transformer, "scheduler": scheduler}


def qwen_image_pipeline() -> QwenImagePipeline:
    torch.manual_seed(7)
    sections = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {**_language_model(2), "rope_parameters": sections}
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    return QwenImagePipeline(
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[-0.5, 0.1, 0.3, 0.0],
            latents_std=[2.0, 1.5, 1.0, 0.5],
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        tokenizer=_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, use_dynamic_shifting=True, shift_terminal=0.02
        ),
    )


def sana_pipeline() -> SanaPipeline:
    """Its pipeline takes multiples of 32 pixels alone, whatever its autoencoder's scale."""
    torch.manual_seed(8)
    layers = {"encoder_layers_per_block": (1,) * 2, "decoder_layers_per_block": (1,) * 2}
    blocks = {f"{side}_block_types": ("ResBlock", "ResBlock") for side in ("encoder", "decoder")}
    widths = {f"{side}_block_out_channels": (8, 8) for side in ("encoder", "decoder")}
    scales = {f"{side}_qkv_multiscales": ((), ()) for side in ("encoder", "decoder")}
    return SanaPipeline(
        tokenizer=_tokenizer(),
        text_encoder=Gemma2Model(Gemma2Config(**_language_model(1), query_pre_attn_scalar=8)),
        vae=AutoencoderDC(latent_channels=4, scaling_factor=0.4, **layers, **blocks, **widths, **scales),
        transformer=_filled(
            SanaTransformer2DModel(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=2,
                num_cross_attention_heads=2,
                cross_attention_head_dim=8,
                cross_attention_dim=16,
                caption_channels=WIDTH,
                sample_size=16,
            )
        ),
        scheduler=DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
    )


@cache
def _tokenizer() -> Qwen2Tokenizer:
    """A token a byte."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: number for number, token in enumerate([*specials, *bytes_to_unicode().values()])}
    made = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=specials[1:], model_max_length=4096)
    made.chat_template = CHAT
    return made


def _language_model(layers: int) -> dict[str, Any]:
    return {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "max_position_embeddings": 4096,
    }


def _qwen3(layers: int) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**_language_model(layers)))


def _filled(network: Any) -> Any:
    """Fill what is made of zeros with random numbers, as training would have."""
    for parameter in network.parameters():
        if not parameter.any():
            parameter.data.normal_(std=0.02)
    return network

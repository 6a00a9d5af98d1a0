"""Tiny models of every architecture that the scorers take, with random weights, saved as the big ones are."""

import base64
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_language import FakeServer
from PIL import Image
from published import as_imagereward, as_open_clip
from safetensors.torch import save_file
from tiny_vlm import save_hpsv3, save_vlm
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    Siglip2Processor,
    Siglip2TextConfig,
    Siglip2Tokenizer,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
    SiglipTextConfig,
    SiglipVisionConfig,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from agfsync.records import Question, digest
from agfsync.scorers import Item
from agfsync.scorers.heads import Head

WORDS = (
    *("<pad>", "</s>", "<s>", "<unk>", "yes", "no", "is", "are", "there", "a", "the", "red", "blue", "green"),
    *("circle", "star", "square", "of", "left", "two", "?"),
)
SIDE = 32
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOKENS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
VISION = TOWER | {"image_size": SIDE, "patch_size": 8}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, each as it is published: some whole folders, some safetensors files for the weights alone."""
    root = tmp_path_factory.mktemp("models")
    _blip2(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)).save(root / "t5")
    _blip2(
        OPTConfig(vocab_size=32, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0)
    ).save(root / "opt")
    _blip().save(root / "blip")
    save_vlm(root / "vlm", "idefics3")
    save_hpsv3(root / "qwen2", root / "HPSv3.safetensors")
    _clip().save(root / "clip")
    _siglip().save(root / "siglip")
    _siglip2().save(root / "siglip2")
    torch.manual_seed(3)
    Head(embedding_dim=8, hidden=(16, 8), activation="relu").save(root / "aesthetic")
    save_file(as_open_clip(_clip(seed=4).model.state_dict()), root / "hps.safetensors")
    _reward_model(root / "matcher", root / "reward.safetensors")
    return root


@pytest.fixture(scope="session")
def onlooker() -> Iterator[FakeServer]:
    """A server whose model answers by the image and the question, and tells how sure it is."""
    with FakeServer(answer=lambda body: (200, sure(*asked(body)))) as server:
        yield server


def asked(body: Mapping[str, Any]) -> tuple[bytes, str]:
    """The image's file and the question in a request."""
    image, question = body["messages"][-1]["content"]
    return base64.b64decode(image["image_url"]["url"].partition("base64,")[2]), question["text"]


def sure(image: bytes, question: str) -> dict[str, Any]:
    """A completion with the log-probabilities of yes and no, which follow from what was asked."""
    p = (int(digest(image.hex(), question)[:4], 16) + 1) / 65538
    spellings = {" yes": p / 2, "Yes": p, "no": 1 - p, "Nothing": 0.9, "!": 0.9}
    said = "Yes" if p > 0.5 else "no"
    return completion(said, {said: spellings.pop(said)} | spellings)


def completion(text: str, first: Mapping[str, float]) -> dict[str, Any]:
    """A completion's body, with the probabilities of its first token's spellings."""
    spellings = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in first.items()]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": [spellings[0] | {"top_logprobs": spellings}]},
    }
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "fake", "choices": [choice]}


@pytest.fixture
def items() -> list[Item]:
    """Nine images of a tinted noise with 1 to 9 questions each, of varied length."""
    return [_item(n) for n in range(9)]


def _item(n: int) -> Item:
    generator = torch.Generator().manual_seed(n)
    tint = 255 * torch.rand(3, generator=generator)
    pixels = (tint + 40 * torch.randn(SIDE, SIDE, 3, generator=generator)).clamp(0, 255).to(torch.uint8)
    texts = [f"is there a {WORDS[4 + (n + k) % 16]} {'left of the star ' * (k % 3)}?" for k in range(n + 1)]
    questions = tuple(
        Question(f"{n}.{k}", f"{n}", text, "yes" if (n + k) % 2 else "no", "star", "object")
        for k, text in enumerate(texts)
    )
    return Item(f"a {WORDS[4 + n]} star left of the circle", questions, Image.fromarray(pixels.numpy()))


class _Saved:
    """A model with random weights, its processor beside it."""

    def __init__(self, model: nn.Module, processor: object, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            # Biases and norms start as constants; a class embedding is one row of noise.
            if weight.dim() > 1 or name.endswith("class_embedding"):
                nn.init.normal_(weight, std=0.3, generator=generator)
        self.model, self.processor = model, processor

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _tokenizer(template: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("</s>", 1), ("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def _blip2(text: PretrainedConfig) -> _Saved:
    decodes_only = not text.is_encoder_decoder
    tokenizer = _tokenizer("<s> $A" if decodes_only else "$A </s>")
    if not decodes_only:
        text.decoder_start_token_id = 0
    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=Blip2QFormerConfig(**TOWER, encoder_hidden_size=16, vocab_size=32).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=len(WORDS),
    )
    return _Saved(Blip2ForConditionalGeneration(config), Blip2Processor(images, tokenizer, num_query_tokens=4))


def _blip() -> _Saved:
    text = BlipTextConfig(
        **TOWER, vocab_size=32, encoder_hidden_size=16, bos_token_id=2, sep_token_id=1, eos_token_id=1, pad_token_id=0
    )
    config = BlipConfig(text_config=text.to_dict(), vision_config=BlipVisionConfig(**VISION).to_dict())
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), _tokenizer("<s> $A </s>"))
    return _Saved(BlipForQuestionAnswering(config), processor)


def _reward_model(folder: Path, weights: Path) -> None:
    """A BLIP for matching in `folder`, of larger images than the one whose weights go with a head to `weights`."""
    matcher = _matcher(SIDE)
    head = Head(embedding_dim=16, hidden=(8, 4)).state_dict()
    for weight in head.values():
        nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(7))
    save_file(as_imagereward(matcher.model.state_dict(), head), weights)
    _matcher(2 * SIDE).save(folder)


def _matcher(side: int) -> _Saved:
    text = BlipTextConfig(**TOWER, vocab_size=32, sep_token_id=1, **TOKENS)
    # Of another width than the text encoder, as the large one's is.
    vision = BlipVisionConfig(**VISION | {"image_size": side, "hidden_size": 24})
    processor = BlipProcessor(BlipImageProcessorPil(size={"height": side, "width": side}), _tokenizer("<s> $A </s>"))
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    return _Saved(BlipForImageTextRetrieval(config), processor, seed=5)


def _siglip() -> _Saved:
    text = SiglipTextConfig(**TOWER, vocab_size=32, max_position_embeddings=12, projection_size=16, **TOKENS)
    config = SiglipConfig(text_config=text.to_dict(), vision_config=SiglipVisionConfig(**VISION).to_dict())
    images = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _Saved(SiglipModel(config), SiglipProcessor(images, _tokenizer("$A </s>")))


def _siglip2() -> _Saved:
    text = Siglip2TextConfig(**TOWER, vocab_size=32, max_position_embeddings=12, projection_size=16, **TOKENS)
    vision = Siglip2VisionConfig(**TOWER, num_patches=16, patch_size=8)
    config = Siglip2Config(text_config=text.to_dict(), vision_config=vision.to_dict())
    images = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    return _Saved(Siglip2Model(config), Siglip2Processor(images, _letters()))


def _letters() -> Siglip2Tokenizer:
    """SigLIP 2's tokenizer without merges: a token a letter."""
    specials = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    vocabulary = {word: n for n, word in enumerate((*specials, "▁", *"abcdefghijklmnopqrstuvwxyz"))}
    tokenizer = Siglip2Tokenizer(vocab=vocabulary, merges=[], padding_side="right")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def _clip(seed: int = 1) -> _Saved:
    text = CLIPTextConfig(
        **TOWER, vocab_size=32, max_position_embeddings=12, bos_token_id=2, eos_token_id=1, pad_token_id=0
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=CLIPVisionConfig(**VISION).to_dict(), projection_dim=8
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _Saved(CLIPModel(config), CLIPProcessor(images, _tokenizer("<s> $A </s>")), seed)

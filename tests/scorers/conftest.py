"""Tiny models of every architecture that the scorers take, with random weights, saved as the big ones are."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipConfig,
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
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from agfsync.records import Question
from agfsync.scorers import Item
from agfsync.scorers.aesthetic import AestheticHead

WORDS = (
    *("<pad>", "</s>", "<s>", "<unk>", "yes", "no", "is", "are", "there", "a", "the", "red", "blue", "green"),
    *("circle", "star", "square", "of", "left", "two", "?"),
)
SIDE = 32
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = TOWER | {"image_size": SIDE, "patch_size": 8}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models t5, opt, blip, clip and aesthetic in it."""
    root = tmp_path_factory.mktemp("models")
    _blip2(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)).save(root / "t5")
    _blip2(
        OPTConfig(vocab_size=32, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0)
    ).save(root / "opt")
    _blip().save(root / "blip")
    _clip().save(root / "clip")
    torch.manual_seed(3)
    AestheticHead(embedding_dim=8, hidden=(16, 8), activation="relu").save(root / "aesthetic")
    return root


@pytest.fixture
def items() -> list[Item]:
    """Nine pictures of a tinted noise with 1 to 9 questions each, of varied length."""
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

    def __init__(self, model: nn.Module, processor: object) -> None:
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            if weight.dim() > 1:
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


def _clip() -> _Saved:
    text = CLIPTextConfig(
        **TOWER, vocab_size=32, max_position_embeddings=12, bos_token_id=2, eos_token_id=1, pad_token_id=0
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=CLIPVisionConfig(**VISION).to_dict(), projection_dim=8
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return _Saved(CLIPModel(config), CLIPProcessor(images, _tokenizer("<s> $A </s>")))

"""What scoring takes of a judge: memory, and time for each batch of pictures.

Legend: B pictures, T tokens, Q questions at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from agfsync import catalog
from agfsync.commands.doctor.networks import CONFIG, Source, UnknownModel, made, size, typed
from agfsync.commands.doctor.tally import Work, imagined, tally
from agfsync.models.dtypes import DTYPES
from agfsync.recipe import ScorerSettings
from agfsync.scorers.imagereward import TOKENS as IMAGEREWARD_TOKENS
from agfsync.scorers.vqa import QUESTIONS_AT_ONCE, fill_template

QUESTION_TOKENS, CHARACTERS = 17, 4
"""of a question: the paper's have 8 words, and two tokens a word are many; and a token of what it is put in"""

Judged = tuple[Work, float]
"""What is to be done for a batch of pictures, and how often."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of pictures, how many different prompts they are of, and how many questions a picture has."""

    pictures: int
    prompts: float
    questions: float


@dataclass(frozen=True, slots=True)
class Judging:
    """Of one batch: its `works`, and the memory in bytes with the model's weights."""

    works: tuple[Judged, ...]
    memory: float


@cache
def judging(settings: ScorerSettings, batch: Batch) -> Judging:
    """A batch of pictures before one judge.

    Raises:
        UnknownModel: the judge is of no known type, or its model isn't known.
    """
    if settings.type not in NETWORKS:
        raise UnknownModel(f"what a {settings.type} scorer takes isn't known")
    source = Source(catalog.model_path(settings.path), settings.revision)
    config = source.settings(CONFIG)
    with imagined(), torch.no_grad():
        network, works = NETWORKS[settings.type](config, batch, DTYPES[settings.dtype])
    return Judging(tuple(works), size(network) + max(work.memory for work, _ in works))


def _two_towers(config: Mapping[str, Any], batch: Batch, dtype: torch.dtype) -> tuple[nn.Module, list[Judged]]:
    """CLIP and SigLIP: each picture and each different prompt once."""
    from agfsync.scorers.backbone import FAMILIES

    kind = FAMILIES.get(config.get("model_type", "clip"))
    if kind is None:
        raise UnknownModel(f"a {config['model_type']} model isn't known")
    model: Any = typed(made(kind, config), dtype)
    text = model.config.text_config
    pixels, tokens = _pixels(model.config.vision_config, batch, dtype), _tokens(1, text.max_position_embeddings)
    images = tally(lambda: model.vision_model(pixels))
    return model, [(images, 1.0), (tally(lambda: model.text_model(tokens)), batch.prompts)]


def _vqa(config: Mapping[str, Any], batch: Batch, dtype: torch.dtype) -> tuple[nn.Module, list[Judged]]:
    """BLIP-2, or BLIP: a picture's features once, then an encoding and a first token for each question."""
    from transformers import Blip2ForConditionalGeneration, BlipForQuestionAnswering

    from agfsync.scorers.vqa import _Blip, _Blip2

    kinds = {"blip-2": (Blip2ForConditionalGeneration, _Blip2), "blip": (BlipForQuestionAnswering, _Blip)}
    if config.get("model_type") not in kinds:
        raise UnknownModel(f"a {config.get('model_type')} model isn't known")
    kind, reader_of = kinds[config["model_type"]]
    model: Any = typed(made(kind, config), dtype)
    reader: Any = reader_of(model)
    pixels = _pixels(model.config.vision_config, batch, dtype)
    questions = max(1, min(QUESTIONS_AT_ONCE, round(batch.pictures * batch.questions)))
    features = reader.encode(pixels[:1])
    many = features.expand(questions, *features.shape[1:])
    asked = _tokens(questions, QUESTION_TOKENS + len(fill_template(reader.template, "")) // CHARACTERS)
    ask = tally(lambda: reader.first_logits(many, asked, torch.ones_like(asked)))
    return model, [
        (tally(lambda: reader.encode(pixels)), 1.0),
        (ask, batch.pictures * batch.questions / questions),
    ]


def _imagereward(config: Mapping[str, Any], batch: Batch, dtype: torch.dtype) -> tuple[nn.Module, list[Judged]]:
    """BLIP's vision tower, and its text encoder, which looks at what that makes of the picture."""
    from transformers import BlipConfig, BlipTextModel, BlipVisionModel

    both: Any = BlipConfig.from_dict(dict(config))
    vision: Any = typed(made(BlipVisionModel, both.vision_config.to_dict()), dtype)
    text: Any = typed(made(BlipTextModel, both.text_config.to_dict()), dtype)
    pixels = _pixels(both.vision_config, batch, dtype)
    features = vision(pixels).last_hidden_state
    tokens = _tokens(batch.pictures, IMAGEREWARD_TOKENS)
    read: Callable[[], Any] = lambda: text(input_ids=tokens, encoder_hidden_states=features)  # noqa: E731
    return nn.ModuleList([vision, text]), [(tally(lambda: vision(pixels)), 1.0), (tally(read), 1.0)]


def _pixels(vision: Any, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(batch.pictures, 3, vision.image_size, vision.image_size, dtype=dtype)


def _tokens(rows: int, length: int) -> torch.Tensor:
    return torch.zeros(rows, length, dtype=torch.int64)


CLIP_FAMILY = ("clip", "aesthetic", "pickscore", "hpsv2", "hpsv2.1")
"""Types that share a model and what it sees, where their settings say the same."""
NETWORKS: Mapping[str, Callable[..., tuple[nn.Module, list[Judged]]]] = {
    **dict.fromkeys(CLIP_FAMILY, _two_towers),
    "vqa": _vqa,
    "imagereward": _imagereward,
}
"""Types of the catalog whose networks are known."""

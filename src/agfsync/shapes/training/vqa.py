"""The VQA model: a small BLIP-2 that answers the Shapes world's yes/no questions.

It learns to see before it learns to answer: its sixteen query tokens are taught to say what stands in each of the
sixteen cells of the picture. Without that the Q-Former, which doesn't see the question, takes hours to find out what
is worth passing on. The heads that teach it so are thrown away afterwards.

It answers on clean drawings, and on drawings with a generator's flaws: a judge of clean drawings alone says yes to what
a generator left out or spoilt.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    PreTrainedTokenizerFast,
    T5Config,
)

from agfsync.models.latents import to_tensor
from agfsync.records import ElementType
from agfsync.shapes.drawing import draw
from agfsync.shapes.queries import Kind, Query
from agfsync.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    LOCATIONS,
    MATERIALS,
    MAX_THINGS,
    RELATIONS,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    Thing,
    scatter,
)
from agfsync.shapes.training.flaws import Flawed, flawed_drawing, smear, smeared
from agfsync.shapes.training.loop import Plan, Tell, autocast, device, train
from agfsync.shapes.training.pictures import any_captioned_scene, any_scene
from agfsync.shapes.training.tokenizers import word_tokenizer

SEEING = Plan("vqa-seeing", steps=1800, batch=64, learning_rate=1.5e-3)
PLAN = Plan("vqa", steps=3000, batch=40, learning_rate=1e-3)
QUESTIONS_AN_IMAGE = 10
POOL = 8000
"""Flawed drawings that are sent through the autoencoder once; each comes round several times, with other questions."""
CLEAN, SMEARED = 0.35, 0.4
"""Shares of the pictures that are clean drawings and that come from the pool; the others have flaws and no smear."""
TYPES: dict[ElementType, float] = {
    "object": 1.0,
    "color": 1.0,
    "shape": 1.0,
    "attribute": 1.0,
    "material": 1.0,
    "counting": 1.5,
    "location": 1.5,
    "spatial": 1.5,
    "other": 0.5,
}
"""How often a question of each type is asked: the harder ones more often."""
CELLS = 4
"""The picture is divided into CELLS x CELLS; a scene has at most one thing's centre in each."""
WIDTH = 128
PATCH = 8


def build(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """An untrained BLIP-2 of 2 M parameters for 64x64 pictures."""
    vision = Blip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.02,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=2,  # the Q-Former reads no text
        max_position_embeddings=2,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        cross_attention_frequency=1,
        encoder_hidden_size=WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    text = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        d_ff=2 * WIDTH,
        num_layers=4,
        num_decoder_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=CELLS * CELLS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        question_template="{question}",  # asked as they stand, where the big ones want "Question: ... Short answer:"
    )
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        # the class starts all query tokens alike, and alike they'd stay; a query starts where its cell is
        model.query_tokens.copy_(_places(CELLS)[None])
        model.vision_model.embeddings.position_embedding[:, 1:].copy_(_places(SIDE // PATCH)[None])
    return model


def _places(side: int) -> Tensor:
    """Sines and cosines of where each cell of a `side` x `side` grid lies, (side^2, WIDTH), the same for every grid."""
    at = (torch.arange(side) + 0.5) / side
    waves = torch.outer(at, torch.pi * 2.0 ** torch.linspace(0, 3, WIDTH // 4))
    line = torch.cat([waves.sin(), waves.cos()], dim=1)
    return 0.5 * torch.cat([line.repeat_interleave(side, dim=0), line.repeat(side, 1)], dim=1)


def processor(tokenizer: PreTrainedTokenizerFast) -> Blip2Processor:
    """What turns a picture and a question into the model's input."""
    images = BlipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return Blip2Processor(images, tokenizer, num_query_tokens=CELLS * CELLS)


def teach(
    vae: AutoencoderKL, folder: Path, tell: Tell, plan: Plan = PLAN, seeing: Plan = SEEING
) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    """Train a BLIP-2 on drawings, then on questions of which half are answered no."""
    torch.manual_seed(plan.seed)
    tokenizer = word_tokenizer()
    pupil = _Pupil(build(tokenizer)).to(device())
    pupil.model.language_model.requires_grad_(False)
    pupil.model.language_projection.requires_grad_(False)
    train(seeing, pupil, lambda rng: _seeing_loss(pupil, _pictures(rng, seeing.batch)), folder, tell)
    pupil.requires_grad_(True)
    after = lambda step, figures: tell(seeing.steps + step, figures)  # noqa: E731
    pool = cache(partial(flawed_pool, vae))  # made at the first step that needs it
    train(plan, pupil, lambda rng: _loss(pupil, tokenizer, _batch(rng, plan.batch, pool)), folder, after)
    return pupil.model, processor(tokenizer)


def flawed_pool(vae: AutoencoderKL) -> list[Flawed]:
    """Make `POOL` flawed drawings that have been through the autoencoder, in chunks that depend on nothing else."""
    return [drawing for chunk in range(-(-POOL // 50)) for drawing in flawed_chunk(vae, chunk)]


def flawed_chunk(vae: AutoencoderKL, chunk: int) -> list[Flawed]:
    """Make 50 of the pool's pictures."""
    rng = random.Random(f"vqa/pool/{chunk}")
    return smeared(vae, [flawed_drawing(rng) for _ in range(50)], rng)


class _Pupil(nn.Module):
    """BLIP-2 with the heads that read each cell from its query token."""

    CHOICES = (len(SHAPES) + 1, len(COLORS), len(SIZES), len(MATERIALS))

    def __init__(self, model: Blip2ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.cells = nn.ModuleList(nn.Linear(WIDTH, size) for size in self.CHOICES)
        self.offset = nn.Linear(WIDTH, 2)
        self.background = nn.Linear(WIDTH, len(BACKGROUNDS))

    def look(self, images_BCHW: Tensor) -> Tensor:
        """The query tokens' outputs (B, cells, width)."""
        seen = self.model.vision_model(pixel_values=images_BCHW).last_hidden_state
        queries = self.model.query_tokens.expand(len(images_BCHW), -1, -1)
        looked: Tensor = self.model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        return looked

    def answer(self, looked_BQD: Tensor, words_NT: Tensor, image_of_N: Tensor) -> Tensor:
        """The logits of the first word of each answer (N, vocabulary)."""
        language = self.model.language_model
        prefix = self.model.language_projection(looked_BQD)[image_of_N]
        inputs = torch.cat([prefix, language.get_input_embeddings()(words_NT)], dim=1)
        told = (words_NT != language.config.pad_token_id).long()
        mask = torch.cat([words_NT.new_ones(prefix.shape[:2]), told], dim=1)
        start = words_NT.new_full((len(words_NT), 1), language.config.decoder_start_token_id)
        logits: Tensor = language(inputs_embeds=inputs, attention_mask=mask, decoder_input_ids=start).logits[:, 0]
        return logits


UNSURE = -1


@dataclass(frozen=True, slots=True)
class _Pictures:
    images_BCHW: Tensor
    cells_BQ4: Tensor
    """what each cell holds: shape (0: nothing), colour, size, material; UNSURE where it may be one thing or another"""
    offsets_BQ2: Tensor
    """where in its cell the thing's centre lies, -1..1"""
    background_B: Tensor


@dataclass(frozen=True, slots=True)
class _Batch:
    pictures: _Pictures
    asked: list[str]
    answers: list[bool]
    image_of_N: Tensor


def ask(readings: Sequence[Scene], drawn: Sequence[Thing], count: int, rng: random.Random) -> list[tuple[Query, bool]]:
    """Ask about `count` questions that all `readings` of a picture answer alike; half of the answers are no.

    They are on the things `drawn`, on mixtures of two, and on others. A no is as hard as a yes: the relation or the
    place is another one, the number is off, the colour is another thing's. Fewer come back where a picture shows so
    little that there is hardly anything to say yes to.
    """
    picked: list[tuple[Query, bool]] = []
    for wanted in (True, False):
        for element_type in rng.choices(list(TYPES), list(TYPES.values()), k=count // 2):
            query = _sure(element_type, wanted, readings, drawn, rng)
            if query is None:
                query = _sure(rng.choice(list(TYPES)), wanted, readings, drawn, rng)
            if query is not None:
                picked.append((query, wanted))
    rng.shuffle(picked)
    return picked


def _sure(
    element_type: ElementType, wanted: bool, readings: Sequence[Scene], drawn: Sequence[Thing], rng: random.Random
) -> Query | None:
    """Find a question that every reading clearly answers as `wanted`, or None if none turns up."""
    for _ in range(_TRIES):
        query = _proposal(element_type, drawn, rng)
        if all(query.answer(scene) is wanted and query.clear(scene, _BORDER) for scene in readings):
            return query
    return None


_TRIES = 16
_BORDER = 1.0
"""Pixels by which places may move without changing an answer: a generator's things don't stand exactly in place."""


def _proposal(element_type: ElementType, drawn: Sequence[Thing], rng: random.Random) -> Query:
    kind = _kind(drawn, rng)
    match element_type:
        case "object":
            return Query("object", Kind(kind.shape))
        case "attribute":
            return Query("attribute", replace(kind, size=rng.choice(SIZES)))
        case "material":
            return Query("material", replace(kind, material=rng.choice(MATERIALS)))
        case "counting":
            return Query("counting", kind, count=rng.randint(1, MAX_THINGS))
        case "location":
            return Query("location", kind, location=rng.choice(LOCATIONS))
        case "spatial":
            return Query("spatial", kind, relation=rng.choice(RELATIONS), other=_kind(drawn, rng))
        case "other":
            return Query("other", background=rng.choice(BACKGROUNDS))
        case _:
            return Query(element_type, kind)


def _kind(drawn: Sequence[Thing], rng: random.Random) -> Kind:
    """Name one of the things by shape and colour, or one's shape with another's colour, or anything."""
    one, other = (rng.choice(drawn), rng.choice(drawn)) if drawn else (None, None)
    luck = rng.random()
    if one is None or other is None or luck > 0.9:
        return Kind(rng.choice(SHAPES), rng.choice(COLORS))
    if luck < 0.6:
        return Kind(one.shape, one.color)
    if luck < 0.7:
        return Kind(one.shape, other.color)
    return Kind(one.shape, rng.choice(COLORS)) if luck < 0.8 else Kind(rng.choice(SHAPES), one.color)


def _batch(rng: random.Random, size: int, pool: Callable[[], list[Flawed]]) -> _Batch:
    drawings = [_example(rng, pool) for _ in range(size)]
    asked = [ask(drawing.readings, drawing.drawn, QUESTIONS_AN_IMAGE, rng) for drawing in drawings]
    return _Batch(
        _shown([drawing.image for drawing in drawings], [drawing.readings for drawing in drawings]),
        [query.text() for of_image in asked for query, _ in of_image],
        [answer for of_image in asked for _, answer in of_image],
        torch.tensor([i for i, of_image in enumerate(asked) for _ in of_image], device=device()),
    )


def _example(rng: random.Random, pool: Callable[[], list[Flawed]]) -> Flawed:
    """Draw a picture, clean or flawed, or take one of the pool, half of which are spoilt a little more."""
    luck = rng.random()
    if luck < CLEAN:
        scene = any_scene(rng) if rng.random() < 0.5 else any_captioned_scene(rng)[1]
        return Flawed(draw(scene), (scene,), scene.things)
    drawing = rng.choice(pool()) if luck < CLEAN + SMEARED else flawed_drawing(rng)
    return replace(drawing, image=smear(drawing.image, rng)) if rng.random() < 0.5 else drawing


def _pictures(rng: random.Random, size: int) -> _Pictures:
    """Scenes as captions describe them, and crowded ones, which hold more to learn."""
    scenes = [any_scene(rng) if rng.random() < 0.3 else scatter(rng.randint(5, 12), rng) for _ in range(size)]
    return _shown([draw(scene) for scene in scenes], [(scene,) for scene in scenes])


def _shown(images: Sequence[Image.Image], readings: Sequence[Sequence[Scene]]) -> _Pictures:
    """The pictures, and what each of their cells holds by all of its readings."""
    cells = torch.zeros(len(images), CELLS * CELLS, 4, dtype=torch.long)
    offsets = torch.zeros(len(images), CELLS * CELLS, 2)
    for i, scenes in enumerate(readings):
        cells[i], offsets[i] = _cells(scenes[0])
        for scene in scenes[1:]:
            cells[i][cells[i] != _cells(scene)[0]] = UNSURE
    backgrounds = torch.tensor([BACKGROUNDS.index(scenes[0].background) for scenes in readings], device=device())
    return _Pictures(to_tensor(images).to(device()), cells.to(device()), offsets.to(device()), backgrounds)


def _cells(scene: Scene) -> tuple[Tensor, Tensor]:
    """What each cell of a scene holds (Q, 4), and where in it the thing's centre lies (Q, 2)."""
    cells = torch.zeros(CELLS * CELLS, 4, dtype=torch.long)
    offsets = torch.zeros(CELLS * CELLS, 2)
    step = SIDE / CELLS
    for thing in scene.things:
        cell = int(thing.y // step) * CELLS + int(thing.x // step)
        cells[cell] = torch.tensor(_labels(thing))
        offsets[cell] = torch.tensor([thing.x % step, thing.y % step]) / step * 2 - 1
    return cells, offsets


def _labels(thing: Thing) -> list[int]:
    return [
        1 + SHAPES.index(thing.shape),
        COLORS.index(thing.color),
        SIZES.index(thing.size),
        MATERIALS.index(thing.material),
    ]


def _seeing_loss(pupil: _Pupil, pictures: _Pictures) -> tuple[Tensor, dict[str, float]]:
    with autocast():
        looked = pupil.look(pictures.images_BCHW)
    return _told(pupil, looked, pictures)


def _cross_entropy(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    """Return the mean over the targets that are sure; 0 where there are none, of which torch makes no number."""
    total = F.cross_entropy(logits_NK, targets_N, ignore_index=UNSURE, reduction="sum")
    return total / (targets_N != UNSURE).sum().clamp(min=1)


def _told(pupil: _Pupil, looked_BQD: Tensor, pictures: _Pictures) -> tuple[Tensor, dict[str, float]]:
    """How wrong the query tokens are about their cells: empty or not, and what each thing is and where."""
    with autocast():
        shape, *others = (head(looked_BQD).float() for head in pupil.cells)
        offsets = pupil.offset(looked_BQD).float()
        background = pupil.background(looked_BQD.mean(dim=1)).float()
    shapes_BQ = pictures.cells_BQ4[..., 0]
    full = shapes_BQ > 0
    loss = _cross_entropy(shape.flatten(0, 1), shapes_BQ.flatten()) + _cross_entropy(shape[full], shapes_BQ[full])
    for k, head in enumerate(others, start=1):
        loss = loss + _cross_entropy(head[full], pictures.cells_BQ4[..., k][full])
    if full.any():
        loss = loss + F.mse_loss(offsets[full], pictures.offsets_BQ2[full])
    loss = loss + F.cross_entropy(background, pictures.background_B)
    right = (shape[full].argmax(dim=-1) == shapes_BQ[full]).float().mean()
    return loss, {"cells": loss.item(), "shapes": right.item()}


def _loss(pupil: _Pupil, tokenizer: PreTrainedTokenizerFast, batch: _Batch) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of each answer's first word, which is yes or no, and of the cells."""
    words = tokenizer(batch.asked, padding=True, return_tensors="pt")["input_ids"].to(device())
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    with autocast():
        looked = pupil.look(batch.pictures.images_BCHW)
        logits = pupil.answer(looked, words, batch.image_of_N).float()
    told, figures = _told(pupil, looked, batch.pictures)
    expected = torch.tensor([yes if answer else no for answer in batch.answers], device=device())
    answers = _cross_entropy(logits, expected)
    accuracy = ((logits[:, yes] > logits[:, no]) == (expected == yes)).float().mean()
    return answers + 0.2 * told, figures | {"answers": answers.item(), "accuracy": accuracy.item()}

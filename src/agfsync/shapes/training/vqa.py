"""The VQA model: a small BLIP-2 that answers the Shapes world's yes/no questions.

It learns to see before it learns to answer: each of its sixteen query tokens learns to describe one of the sixteen
cells of the image. Without this the Q-Former, which doesn't see the question, takes hours to learn which features to
pass on. The heads for this task are discarded afterwards.

It is trained on clean drawings and on drawings with a generator's flaws: a judge trained on clean drawings alone says
yes to things that a generator left out or spoilt.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

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
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.scene import BACKGROUNDS, COLORS, MATERIALS, SHAPES, SIDE, SIZES, Scene, scatter_things
from agfsync.shapes.training.asking import ask_questions
from agfsync.shapes.training.flaws import FlawedDrawing, draw_flawed, smear_by_vae, smear_mildly
from agfsync.shapes.training.images import sample_captioned_scene, sample_scene
from agfsync.shapes.training.lessons import Lesson, Pupil, WholeBatch, plan_lesson, training_device
from agfsync.shapes.training.tokenizers import build_word_tokenizer
from agfsync.shapes.training.vae import load_vae
from agfsync.training.objective import Actor, Metrics
from agfsync.training.precision import autocast

SEEING_PLAN = plan_lesson(steps=1800, batch=64, learning_rate=1.5e-3)
ANSWERING_PLAN = plan_lesson(steps=3000, batch=40, learning_rate=1e-3)
QUESTIONS_AN_IMAGE = 10
FLAWED_POOL = 8000
"""Number of flawed drawings that the autoencoder smears once; each is used several times, with other questions."""
CLEAN, SMEARED = 0.35, 0.4
"""Share of images that are clean drawings, and share from the pool; the others have flaws but aren't smeared."""
CELLS = 4
"""The image is divided into CELLS x CELLS cells; each contains the centre of at most one thing."""
VQA_WIDTH = 128
VQA_PATCH = 8
UNSURE = -1


def build_vqa(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """Return an untrained BLIP-2 of 2 M parameters for 64x64 images."""
    shared = {"hidden_size": VQA_WIDTH, "intermediate_size": 2 * VQA_WIDTH, "num_attention_heads": 4}
    vision = Blip2VisionConfig(
        num_hidden_layers=4, image_size=SIDE, patch_size=VQA_PATCH, initializer_range=0.02, **shared
    )
    qformer = Blip2QFormerConfig(
        vocab_size=2,  # the Q-Former reads no text
        max_position_embeddings=2,
        num_hidden_layers=2,
        cross_attention_frequency=1,
        encoder_hidden_size=VQA_WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **shared,
    )
    text = T5Config(
        vocab_size=len(tokenizer),
        d_model=VQA_WIDTH,
        d_kv=32,
        d_ff=2 * VQA_WIDTH,
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
        question_template="{question}",  # large BLIP-2 models need "Question: ... Short answer:" instead
    )
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        # The class initialises all query tokens equally, so they would stay equal; a query starts at its cell's place.
        model.query_tokens.copy_(embed_places(CELLS)[None])
        model.vision_model.embeddings.position_embedding[:, 1:].copy_(embed_places(SIDE // VQA_PATCH)[None])
    return model


def embed_places(side: int) -> Tensor:
    """Return sinusoidal position embeddings of the cells of a `side` x `side` grid, (side^2, VQA_WIDTH)."""
    at = (torch.arange(side) + 0.5) / side
    waves = torch.outer(at, torch.pi * 2.0 ** torch.linspace(0, 3, VQA_WIDTH // 4))
    line = torch.cat([waves.sin(), waves.cos()], dim=1)
    return 0.5 * torch.cat([line.repeat_interleave(side, dim=0), line.repeat(side, 1)], dim=1)


def build_vqa_processor(tokenizer: PreTrainedTokenizerFast) -> Blip2Processor:
    """Return the processor that converts an image and a question to the model's input."""
    images = BlipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return Blip2Processor(images, tokenizer, num_query_tokens=CELLS * CELLS)


def prepare_vqa(folder: Path) -> Pupil:
    """Return a BLIP-2 to train on drawings, then on questions on drawings, some smeared by the VAE in `folder`."""
    vae = load_vae(folder)
    torch.manual_seed(ANSWERING_PLAN.seed)
    tokenizer = build_word_tokenizer()
    network = VqaNetwork(build_vqa(tokenizer)).to(training_device())

    def save(target: Path) -> None:
        network.model.half().save_pretrained(target)
        build_vqa_processor(tokenizer).save_pretrained(target)

    seeing = SeeingLesson("vqa-seeing", SEEING_PLAN)
    return Pupil(network, [seeing, AnsweringLesson("vqa", ANSWERING_PLAN, vae, tokenizer)], save)


class VqaNetwork(nn.Module):
    """BLIP-2 with heads that predict each cell from its query token."""

    def __init__(self, model: Blip2ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        choices = (len(SHAPES) + 1, len(COLORS), len(SIZES), len(MATERIALS))
        self.cells = nn.ModuleList(nn.Linear(VQA_WIDTH, size) for size in choices)
        self.offset = nn.Linear(VQA_WIDTH, 2)
        self.background = nn.Linear(VQA_WIDTH, len(BACKGROUNDS))

    def look(self, images_BCHW: Tensor) -> Tensor:
        """Return the query tokens' outputs (B, cells, width)."""
        seen = self.model.vision_model(pixel_values=images_BCHW).last_hidden_state
        queries = self.model.query_tokens.expand(len(images_BCHW), -1, -1)
        looked: Tensor = self.model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        return looked

    def answer(self, looked_BQD: Tensor, words_NT: Tensor, image_of_N: Tensor) -> Tensor:
        """Return the logits of the first word of each answer (N, vocabulary)."""
        language = self.model.language_model
        prefix = self.model.language_projection(looked_BQD)[image_of_N]
        inputs = torch.cat([prefix, language.get_input_embeddings()(words_NT)], dim=1)
        is_word = (words_NT != language.config.pad_token_id).long()
        mask = torch.cat([words_NT.new_ones(prefix.shape[:2]), is_word], dim=1)
        start = words_NT.new_full((len(words_NT), 1), language.config.decoder_start_token_id)
        logits: Tensor = language(inputs_embeds=inputs, attention_mask=mask, decoder_input_ids=start).logits[:, 0]
        return logits


@dataclass(frozen=True)
class LabelledImages(WholeBatch):
    """Images (B, 3, H, W) with labels of their cells."""

    images_BCHW: Tensor
    cells_BQ4: Tensor
    """shape (0: nothing), colour, size, material; UNSURE if the readings differ"""
    offsets_BQ2: Tensor
    """position of the thing's centre in its cell, in -1..1"""
    background_B: Tensor


@dataclass(frozen=True)
class AskedImages(WholeBatch):
    """Images with the tokens of their questions (N, T), and for each the answer's first token and the image's index."""

    images: LabelledImages
    words_NT: Tensor
    answers_N: Tensor
    image_of_N: Tensor


@dataclass(frozen=True)
class SeeingLesson(Lesson):
    """The cells of ordinary scenes, and of crowded ones, which have more to learn from."""

    def choose_parameters(self, network: nn.Module) -> None:
        """Freeze the language model, which this lesson doesn't use."""
        model: Any = network.requires_grad_(True).model
        model.language_model.requires_grad_(False)
        model.language_projection.requires_grad_(False)

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[LabelledImages]:
        """Draw scenes."""
        return [draw_crowded(self.seed_step(step), self.plan.batch)]

    def loss(self, actor: Actor, batch: LabelledImages) -> tuple[Tensor, Metrics]:
        """Return the loss and the metrics of `cell_loss`."""
        network: Any = actor.network
        with autocast(actor.device, actor.precision):
            looked_BQD = network.look(batch.images_BCHW)
            loss, metrics = cell_loss(network, looked_BQD, batch)
        return loss, {"loss": loss.detach(), **metrics}


@dataclass(frozen=True)
class AnsweringLesson(Lesson):
    """The cross entropy of each answer's first word, which is yes or no, and the loss of the cells."""

    vae: AutoencoderKL
    tokenizer: PreTrainedTokenizerFast

    @cached_property
    def pool(self) -> list[FlawedDrawing]:
        """`FLAWED_POOL` drawings smeared by the autoencoder, computed at the first step that needs them."""
        drawings: list[FlawedDrawing] = []
        for chunk in range(-(-FLAWED_POOL // 50)):
            rng = random.Random(f"vqa/pool/{chunk}")
            drawings += smear_by_vae(self.vae, [draw_flawed(rng) for _ in range(50)], rng)
        return drawings

    def collect(self, actor: Actor, step: int, rows: Tensor) -> Sequence[AskedImages]:
        """Draw images and questions on each."""
        rng = self.seed_step(step)
        drawings = [draw_example(rng, lambda: self.pool) for _ in range(self.plan.batch)]
        asked = [ask_questions(each.readings, each.drawn, QUESTIONS_AN_IMAGE, rng) for each in drawings]
        pairs = [(i, query, answer) for i, of_image in enumerate(asked) for query, answer in of_image]
        words = self.tokenizer([query.to_text() for _, query, _ in pairs], padding=True, return_tensors="pt")
        yes, no = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        batch = AskedImages(
            label_images([each.image for each in drawings], [each.readings for each in drawings]),
            words["input_ids"].to(actor.device),
            torch.tensor([yes if answer else no for *_, answer in pairs], device=actor.device),
            torch.tensor([i for i, *_ in pairs], device=actor.device),
        )
        return [batch]

    def loss(self, actor: Actor, batch: AskedImages) -> tuple[Tensor, Metrics]:
        """Return the weighted sum of both losses; the metrics also have each of them and the share of right answers."""
        network: Any = actor.network
        with autocast(actor.device, actor.precision):
            looked_BQD = network.look(batch.images.images_BCHW)
            logits_NV = network.answer(looked_BQD, batch.words_NT, batch.image_of_N).float()
            cells, metrics = cell_loss(network, looked_BQD, batch.images)
        answers = _cross_entropy(logits_NV, batch.answers_N)
        loss = answers + 0.2 * cells
        yes, no = self.tokenizer.convert_tokens_to_ids(["yes", "no"])
        accuracy = ((logits_NV[:, yes] > logits_NV[:, no]) == (batch.answers_N == yes)).float().mean()
        return loss, {"loss": loss.detach(), **metrics, "answers": answers.detach(), "accuracy": accuracy}


def draw_example(rng: random.Random, pool: Callable[[], list[FlawedDrawing]]) -> FlawedDrawing:
    """Return a clean drawing, a flawed one, or one of the pool; half of the latter two may be mildly spoilt."""
    luck = rng.random()
    if luck < CLEAN:
        scene = sample_scene(rng) if rng.random() < 0.5 else sample_captioned_scene(rng)[1]
        return FlawedDrawing(draw_scene(scene), (scene,), scene.things)
    drawing = rng.choice(pool()) if luck < CLEAN + SMEARED else draw_flawed(rng)
    return replace(drawing, image=smear_mildly(drawing.image, rng)) if rng.random() < 0.5 else drawing


def draw_crowded(rng: random.Random, size: int) -> LabelledImages:
    """Draw scenes, most of them denser than any caption asks for."""
    scenes = [sample_scene(rng) if rng.random() < 0.3 else scatter_things(rng.randint(5, 12), rng) for _ in range(size)]
    return label_images([draw_scene(scene) for scene in scenes], [(scene,) for scene in scenes])


def label_images(images: Sequence[Image.Image], readings: Sequence[Sequence[Scene]]) -> LabelledImages:
    """Return the images with the labels of their cells on which all readings agree, on the training device."""
    cells = torch.zeros(len(images), CELLS * CELLS, 4, dtype=torch.long)
    offsets = torch.zeros(len(images), CELLS * CELLS, 2)
    for i, scenes in enumerate(readings):
        cells[i], offsets[i] = _label_cells(scenes[0])
        for scene in scenes[1:]:
            cells[i][cells[i] != _label_cells(scene)[0]] = UNSURE
    backgrounds = torch.tensor([BACKGROUNDS.index(scenes[0].background) for scenes in readings])
    tensors = (to_tensor(images), cells, offsets, backgrounds)
    return LabelledImages(*(tensor.to(training_device()) for tensor in tensors))


def _label_cells(scene: Scene) -> tuple[Tensor, Tensor]:
    """Return the labels of a scene's cells (Q, 4), and the position of the thing's centre in each (Q, 2)."""
    cells = torch.zeros(CELLS * CELLS, 4, dtype=torch.long)
    offsets = torch.zeros(CELLS * CELLS, 2)
    step = SIDE / CELLS
    for thing in scene.things:
        cell = int(thing.y // step) * CELLS + int(thing.x // step)
        shape, color = 1 + SHAPES.index(thing.shape), COLORS.index(thing.color)
        cells[cell] = torch.tensor([shape, color, SIZES.index(thing.size), MATERIALS.index(thing.material)])
        offsets[cell] = torch.tensor([thing.x % step, thing.y % step]) / step * 2 - 1
    return cells, offsets


def cell_loss(network: VqaNetwork, looked_BQD: Tensor, images: LabelledImages) -> tuple[Tensor, Metrics]:
    """Return the loss of the predicted cells: whether a cell is empty, each thing's attributes and position.

    It includes the loss of the predicted background. The metrics are the loss and the share of things with the right
    shape.
    """
    shape, *others = (head(looked_BQD).float() for head in network.cells)
    offsets = network.offset(looked_BQD).float()
    background = network.background(looked_BQD.mean(dim=1)).float()
    shapes_BQ = images.cells_BQ4[..., 0]
    full = shapes_BQ > 0
    loss = _cross_entropy(shape.flatten(0, 1), shapes_BQ.flatten()) + _cross_entropy(shape[full], shapes_BQ[full])
    for k, head in enumerate(others, start=1):
        loss = loss + _cross_entropy(head[full], images.cells_BQ4[..., k][full])
    if full.any():
        loss = loss + F.mse_loss(offsets[full], images.offsets_BQ2[full])
    loss = loss + F.cross_entropy(background, images.background_B)
    right = (shape[full].argmax(dim=-1) == shapes_BQ[full]).float().mean()
    return loss, {"cells": loss.detach(), "shapes": right}


def _cross_entropy(logits_NK: Tensor, targets_N: Tensor) -> Tensor:
    """Return the mean over the targets that aren't UNSURE; 0 if there are none, for which torch returns NaN."""
    total = F.cross_entropy(logits_NK, targets_N, ignore_index=UNSURE, reduction="sum")
    return total / (targets_N != UNSURE).sum().clamp(min=1)

"""The VQA model: a small BLIP-2 that answers the Shapes world's yes/no questions.

Its sixteen query tokens are taught, beside the answers, to say what stands in each of the sixteen cells of the picture: without
that help the Q-Former, which doesn't see the question, takes hours to find out what is worth passing on. The heads that
teach it so are thrown away afterwards.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
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

from agfsync.shapes.drawing import draw
from agfsync.shapes.grammar import describe, garble, questions
from agfsync.shapes.queries import Query
from agfsync.shapes.scene import BACKGROUNDS, COLORS, MATERIALS, SHAPES, SIDE, SIZES, Scene
from agfsync.shapes.training.loop import Plan, Tell, autocast, device, train
from agfsync.shapes.training.pictures import any_scene, to_tensor
from agfsync.shapes.training.tokenizers import word_tokenizer

PLAN = Plan("vqa", steps=3600, batch=40, learning_rate=1e-3, ema=0.998)
QUESTIONS_AN_IMAGE = 10
CELLS = 4
"""The picture is divided into CELLS x CELLS; a scene has at most one thing's centre in each."""
WIDTH = 128


def build(tokenizer: PreTrainedTokenizerFast) -> Blip2ForConditionalGeneration:
    """An untrained BLIP-2 of 2 M parameters for 64x64 pictures."""
    vision = Blip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
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
    nn.init.normal_(model.query_tokens, std=0.5)  # the class starts them all alike, and alike they'd stay
    return model


def processor(tokenizer: PreTrainedTokenizerFast) -> Blip2Processor:
    """What turns a picture and a question into the model's input."""
    images = BlipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return Blip2Processor(images, tokenizer, num_query_tokens=CELLS * CELLS)


def teach(folder: Path, tell: Tell, plan: Plan = PLAN) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    """Trains a BLIP-2 on drawings and on questions of which half are answered no."""
    torch.manual_seed(plan.seed)
    tokenizer = word_tokenizer()
    pupil = _Pupil(build(tokenizer)).to(device())
    train(plan, pupil, lambda rng: _loss(pupil, tokenizer, _batch(rng, plan.batch)), folder, tell)
    return pupil.model, processor(tokenizer)


class _Pupil(nn.Module):
    """BLIP-2 with the heads that read each cell from its query token."""

    SIZES = (len(SHAPES) + 1, len(COLORS), len(SIZES), len(MATERIALS))

    def __init__(self, model: Blip2ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.cells = nn.ModuleList(nn.Linear(WIDTH, size) for size in self.SIZES)
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
        mask = torch.cat([words_NT.new_ones(prefix.shape[:2]), (words_NT != language.config.pad_token_id).long()], dim=1)
        start = words_NT.new_full((len(words_NT), 1), language.config.decoder_start_token_id)
        logits: Tensor = language(inputs_embeds=inputs, attention_mask=mask, decoder_input_ids=start).logits[:, 0]
        return logits


@dataclass(frozen=True, slots=True)
class _Batch:
    images_BCHW: Tensor
    cells_BQ4: Tensor
    """what each cell holds: shape (0: nothing), colour, size, material"""
    offsets_BQ2: Tensor
    """where in its cell the thing's centre lies, -1..1"""
    background_B: Tensor
    asked: list[str]
    answers: list[bool]
    image_of_N: Tensor


def ask(scene: Scene, count: int, rng: random.Random) -> list[tuple[Query, bool]]:
    """`count` clear questions on `scene` with their answers, half of them no: true of a scene that is partly another."""
    by_answer: dict[bool, list[Query]] = {True: [], False: []}
    for rate in (0.0, 0.35, 0.35, 0.6, 0.6):
        spec = garble(describe(scene, rng), rate, rng, drop=0.25)
        for query in questions(spec):
            if query.clear(scene):
                by_answer[query.answer(scene)].append(query)
    picked = [(query, answer) for answer in (True, False) for query in _spread(by_answer[answer], count // 2, rng)]
    rng.shuffle(picked)
    return picked


def _spread(queries: list[Query], count: int, rng: random.Random) -> list[Query]:
    """`count` of the queries, rare element types as likely as common ones."""
    often = [query.element_type for query in queries]
    weights = [1 / often.count(query.element_type) for query in queries]
    return rng.choices(queries, weights, k=count) if queries else []


def _batch(rng: random.Random, size: int) -> _Batch:
    scenes = [any_scene(rng) for _ in range(size)]
    asked = [[*ask(scene, QUESTIONS_AN_IMAGE, rng)] for scene in scenes]
    cells = torch.zeros(size, CELLS * CELLS, 4, dtype=torch.long)
    offsets = torch.zeros(size, CELLS * CELLS, 2)
    step = SIDE / CELLS
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            cell = int(thing.y // step) * CELLS + int(thing.x // step)
            cells[i, cell] = torch.tensor(
                [
                    1 + SHAPES.index(thing.shape),
                    COLORS.index(thing.color),
                    SIZES.index(thing.size),
                    MATERIALS.index(thing.material),
                ]
            )
            offsets[i, cell] = torch.tensor([thing.x % step, thing.y % step]) / step * 2 - 1
    return _Batch(
        to_tensor([draw(scene) for scene in scenes]).to(device()),
        cells.to(device()),
        offsets.to(device()),
        torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes], device=device()),
        [query.text() for questions_ in asked for query, _ in questions_],
        [answer for questions_ in asked for _, answer in questions_],
        torch.tensor([i for i, questions_ in enumerate(asked) for _ in questions_], device=device()),
    )


def _loss(pupil: _Pupil, tokenizer: PreTrainedTokenizerFast, batch: _Batch) -> tuple[Tensor, dict[str, float]]:
    words = tokenizer(batch.asked, padding=True, return_tensors="pt")["input_ids"].to(device())
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    with autocast():
        looked = pupil.look(batch.images_BCHW)
        logits = pupil.answer(looked, words, batch.image_of_N).float()
        heads = [head(looked).float() for head in pupil.cells]
        offsets = pupil.offset(looked).float()
        background = pupil.background(looked.mean(dim=1)).float()
    expected = torch.tensor([yes if answer else no for answer in batch.answers], device=device())
    answers = F.cross_entropy(logits, expected)
    full = batch.cells_BQ4[..., 0] > 0
    seen = F.cross_entropy(heads[0].flatten(0, 1), batch.cells_BQ4[..., 0].flatten())
    told = sum((F.cross_entropy(h[full], batch.cells_BQ4[..., k + 1][full]) for k, h in enumerate(heads[1:])), seen)
    told = told + F.mse_loss(offsets[full], batch.offsets_BQ2[full]) + F.cross_entropy(background, batch.background_B)
    accuracy = ((logits[:, yes] > logits[:, no]) == (expected == yes)).float().mean()
    return answers + 0.3 * told, {"answers": answers.item(), "cells": told.item(), "accuracy": accuracy.item()}

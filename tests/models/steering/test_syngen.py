"""SynGen against a second implementation, and each defect of the published code (peers.md 4.1)."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_diffusion
import torch
from diffusers import HeunDiscreteScheduler, PNDMScheduler
from diffusers_pixels import replaced
from torch import Tensor, distributions

from agfsync.errors import ModelError
from agfsync.language.parsing import Syntax
from agfsync.models.steering import DrawnBatch
from agfsync.models.steering.descent import MapsDescent
from agfsync.models.steering.pieces import PromptPieces, split_prompt
from agfsync.models.steering.syngen import BoundWords, bind_pieces, bind_prompt, compute_binding_loss
from agfsync.shapes.syntax import ShapesParser


def naive_distance(one: Tensor, other: Tensor) -> Tensor:
    p, q = distributions.Categorical(probs=one.flatten() * 100), distributions.Categorical(probs=other.flatten() * 100)
    return (distributions.kl_divergence(p, q) + distributions.kl_divergence(q, p)) / 2


def naive_loss(maps: Tensor, bound: list[BoundWords]) -> Tensor:
    loss = torch.zeros(())
    for words in bound:
        for modifier, noun in words.pairs:
            away = []
            for word in filter(None, (modifier, noun)):
                distances = [max(naive_distance(maps[w], maps[u]) for w in word) for u in words.others]
                away.append(-sum(distances) / len(distances) if distances else torch.zeros(()))
            loss = loss + sum(away) / len(away)
            if modifier:
                loss = loss + max(naive_distance(maps[m], maps[n]) for m, n in itertools.product(modifier, noun))
    return loss


def random_maps(tokens: int = 12, cells: int = 16, seed: int = 0) -> Tensor:
    scores = 3 * torch.randn(tokens, cells, generator=torch.Generator().manual_seed(seed))
    return scores.softmax(0).requires_grad_()


GROUPS = [
    BoundWords((((2,), (3,)),), (1, 4, 5, 6, 7, 8)),
    BoundWords((((5, 6), (7, 8)), ((4,), (7, 8))), (1, 2, 3)),
    BoundWords((((), (9,)),), (1, 2, 3, 4)),
    BoundWords((((10,), (11,)),), ()),
]


@pytest.mark.parametrize("bound", [GROUPS, *([group] for group in GROUPS)])
def test_the_loss_is_that_of_a_naive_implementation(bound: list[BoundWords]) -> None:
    ours, naive = random_maps(), random_maps()
    losses = compute_binding_loss(ours, bound), naive_loss(naive, bound)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, maps)[0] for loss, maps in zip(losses, (ours, naive), strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


def test_a_case_by_hand() -> None:
    """Two cells; the modifier's map is (3/4, 1/4), the noun's (1/4, 3/4), the other's uniform."""
    maps = torch.tensor([[0.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]])
    near = 0.5 * np.log(3)  # (p - q) (log p - log q) / 2 twice: 2 * 1/2 * 1/2 * log 3
    away = 0.25 * np.log(3) / 2  # 1/4 * (log 3/4 - log 1/2) / 2 - 1/4 * (log 1/4 - log 1/2) / 2
    loss = compute_binding_loss(maps, [BoundWords((((1,), (2,)),), (3,))])
    assert loss.item() == pytest.approx(near - away, abs=1e-6)


def test_maps_of_zeros_give_numbers() -> None:
    maps = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    loss = compute_binding_loss(maps, [BoundWords((((0,), (1,)),), (2,))])
    assert torch.isfinite(loss) and loss > 5


def test_other_words_are_all_pieces_of_the_prompt_outside_of_the_group() -> None:
    """Function words and punctuation are among them; special tokens and padding aren't."""
    syntax = Syntax(((0, 3), (4, 7), (7, 8), (9, 12), (13, 16)), pairs=((0, 1), (3, 4)), nouns=(1, 4))
    spans = {1: (0, 3), 2: (4, 7), 3: (7, 8), 4: (9, 12), 5: (13, 16)}
    bound = bind_pieces(syntax, PromptPieces([0] * 7, spans, (1, 2, 3, 4, 5)))
    assert bound == [BoundWords((((1,), (2,)),), (3, 4, 5)), BoundWords((((4,), (5,)),), (1, 2, 3))]


def test_pairs_that_share_a_word_are_one_group_so_that_nothing_is_pulled_both_ways() -> None:
    """ "the car and the truck are red": red is bound to both, and kept away from neither."""
    syntax = Syntax(((0, 3), (4, 9), (10, 13)), pairs=((2, 0), (2, 1)))
    spans = {1: (0, 3), 2: (4, 9), 3: (10, 13)}
    (words,) = bind_pieces(syntax, PromptPieces([0] * 5, spans, (1, 2, 3)))
    assert words == BoundWords((((3,), (1,)), ((3,), (2,))), ())


def test_nouns_without_modifiers_count_only_if_asked(build: Callable[..., Any]) -> None:
    tokenizer, parser = build()._pipeline.tokenizer, ShapesParser()
    assert bind_prompt(parser, tokenizer, "a star") == []
    (alone,) = bind_prompt(parser, tokenizer, "a star", entities=True)
    assert [modifier for modifier, _ in alone.pairs] == [()]
    both = bind_prompt(parser, tokenizer, "a red star", entities=True)
    assert len(both) == 1 and both[0].pairs[0][0]


def test_a_prompt_longer_than_the_encoder_is_steered_by_the_rest(build: Callable[..., Any], draw: Any) -> None:
    """The published code fails with an index error."""
    generator = build("syngen")
    long = "a red circle and a blue star and two small green squares and a large yellow ring"
    pieces = split_prompt(generator._pipeline.tokenizer, long)
    bound = bind_prompt(ShapesParser(), generator._pipeline.tokenizer, long)
    assert len(pieces.spans) > len(pieces.kept) and bound
    assert max(p for words in bound for pair in words.pairs for word in pair for p in word) <= max(pieces.kept)
    assert (draw(generator, [long]) != draw(build(), [long])).any()


@pytest.mark.slow
def test_a_prompt_without_modifiers_is_drawn_as_by_the_base(build: Callable[..., Any], draw: Any) -> None:
    steered, base = build("syngen"), build()
    together, plain = draw(steered), draw(base)
    assert [bool((one != other).any()) for one, other in zip(together, plain, strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    for prompt in ("red", "a star", ""):
        assert (draw(steered, [prompt]) == draw(base, [prompt])).all()
    assert steered.identity != base.identity


def test_no_prompt_leaves_anything_for_the_next_one(build: Callable[..., Any], draw: Any) -> None:
    """The published pipeline keeps the first prompt's pairs for all others."""
    used, fresh = build("syngen"), build("syngen")
    draw(used, ["two small green squares"])
    assert (draw(used, ["a red circle and a blue star"]) == draw(fresh, ["a red circle and a blue star"])).all()


def test_every_image_of_a_batch_is_steered_and_as_it_is_alone(build: Callable[..., Any], draw: Any) -> None:
    """The published code keeps only the last latents of a batch."""
    generator = build("syngen")
    prompts = ["a red circle and a blue star", "two small green squares", "a red circle and a blue star"]
    together = draw(generator, prompts)
    alone = np.concatenate([draw(generator, [prompt], first=n + 1) for n, prompt in enumerate(prompts)])
    assert together.shape == alone.shape and abs(together - alone).max() <= 1


def test_one_step_moves_the_latents_down_the_loss_by_the_strength(
    build: Callable[..., Any], read_maps: Callable[..., Tensor]
) -> None:
    """Against gradients of the naive loss through a plain forward pass, with the prompt alone."""
    generator, prompt = build("syngen", strength=7.0), "a red circle and a blue star"
    conditioning = generator.encode_prompts([prompt])
    scheduler = generator._scheduler
    scheduler.set_timesteps(4)
    steered = generator._begin_steering(DrawnBatch([prompt], conditioning, {}, scheduler))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    moved = steered.before_step(1, latents)

    noisy = latents.clone().requires_grad_()
    maps = read_maps(generator.network, noisy, scheduler.timesteps[1], next(iter(conditioning.values())))[0]
    loss = naive_loss(maps, bind_prompt(ShapesParser(), generator._pipeline.tokenizer, prompt))
    (gradient,) = torch.autograd.grad(loss, noisy)
    torch.testing.assert_close(moved, latents - 7 * gradient, atol=1e-5, rtol=1e-5)
    assert (steered.before_step(2, latents) is latents) and not torch.equal(moved, latents)


def test_a_scheduler_that_scales_its_input_is_steered_in_its_own_units(build: Callable[..., Any]) -> None:
    """The move in the network's input is the same for Euler's latents as for DDIM's."""
    prompt, moves = "two small green squares", []
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for name in ("ddim", "euler"):
        generator = build("syngen", {"scheduler": name})
        scheduler = generator._scheduler
        scheduler.set_timesteps(4)
        # the same timestep for both
        scheduler.timesteps = torch.full_like(scheduler.timesteps, 601)
        if name == "euler":
            scheduler._step_index = 1
        scale = scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[1])
        batch = DrawnBatch([prompt], generator.encode_prompts([prompt]), {}, scheduler)
        latents = noisy / scale
        moves.append((generator._begin_steering(batch).before_step(1, latents) - latents) * scale)
    torch.testing.assert_close(moves[0], moves[1], atol=1e-5, rtol=1e-3)


def test_bf16_is_steered_in_float32(build: Callable[..., Any], draw: Any) -> None:
    """On a CPU the drawing runs under autocast, and the gradient doesn't."""
    prompts = ["a red circle and a blue star"]
    seen: list[torch.dtype] = []
    generator = build("syngen", {"dtype": "bf16"})
    layer = next(m for name, m in generator.network.named_modules() if name.endswith("attn2.to_q"))
    layer.register_forward_hook(lambda m, given, got: seen.append(got.dtype))
    pixels = draw(generator, prompts)
    assert seen[0] == torch.float32 and torch.bfloat16 in seen
    assert (pixels != draw(build(None, {"dtype": "bf16"}), prompts)).any()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_draws_with_and_without_guidance_and_with_embedding_noise(
    guidance: float, build: Callable[..., Any], draw: Any
) -> None:
    steered, base = (build(method, {"guidance": guidance}) for method in ("syngen", None))
    one, other = draw(steered, noise=0.1), draw(base, noise=0.1)
    assert (one[0] != other[0]).any() and (one[2:] == other[2:]).all()


def test_lack_of_memory_passes_as_it_is(build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the engine halves the batch."""
    generator = build("syngen")

    def fail(*a: object, **k: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(generator._pipeline.unet, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generator.draw(["a red star"], [1], 0.0)
    assert all(
        type(m.processor).__name__ == "AttnProcessor2_0"
        for n, m in generator.network.named_modules()
        if n.endswith("attn2")
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["euler", "dpm++", "lcm", "ddpm"])
def test_every_scheduler_of_the_recipe_is_steered(scheduler: str, build: Callable[..., Any], draw: Any) -> None:
    one, other = draw(build("syngen", {"scheduler": scheduler})), draw(build(None, {"scheduler": scheduler}))
    assert (one[0] != other[0]).any() and (one[2:] == other[2:]).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("scheduler", lambda: PNDMScheduler(skip_prk_steps=True, steps_offset=1)),  # that of 1.x, as it is published
        ("scheduler", lambda: HeunDiscreteScheduler()),
        ("unet", lambda: tiny_diffusion._unet(time_cond_proj_dim=8)),  # the guidance is an input, as LCM's
    ],
)
def test_other_models_are_steered(
    name: str, part: Callable[[], Any], tiny_generator: Path, tmp_path: Path, build: Callable[..., Any], draw: Any
) -> None:
    torch.manual_seed(0)
    replaced(tiny_generator, tmp_path / "model", name, part())
    drawing = {"path": str(tmp_path / "model"), "scheduler": "model"}
    one, other = draw(build("syngen", drawing)), draw(build(None, drawing))
    assert (one[0] != other[0]).any() and (one[2:] == other[2:]).all()


@pytest.fixture
def steer(build: Callable[..., Any]) -> Callable[[], Tensor]:
    """Take one step on the same latents."""

    def move_latents() -> Tensor:
        generator, prompt = build("syngen"), "two small green squares"
        scheduler = generator._scheduler
        scheduler.set_timesteps(4)
        batch = DrawnBatch([prompt], generator.encode_prompts([prompt]), {}, scheduler)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        moved: Tensor = generator._begin_steering(batch).before_step(0, latents)
        return moved

    return move_latents


def test_the_scale_of_an_fp16_loss_leaves_the_step_as_it_is(
    steer: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = steer()
    monkeypatch.setattr(MapsDescent, "_is_fp16", True)
    torch.testing.assert_close(steer(), plain, atol=1e-6, rtol=1e-6)


def test_a_gradient_that_is_not_finite_is_an_error(
    steer: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agfsync.models.steering.descent.FP16_SCALE", float("inf"))
    monkeypatch.setattr(MapsDescent, "_is_fp16", True)
    with pytest.raises(ModelError, match="gradient of the steering isn't finite"):
        steer()

"""Attend-and-Excite against a second implementation (peers.md 4.3)."""

from collections.abc import Callable
from math import exp, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from agfsync.models.steering import DrawnBatch
from agfsync.models.steering.attend_and_excite import ExcitedNouns, compute_neglect, fall_off, find_nouns, smooth_maps
from agfsync.shapes.syntax import ShapesParser

PROMPT = "a red circle and a blue star"


def naive_loss(maps: Tensor, nouns: tuple[tuple[int, ...], ...], compared: tuple[int, ...], side: int) -> Tensor:
    """Pixel by pixel and token by token."""
    weights = [exp(-(n**2) / (2 * 0.5**2)) for n in (-1, 0, 1)]
    shares = {}
    total = sum(torch.exp(100 * maps[other]) for other in compared)
    for token in compared:
        shares[token] = (torch.exp(100 * maps[token]) / total).view(side, side)

    def mirror(n: int) -> int:
        return -n if n < 0 else 2 * (side - 1) - n if n >= side else n

    losses = []
    for noun in nouns:
        best = torch.tensor(0.0)
        for token in noun:
            for y in range(side):
                for x in range(side):
                    smooth = (
                        sum(
                            weights[dy + 1] * weights[dx + 1] * shares[token][mirror(y + dy), mirror(x + dx)]
                            for dy in (-1, 0, 1)
                            for dx in (-1, 0, 1)
                        )
                        / sum(weights) ** 2
                    )
                    best = torch.maximum(best, smooth)
        losses.append((1 - best).clamp(min=0))
    return torch.stack(losses).max()


def random_maps(seed: int = 0) -> Tensor:
    return (torch.randn(12, 16, generator=torch.Generator().manual_seed(seed)) / 4).softmax(0).requires_grad_()


@pytest.mark.parametrize("nouns", [((3,),), ((3,), (7,)), ((3,), (5, 6), (10,))])
def test_the_loss_is_that_of_a_naive_implementation(nouns: tuple[tuple[int, ...], ...]) -> None:
    ours, naive = random_maps(), random_maps()
    excited = ExcitedNouns(nouns, tuple(range(1, 11)))
    losses = compute_neglect(ours, excited, (4, 4)), naive_loss(naive, nouns, excited.compared, 4)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, maps)[0] for loss, maps in zip(losses, (ours, naive), strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


def test_the_most_neglected_noun_counts() -> None:
    maps = torch.full((6, 16), 0.1)
    maps[1] = 0.9
    both = compute_neglect(maps, ExcitedNouns(((1,), (2,)), (1, 2, 3, 4)), (4, 4))
    alone = compute_neglect(maps, ExcitedNouns(((1,),), (1, 2, 3, 4)), (4, 4))
    assert both.item() == pytest.approx(1, abs=1e-4) and alone.item() == pytest.approx(0, abs=1e-4)


def test_smoothing_keeps_the_sum_away_from_the_border_and_even_maps() -> None:
    maps = torch.zeros(2, 25)
    maps[0, 12], maps[1] = 1.0, 0.3
    smooth = smooth_maps(maps, (5, 5))
    assert smooth[0].sum().item() == pytest.approx(1) and smooth[0, 12] > 2 * smooth[0, 11] > smooth[0, 6] > 0
    torch.testing.assert_close(smooth[1], maps[1])
    assert smooth_maps(maps[:, :2], (1, 2)).shape == (2, 2)


def test_the_strength_falls_off_by_the_root_of_a_line() -> None:
    assert [fall_off(step, 50) for step in (0, 49)] == [1, sqrt(0.5)]
    assert fall_off(10, 50) == pytest.approx(sqrt(1 - 0.5 * 10 / 49)) and fall_off(0, 1) == 1


def test_tokens_are_compared_as_published_for_each_family(build: Callable[..., Any]) -> None:
    tokenizer, parser = build()._pipeline.tokenizer, ShapesParser()
    every, own = (find_nouns(parser, tokenizer, "a star", tokens).compared for tokens in ("all", "prompt"))
    assert every == tuple(range(1, 11)) and own == every[: len(own)] and len(own) < 10
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert find_nouns(parser, tokenizer, "a star").compared == every


@pytest.fixture
def begin(build: Callable[..., Any]) -> Callable[..., Any]:
    def begin_drawing(prompts: list[str], steps: int = 4, **settings: Any) -> tuple[Any, Any, Any]:
        generator = build("attend-and-excite", **settings)
        conditioning, scheduler = generator.encode_prompts(prompts), generator._scheduler
        scheduler.set_timesteps(steps)
        drawing = generator._begin_steering(DrawnBatch(prompts, conditioning, {}, scheduler))
        return generator, conditioning, drawing

    return begin_drawing


def test_one_step_moves_the_latents_down_the_loss(begin: Callable[..., Any], read_maps: Callable[..., Tensor]) -> None:
    generator, conditioning, steered = begin([PROMPT], strength=9.0, refinements=0)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    moved, noisy = steered.before_step(1, latents), latents.clone().requires_grad_()
    time = generator._scheduler.timesteps[1]
    maps = read_maps(generator.network, noisy, time, next(iter(conditioning.values())))[0]
    excited = find_nouns(ShapesParser(), generator._pipeline.tokenizer, PROMPT)
    loss = naive_loss(maps, excited.nouns, excited.compared, 4)
    (gradient,) = torch.autograd.grad(loss, noisy)
    expected = latents - 9 * sqrt(1 - 0.5 / 3) * gradient
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)
    assert steered.before_step(2, latents) is latents


def test_refinement_repeats_until_the_attention_is_reached(
    begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that have reached it rest; at the end each takes the ordinary step."""
    _, _, steered = begin([PROMPT, PROMPT], refine=[[0, 0.5]], refinements=5, strength=1.0)
    losses, asked = {0: iter([0.9, 0.6, 0.4]), 1: iter([0.45])}, []

    def measure(self: object, step: int, latents: Tensor, rows: list[int], loss: object) -> tuple[Tensor, Tensor]:
        asked.append(list(rows))
        return torch.tensor([next(losses[row], 0.4) for row in rows]), torch.ones(len(rows), 4, 8, 8)

    monkeypatch.setattr(type(steered.descent), "measure", measure)
    moved = steered.before_step(0, torch.zeros(2, 4, 8, 8))
    assert asked == [[0, 1], [0], [0], [0, 1]]
    assert moved[:, 0, 0, 0].tolist() == [-3, -1]


def test_refinement_ends_after_its_most_repetitions(begin: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, steered = begin([PROMPT], steps=50, refinements=3)
    assert steered.refine == {0: 0.05, 10: 0.5, 20: 0.8} and steered.until == 25
    calls = []

    def measure(self: object, step: int, latents: Tensor, rows: list[int], loss: object) -> tuple[Tensor, Tensor]:
        calls.append(step)
        return torch.ones(len(rows)), torch.zeros(len(rows), 4, 8, 8)

    monkeypatch.setattr(type(steered.descent), "measure", measure)
    for step in (0, 1, 10, 30):
        steered.before_step(step, torch.zeros(1, 4, 8, 8))
    assert calls == [0] * 4 + [1] + [10] * 4


@pytest.mark.slow
def test_a_prompt_without_nouns_is_drawn_as_by_the_base(build: Callable[..., Any], draw: Any) -> None:
    steered, base = build("attend-and-excite", refinements=2), build()
    prompts = [PROMPT, "red", "a star", ""]
    together, plain = draw(steered, prompts), draw(base, prompts)
    assert [bool((one != other).any()) for one, other in zip(together, plain, strict=True)] == [
        True,
        False,
        True,
        False,
    ]
    assert (draw(steered, ["red"]) == draw(base, ["red"])).all()
    alone = [draw(steered, [prompt], first=n + 1)[0] for n, prompt in enumerate(prompts)]
    assert all(abs(one - other).max() <= 1 for one, other in zip(together, alone, strict=True))

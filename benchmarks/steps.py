"""Compare training steps and drawing with the bare networks' work of the same size, in one process, by turns.

    python benchmarks/steps.py [dpo flow draw grpo] [--rounds 15] [--threads 1] [--width 128] [--steps 10]

- dpo: a step of the training loop, against the forward pass of the policy, that of the reference, the backward pass and
  the optimizer on ready tensors. At most 1.05 is wanted.
- flow: the same of a flow model, an untrained Stable Diffusion 3 of 4.7 M weights. At most 1.05.
- draw: drawing a caption's candidates, against the calls of the text encoder, the UNet and the VAE. At most 1.05.
- grpo: a step of policy-gradient with the loss grpo, against its sampling forward passes, its decoding, its training
  forward and backward passes and the optimizer. At most 1.10.

Each line is the median over the rounds of a round's own ratio, with its quartiles, and the ratio of the fastest rounds,
in processor time and in wall-clock time; other programs on the machine affect the former less. Networks are fp32: but
for `flow` those of the embedded model, with a random UNet of another `--width` if that is given.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from agfsync import catalog
from agfsync.models.architecture import TEXT_STATES
from agfsync.models.dtypes import describe_cpu
from agfsync.models.flow_matching import POOLED_PROJECTIONS
from agfsync.models.pretrained import load_model
from agfsync.scorers import Item, Measurement
from agfsync.shapes.training.flow import NO_T5, assemble_flow
from agfsync.training import loop
from agfsync.training.batches import EncodedPairs
from agfsync.training.objective import Actor, Objective, TrainingPlan
from agfsync.training.prompts import PromptData
from agfsync.training.reference import FrozenCopy
from agfsync.training.rewards import Rewards
from agfsync.training.state import make_optimizer

PAIRS, CANDIDATES = 8, 8
PROMPTS, GROUP = 4, 2
"""of a grpo step"""
GUIDANCE = 4.0
CAPTION = "a large red circle"
Taken = tuple[float, float]
"""Seconds of processor time, and of wall-clock time."""


class Forgetful:
    """Checkpoints that keep nothing: the time to write them is not measured."""

    def restore(self, state: Any) -> int:
        return 0

    def save(self, step: int, state: Any) -> None:
        pass


class Constant:
    """A scorer that takes no time."""

    def score(self, items: Sequence[Item]) -> list[Measurement]:
        return [Measurement(float(number)) for number, _ in enumerate(items)]


def measure(work: Callable[[], Any]) -> Taken:
    begun = read_clocks()
    work()
    return since(begun)


def read_clocks() -> Taken:
    return time.process_time(), time.perf_counter()


def since(begun: Taken) -> Taken:
    processor, wall = read_clocks()
    return processor - begun[0], wall - begun[1]


def print_ratios(name: str, ours: Sequence[Taken], bare: Sequence[Taken]) -> None:
    """Print the median and quartiles of the rounds' ratios; the first round only warms up."""
    shown = []
    for kind, what in enumerate(("processor", "wall clock")):
        ratios = [one[kind] / other[kind] for one, other in zip(ours[1:], bare[1:], strict=True)]
        low, middle, high = quantiles(ratios, n=4, method="inclusive")
        fastest = min(one[kind] for one in ours[1:]) / min(one[kind] for one in bare[1:])
        shown.append(f"{what} {middle:.3f} ({low:.3f} to {high:.3f}), of the fastest rounds {fastest:.3f}")
    seconds = sorted(one[0] for one in bare[1:])[len(bare) // 2]
    print(f"{name:<5} ratio: {'; '.join(shown)}; bare {seconds:.2f} s, {len(bare) - 1} rounds", flush=True)


def train_by_turns(actor: Actor, objective: Objective, plan: TrainingPlan, bare_step: Callable[[], None]) -> Any:
    """Return the times of the loop's steps, and those of a bare step after each of them."""
    ours: list[Taken] = []
    bare: list[Taken] = []
    begun = read_clocks()

    def on_step(figures: Any) -> None:
        nonlocal begun
        ours.append(since(begun))
        bare.append(measure(bare_step))
        begun = read_clocks()

    forgetful: Any = Forgetful()
    with tempfile.TemporaryDirectory() as log:
        begun = read_clocks()
        loop.train(actor, objective, plan, forgetful, Path(log) / "metrics.jsonl", on_step)
    return ours, bare


class Bare:
    """The bare networks, copies of a model's: what a step computes, on ready tensors."""

    def __init__(self, model: Any, plan: TrainingPlan) -> None:
        self.unet, self.vae = deepcopy(model.network).requires_grad_(True), model._pipeline.vae
        parameters = {name: p for name, p in self.unet.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(plan.optimizer, parameters, plan.weight_decay)
        self.optimizer.param_groups[0]["lr"] = plan.learning_rate
        self.shape, self.scale = model.latent_shape, self.vae.config.scaling_factor
        self.text_1TD = model.encode_prompts([CAPTION])[TEXT_STATES]

    def inputs(self, rows: int) -> tuple[Tensor, ...]:
        """Return noisy latents, timesteps, text, and at the end a gradient of the prediction."""
        noisy, gradient = torch.randn(rows, *self.shape), torch.randn(rows, *self.shape) / 1e3
        return noisy, torch.randint(1000, (rows,)), self.text_1TD.repeat(rows, 1, 1), gradient

    def learn(self, inputs: tuple[Tensor, ...]) -> None:
        *given, gradient = inputs
        self.unet(*given).sample.backward(gradient)

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def decode(self, images: int) -> None:
        self.vae.decode(torch.randn(images, *self.shape) / self.scale)


class BareFlow(Bare):
    """A bare Stable Diffusion 3."""

    def __init__(self, model: Any, plan: TrainingPlan) -> None:
        super().__init__(model, plan)
        self.pooled_1E = model.encode_prompts([CAPTION])[POOLED_PROJECTIONS]

    def inputs(self, rows: int) -> tuple[Tensor, ...]:
        noisy, _, text, gradient = super().inputs(rows)
        return noisy, text, self.pooled_1E.repeat(rows, 1), 1000 * torch.rand(rows), gradient


def compare_flow(model: Any, rounds: int) -> None:
    compare_dpo(model, rounds, "flow", BareFlow)


def compare_dpo(model: Any, rounds: int, name: str = "dpo", kind: type[Bare] = Bare) -> None:
    plan = TrainingPlan(rounds + 1, PAIRS, 1e-5, 0, precision="fp32")
    bare, reference = kind(model, plan), FrozenCopy(model.network, "fp32")
    inputs = bare.inputs(2 * PAIRS)

    def step() -> None:
        with reference() as frozen:
            frozen(*inputs[:-1])
        bare.learn(inputs)
        bare.update()

    rows = torch.arange(PAIRS)
    conditioning = model.encode_prompts([CAPTION])
    latents = torch.randn(2 * PAIRS, *model.latent_shape)
    pairs = EncodedPairs(latents, conditioning, rows, rows + PAIRS, torch.zeros_like(rows))
    model.network.requires_grad_(True)
    objective = catalog.build("methods", {"type": "dpo", "beta": 500.0}).objective(pairs, plan)
    print_ratios(name, *train_by_turns(Actor(model, reference), objective, plan, step))


def compare_drawing(model: Any, rounds: int) -> None:
    pipeline, unet = model._pipeline, model.network
    tokens = pipeline.tokenizer([CAPTION, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    bare = Bare(model, TrainingPlan(1, 1, 0.0, 0))
    noisy, _, text, _ = bare.inputs(2 * CANDIDATES)
    model._scheduler.set_timesteps(model.steps)
    timesteps = model._scheduler.timesteps

    @torch.inference_mode()
    def draw() -> None:
        pipeline.text_encoder(tokens)
        for timestep in timesteps:
            unet(noisy, timestep, text)
        bare.decode(CANDIDATES)

    ours: list[Taken] = []
    taken: list[Taken] = []
    for _ in range(rounds + 1):
        ours.append(measure(lambda: model.draw([CAPTION] * CANDIDATES, list(range(CANDIDATES)), 0.1)))
        taken.append(measure(draw))
    print_ratios("draw", ours, taken)


def compare_grpo(model: Any, rounds: int) -> None:
    plan = TrainingPlan(rounds + 1, PROMPTS, 1e-5, 0, precision="fp32")
    bare, images = Bare(model, plan), PROMPTS * GROUP
    # The loop draws and trains as many rows at a time as a step has prompts; guidance doubles them.
    inputs = bare.inputs(2 * PROMPTS)
    kept = count_transitions(model)

    def step() -> None:
        for _ in range(images // PROMPTS):
            with torch.no_grad():
                for _ in range(model.steps):
                    bare.unet(*inputs[:3])
            bare.decode(PROMPTS)
        for _ in range(images * kept // PROMPTS):
            bare.learn(inputs)
        bare.update()

    prompts = [f"{CAPTION} {number}" for number in range(PROMPTS)]
    unprompted = model.encode_prompts([""])
    rewards = Rewards({"constant": 1.0}, lambda name: Constant())  # type: ignore[arg-type, return-value]
    questions: list[Any] = [()] * PROMPTS
    data = PromptData(prompts, questions, model.encode_prompts(prompts), unprompted, rewards)
    settings = {"loss": "grpo", "group": GROUP, "reward": {"constant": 1.0}}
    model.network.requires_grad_(True)
    objective = catalog.build("methods", {"type": "policy-gradient", **settings}).objective(data, plan)
    print_ratios("grpo", *train_by_turns(Actor(model), objective, plan, step))


def count_transitions(model: Any) -> int:
    """Return how many of the sampling steps have a density, and so are trained."""
    grid, schedule = model.schedule.grid(model.steps), model.schedule
    zero = torch.zeros(1, *model.latent_shape)
    stds = [schedule.transition(zero, zero, grid[n : n + 1], grid[n + 1 : n + 2], 1.0)[1] for n in range(model.steps)]
    return sum(bool((std > 0).all()) for std in stds)


@contextlib.contextmanager
def save_model(width: int) -> Iterator[str]:
    """Yield the place of the embedded model, or of a copy with a random UNet of another width."""
    path = catalog.model_path("embedded:generator")
    config = UNet2DConditionModel.load_config(path, subfolder="unet")
    if tuple(config["block_out_channels"]) == (width,):
        yield path
        return
    pipeline = StableDiffusionPipeline.from_pretrained(path, safety_checker=None)
    pipeline.unet = UNet2DConditionModel.from_config({**config, "block_out_channels": [width]})
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        yield folder


@contextlib.contextmanager
def save_flow() -> Iterator[str]:
    """Yield the place of an untrained flow model of the Shapes world's build."""
    with tempfile.TemporaryDirectory() as folder:
        vae = AutoencoderKL.from_pretrained(catalog.model_path("embedded:generator"), subfolder="vae")
        words = [load_model(CLIPTextModelWithProjection, catalog.model_path("embedded:clip"), None, "fp32", "cpu")] * 2
        assemble_flow(vae, *words).save(Path(folder))
        yield folder


COMPARISONS = {"dpo": compare_dpo, "flow": compare_flow, "draw": compare_drawing, "grpo": compare_grpo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(COMPARISONS), metavar="WHAT", help=", ".join(COMPARISONS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=128, help="channels of the UNet; the embedded one has 128")
    parser.add_argument("--steps", type=int, default=10, help="of a sampling")
    options = parser.parse_args()
    if unknown := set(options.what) - set(COMPARISONS):
        parser.error(f"nothing is called {', '.join(sorted(unknown))}: there are {', '.join(COMPARISONS)}")
    torch.set_num_threads(options.threads)
    print(
        f"{describe_cpu()}, {options.threads} threads, UNet of width {options.width}, {options.steps} sampling steps",
        flush=True,
    )
    common = {"steps": options.steps, "guidance": GUIDANCE, "dtype": "fp32", "device": "cpu"}
    with save_model(options.width) as path, save_flow() as flow:
        for what in options.what:
            own: dict[str, Any] = {"type": "stable-diffusion", "path": path}
            if what == "flow":
                own = {"type": "stable-diffusion-3", "path": flow, "max_sequence_length": NO_T5}
            COMPARISONS[what](catalog.build("models", own | common), options.rounds)


if __name__ == "__main__":
    main()

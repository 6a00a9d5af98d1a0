"""Measure the heavy steps at full size: images/s, pairs/s, questions/s and peak memory, next to their upper bound.

    python benchmarks/full_size.py [sd15 sdxl sd35 flux blip2-xl qwen3-vl klein] [--budget 480] [--out full.jsonl]

Weights are random, which takes the same time, and made on the device. The steps use the project's own classes, loaded
as a run loads them. A line is the median of at most `--repeats`, fewer where they would take longer than `--most`
seconds, after one that warms up. The bound is the work at the rate at which this device multiplies two large bf16
matrices, measured in the same process. The work in TFLOP (a multiply-add counts as two) is counted while it is done;
activations that training computes again don't belong to it. Under each line stand the shares of the device's time by
kind of kernel, and the share of the wall-clock time in which the device was idle.

Each model has a process of its own, so that one that fails or takes too long costs only its own lines. They go in the
order given, the most important first, until the `--budget` in seconds is spent. `--out` gets each line as soon as it is
measured, as JSON; `--table FILE` prints such a file as Markdown.
"""

import argparse
import gc
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from kernels import FlopCounter, KernelProfile, KernelTimes, profile_kernels
from PIL import Image
from sizes import GENERATORS, GeneratorSize, TrainingSize, random_weights, write_blip2, write_generator, write_qwen3_vl

from agfsync import catalog
from agfsync.errors import cause, lacks_memory
from agfsync.training import loop, release_encoders
from agfsync.training.batches import EncodedPairs
from agfsync.training.lora import add_adapters
from agfsync.training.methods.dpo import DiffusionDPO
from agfsync.training.objective import Actor, TrainingPlan
from agfsync.training.precision import autocast
from agfsync.training.reference import AdaptersOff, FrozenCopy, round_frozen_layers

ASKED: Mapping[str, tuple[str, Callable[..., None]]] = {
    "blip2-xl": ("vqa", partial(write_blip2, language="xl")),
    "blip2-xxl": ("vqa", partial(write_blip2, language="xxl")),
    "qwen3-vl": ("vlm", write_qwen3_vl),
}
"""Models that are asked questions: their scorer, and what writes their folder."""
ORDER = ("sd15", "sdxl", "sd35", "flux", "blip2-xl", "qwen3-vl", "klein")
QUESTIONS, SEEN = 9, 1024
"""questions an image, and the side of an image in pixels"""
RANK = 16
TINY = {"sd15": 64, "sdxl": 64, "sd35": 64, "flux": 64, "klein": 64}
"""the side of the images of tiny generators"""
GRACE = 5.0
"""seconds in which the process of a model can't begin anything"""


@dataclass(frozen=True)
class Bench:
    """The measuring of one model: its options, and the device's rate of bf16 products in TFLOP/s."""

    model: str
    options: argparse.Namespace
    speed: float
    device: torch.device

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Begin with the memory free; a failure prints a line and ends the part alone."""
        self.forget_peak()
        try:
            yield
        except Exception as failure:
            said = "out of memory" if lacks_memory(failure) else cause(failure)
            self._write({"what": what, "failure": said})
            print(f"{self.model} {what}: not measured: {said}", flush=True)

    def forget_peak(self) -> None:
        """Free what isn't referenced, and forget the peak of memory."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def measure(self, what: str, unit: str, count: int, work: Callable[[], Any], **facts: Any) -> None:
        """Measure `work`, which makes `count` of `unit`: warm up and count, take the time, look at the kernels."""
        self.forget_peak()
        with FlopCounter() as counter:
            work()
        taken: list[float] = []
        while len(taken) < self.options.repeats and sum(taken) < self.options.most:
            taken.append(self._time(work))
        kernels = profile_kernels(work, self.device)
        self.report(Line(what, unit, count, taken, counter.flops / 1e12, kernels, facts))

    def report(self, line: "Line") -> None:
        """Print a line, and write it to the file."""
        took, speed = median(line.taken), self.speed
        per_second, needed = line.count / took, line.needed / line.count
        bound = speed / needed if needed else 0.0
        share = per_second / bound if bound else 0.0
        found = {"what": line.what, "unit": line.unit, "per_second": per_second, "seconds": took, "count": line.count}
        found |= {"repeats": len(line.taken), "tflop": needed, "bound": bound, "share_of_bound": share}
        found |= {"peak_gb": peak_memory(self.device), "matmul_tflops": speed, **line.facts}
        print(
            f"{self.model + ' ' + line.what:<28} {per_second:9.3f} {line.unit}/s   {needed:8.3f} TFLOP each, bound "
            f"{bound:9.2f}/s, {share:4.0%} of it   peak {found['peak_gb']:5.1f} GB   {_describe(line.facts)}",
            flush=True,
        )
        if line.kernels is not None:
            total = sum(line.kernels.kinds.values())
            shares = {kind: seconds / total for kind, seconds in line.kernels.kinds.items()}
            idle = max(0.0, 1 - line.kernels.busy / took)
            longest = {name[:160]: seconds / total for name, seconds in line.kernels.longest.items()}
            found |= {"kernels": shares, "idle": idle, "longest": longest}
            said = ", ".join(f"{kind} {each:.0%}" for kind, each in shares.items())
            print(f"    kernels: {said}; idle {idle:.0%}", flush=True)
        self._write(found)

    def _time(self, work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def _write(self, found: Mapping[str, Any]) -> None:
        if self.options.out:
            about = {"model": self.model, "device": describe_device(), "torch": torch.__version__}
            with self.options.out.open("a") as file:
                file.write(json.dumps({**about, **found}) + "\n")


@dataclass(frozen=True)
class Line:
    """A measured line: `count` of `unit` in each of the times `taken`, and the TFLOP `needed` for all of them."""

    what: str
    unit: str
    count: int
    taken: Sequence[float]
    needed: float
    kernels: KernelTimes | None
    facts: Mapping[str, Any]


@dataclass
class Steps:
    """Steps of a training: one to warm up, one that is counted, `timed` ones, and one whose kernels are looked at."""

    device: torch.device
    timed: int
    taken: list[float] = field(default_factory=list)
    kernels: KernelTimes | None = None

    def __post_init__(self) -> None:
        self.count = self.timed + 3
        self._counter, self._profile = FlopCounter(), KernelProfile(self.device)

    def after(self, figures: Mapping[str, float]) -> None:
        """Note a step's time, and prepare the next."""
        step = int(figures["step"])
        if step == 1:
            self._counter.__enter__()
        elif step == 2:
            self._counter.__exit__(None, None, None)
        elif step < self.count:
            self.taken.append(figures["seconds"])
        if step == self.count - 1:
            self._profile.start()
        elif step == self.count:
            self.kernels = self._profile.stop()

    @property
    def tflop(self) -> float:
        return self._counter.flops / 1e12


class Forgetful:
    """Checkpoints that keep nothing: the time to write them is not measured."""

    def restore(self, state: Any) -> int:
        return 0

    def save(self, step: int, state: Any) -> None:
        pass


def find_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def measure_rate(device: torch.device, products: int = 20) -> float:
    """Return the TFLOP/s of large bf16 matrix products, the median of five times as many as that."""
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken: list[float] = []
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(products):
            left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return products * 2 * side**3 / median(taken[1:]) / 1e12


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in GB: of the accelerator since the part began, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _describe(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def measure_generator(bench: Bench) -> None:
    """Measure drawing and training."""
    size, name = GENERATORS[bench.model], bench.model
    with tempfile.TemporaryDirectory() as folder:
        write_generator(size, Path(folder), bench.options.tiny)
        side = {"height": TINY[name], "width": TINY[name]} if bench.options.tiny else {}
        settings = {"type": size.type, "path": folder, **size.settings, **side}
        with bench.part("draws"):
            draw(bench, size, settings)
        with bench.part("trains a LoRA"):
            train(bench, size.lora, settings, lora=True)
        if size.whole:
            with bench.part("trains whole"):
                train(bench, size.whole, settings, lora=False)


def draw(bench: Bench, size: GeneratorSize, settings: Mapping[str, Any]) -> None:
    """Measure drawing a caption's candidates in one batch, and by itself a step's prediction, decoding and encoding."""
    steps, images = bench.options.steps, bench.options.batch or size.images
    generator = catalog.build("models", {**settings, "steps": steps, "dtype": "bf16"})
    prompts, seeds = ["a large red circle"] * images, list(range(images))
    bench.measure("draws", "images", images, lambda: generator.draw(prompts, seeds, 0.1), steps=steps, batch=images)
    rows = images * (2 if generator.guidance > 1 else 1)
    with torch.inference_mode():
        predict, latents = prepare_prediction(generator, rows)
        bench.measure("predicts", "rows", rows, predict, batch=rows)
        decode = partial(generator.decode_latents, latents[:images])
        bench.measure("decodes", "images", images, decode, batch=images)
        bench.measure("reads prompts", "prompts", 2, lambda: generator.encode_prompts([prompts[0], "a star"]), batch=2)


def prepare_prediction(model: Any, rows: int) -> tuple[Callable[[], Any], torch.Tensor]:
    """Return a prediction of the model's network for so many rows, and its noisy latents."""
    noisy = torch.randn(rows, *model.latent_shape, device=model.device)
    told = {name: each.expand(rows, *each.shape[1:]) for name, each in model.encode_prompts(["a large circle"]).items()}
    is_flow = model.schedule.prediction_type == "velocity"
    times = torch.full((rows,), 0.5 if is_flow else 500, device=model.device)
    return lambda: model.predict(model.network, noisy, times, told), noisy


def train(bench: Bench, size: TrainingSize, settings: Mapping[str, Any], lora: bool) -> None:
    """Measure DPO steps on pairs of random latents, with the networks' types as a run has them."""
    options, pairs = bench.options, bench.options.pairs or size.pairs
    is_flow = settings["type"] not in ("stable-diffusion", "stable-diffusion-xl")
    dtype = "bf16" if lora and is_flow else "fp32"
    denoiser = catalog.build("models", {**settings, "dtype": dtype, "lazy": True})
    conditioning = {name: each.cpu() for name, each in denoiser.encode_prompts(["a large red circle"]).items()}
    with torch.no_grad():
        predict, _ = prepare_prediction(denoiser, 2 * pairs)
    release_encoders(denoiser)
    reference: Any
    if lora:
        add_adapters(denoiser.network, RANK, RANK, 0, denoiser.adapter_targets)
        round_frozen_layers(denoiser.network, "bf16")
        reference = AdaptersOff(denoiser.network)
    else:
        reference = FrozenCopy(denoiser.network, "bf16")
        denoiser.network.requires_grad_(True)
    with torch.no_grad(), autocast(bench.device, "bf16"), FlopCounter() as forward:
        predict()
    bench.forget_peak()
    rows = torch.arange(pairs)
    latents = torch.randn(2 * pairs, *denoiser.latent_shape)
    data = EncodedPairs(latents, conditioning, rows, rows + pairs, torch.zeros_like(rows))
    steps, remarks = Steps(bench.device, options.repeats), list[str]()
    plan = TrainingPlan(steps.count, pairs, 1e-6, seed=0, gradient_checkpointing=size.checkpointing)
    forgetful: Any = Forgetful()
    with tempfile.TemporaryDirectory() as log:
        actor, objective = Actor(denoiser, reference, plan.precision), DiffusionDPO(2000.0).objective(data, plan)
        loop.train(actor, objective, plan, forgetful, Path(log) / "log", steps.after, say=remarks.append)
    again = forward.flops / 1e12 if size.checkpointing else 0.0
    facts = {"batch": pairs, "checkpointing": size.checkpointing} | ({"remark": remarks[-1]} if remarks else {})
    what = "trains a LoRA" if lora else "trains whole"
    bench.report(Line(what, "pairs", pairs, steps.taken, steps.tflop - again, steps.kernels, facts))


def measure_asking(bench: Bench) -> None:
    """Measure nine questions about each of a batch of images."""
    kind, write = ASKED[bench.model]
    images = bench.options.batch or 8
    side = 64 if bench.options.tiny else SEEN
    with tempfile.TemporaryDirectory() as folder, bench.part("answers"):
        write(folder=Path(folder), tiny=bench.options.tiny)
        scorer = catalog.build("scorers", {"type": kind, "path": folder, "dtype": "bf16"})
        shown = [Image.new("RGB", (side, side), (n, 2 * n, 3 * n)) for n in range(images)]
        asked = [[f"Is the {word} circle left of the star?" for word in ("large", "red", "small") * 3]] * images
        scorer.p_yes(shown[:1], asked[:1])
        # A vlm tries whether it can read an image once for all its questions; that random weights may belie.
        once = {"image read once": kept} if (kept := getattr(scorer._reader, "_keeps_images", None)) is not None else {}
        work = partial(scorer.p_yes, shown, asked)
        bench.measure("answers", "questions", images * QUESTIONS, work, batch=images, **once)


def measure_model(model: str, options: argparse.Namespace, begin: Any = None) -> None:
    """Measure one model, in this process, once `begin` says so."""
    if begin is not None:
        begin.wait()
    device = find_device()
    bench = Bench(model, options, measure_rate(device), device)
    name = describe_device()
    print(f"{model}: {name}, {bench.speed:.1f} TFLOP/s of bf16 matrix products, torch {torch.__version__}", flush=True)
    with random_weights(device):
        measure_asking(bench) if model in ASKED else measure_generator(bench)


def measure_apart(options: argparse.Namespace) -> None:
    """Measure each model in a process of its own. All start at once, since importing the libraries takes long."""
    ends = time.monotonic() + options.budget
    context = multiprocessing.get_context("spawn")
    events = {model: context.Event() for model in options.models}
    started = {
        model: context.Process(target=measure_model, args=(model, options, event), daemon=True)
        for model, event in events.items()
    }
    for process in started.values():
        process.start()
    for model, process in started.items():
        begun, left = time.monotonic(), ends - time.monotonic()
        if left > GRACE:
            events[model].set()
            process.join(min(left, options.each))
            is_late = process.is_alive()
            print(f"{model}: {time.monotonic() - begun:.0f} s{', and was cut off' if is_late else ''}\n", flush=True)
        else:
            print(f"{model}: no time is left for it", flush=True)
        process.kill()
        process.join()


def print_tables(file: Path) -> None:
    """Print the lines in `file` as two tables in Markdown: speed, and what the device did."""
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    measured = [line for line in lines if "failure" not in line]
    print("| model | step | measured | bound | of it | peak |\n|---|---|---|---|---|---|")
    for line in measured:
        print(
            f"| {line['model']} | {line['what']} | {line['per_second']:.3g} {line['unit']}/s | {line['bound']:.3g} /s "
            f"| {line['share_of_bound']:.0%} | {line['peak_gb']:.1f} GB |"
        )
    kinds = list(dict.fromkeys(kind for line in measured for kind in line.get("kernels", ())))
    print(f"\n| model | step | {' | '.join(kinds)} | idle |\n{'|---' * (len(kinds) + 3)}|")
    for line in measured:
        if shares := line.get("kernels"):
            shown = " | ".join(f"{shares.get(kind, 0):.0%}" for kind in kinds)
            print(f"| {line['model']} | {line['what']} | {shown} | {line['idle']:.0%} |")


def read_options() -> argparse.Namespace:
    known = [*GENERATORS, *ASKED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=ORDER, metavar="MODEL", help=f"of {', '.join(known)}")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--batch", type=int, help="images at a time, by default as many as suit the model")
    parser.add_argument("--pairs", type=int, help="pairs of a training step, by default as many as suit the model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=float, default=10.0, help="seconds after which nothing is repeated")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--each", type=float, default=150.0, help="seconds for one model")
    parser.add_argument("--out", type=Path, help="file to which the lines are added, as JSON")
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print such a file as Markdown")
    parser.add_argument(
        "--tiny", action="store_true", help="take networks of a few thousand weights: to try the script"
    )
    parser.add_argument("--one-process", action="store_true", help="measure in this process, without a limit of time")
    options = parser.parse_args()
    if unknown := set(options.models) - set(known):
        parser.error(f"no model is called {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    return options


def main() -> None:
    options = read_options()
    if options.table:
        print_tables(options.table)
    elif options.one_process:
        for model in options.models:
            measure_model(model, options)
    else:
        measure_apart(options)


if __name__ == "__main__":
    main()

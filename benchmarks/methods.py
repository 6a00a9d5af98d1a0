"""Every method on the Shapes world from the same base run, with the controls that could explain a gain away.

    python benchmarks/methods.py RUNS --seeds 0 1 2 --arms dpo best random-sft
    python benchmarks/methods.py RUNS --table > docs/results/methods.md

Each seed has a base run, the demo up to its evaluation; each arm is a fork of it, so that all arms have the captions,
candidates and scores, and the base model's evaluation images, in common. What is done is kept: typed again it goes on.
The settings of the arms were chosen on the captions of seed 100, which no table holds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from agfsync import catalog
from agfsync.engine.progress import SilentProgress
from agfsync.models.dtypes import describe_cpu
from agfsync.pipeline import read_recipe
from agfsync.recipe import Recipe
from agfsync.records import Comparison, derive_seed
from agfsync.stages.context import Context, read_captions_to_draw
from agfsync.statistics import infer_mean
from agfsync.store import Run
from agfsync.store.forks import fork_run
from agfsync.training.rewards import Rewards

JUDGES = ("vqa", "clip", "aesthetic", "oracle")
DEMO, CONTROL = "demo: dpo, anchored", "random-sft"
RESAMPLES = 10_000
DEMO_WEIGHTS = {"vqa": 0.35, "clip": 0.55, "aesthetic": 0.30}
ONLINE = {"training.steps": 40, "training.batch": 4, "training.learning_rate": 2e-4}
"""The offline arms keep the demo's steps, batch and learning rate."""


def _method(type_: str, **settings: Any) -> dict[str, Any]:
    return {"training.method": {"type": type_, **settings}}


def _policy(loss: str, kl: float) -> dict[str, Any]:
    return ONLINE | _method("policy-gradient", loss=loss, group=6, timesteps=0.5, kl=kl)


ARMS: dict[str, dict[str, Any]] = {
    DEMO: {},
    # Controls.
    CONTROL: _method(CONTROL),
    "dpo by lot": {"pairs.choose": {"type": "lot"}, **_method("dpo", beta=500)},
    "dpo by lot, anchored": {"pairs.choose": {"type": "lot"}},
    # Preference pairs.
    "dpo": _method("dpo", beta=500),
    "ipo": _method("ipo", beta=500),
    "hinge": _method("hinge", beta=500),
    "sdpo": _method("sdpo", beta=500, mu=0.5),
    "linear-dpo": _method("linear-dpo", beta=100),
    "smpo": _method("smpo", beta=500),
    "mapo": _method("mapo"),
    "kto": _method("kto", beta=1000),
    "demo, tracked noise": {"training.noise": "tracked"},
    "demo, every pair above 20": {"pairs.choose": {"type": "every", "weights": DEMO_WEIGHTS, "minimum_margin": 20}},
    "demo, calibrated pairs": {"pairs.choose": {"type": "calibrated", "weights": DEMO_WEIGHTS}},
    "demo, z-scores": {"pairs.normalise": "z-score"},
    # Supervised.
    "raft": _method("best"),
    "dreamsync": _method("best", at_least={"vqa": 90, "aesthetic": 60}),
    "reward-weighted": _method("reward-weighted"),
    # Online.
    "ddpo": _policy("ddpo", 0.0),
    "dpok": _policy("dpok", 1e-3),
    "ppo": _policy("ppo", 0.0),
    "grpo": _policy("grpo", 0.01),
    "nft": ONLINE | _method("nft", group=6, guidance=4.0),
    "awm": ONLINE | _method("awm", group=6, guidance=4.0),
    "reward-gradient": ONLINE | _method("reward-gradient", reward={"clip": 1.0}, steps=10),
    # Training-free.
    "syngen": _method("syngen", strength=3),
    "structure-diffusion": _method("structure-diffusion"),
    "attend-and-excite": _method("attend-and-excite", strength=3, refinements=0),
}
GUIDANCES = (2.0, 6.0, 8.0)
"""Scales of classifier-free guidance at which the base alone is drawn; the demo's is 4."""
BEST_OF = 8


def main() -> None:
    """Run the arms, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=[*ARMS, "guidance", "best of 8"])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(render_table(options.runs))
        return
    for arm in options.arms:
        for seed in options.seeds:
            measure(options.runs, seed, arm)


def measure(runs: Path, seed: int, arm: str) -> None:
    """Run one arm of one seed if it hasn't been run, and keep its values in a JSON file."""
    base = runs / f"base-{seed}"
    run_agfsync(base, {"seed": seed})
    if arm == "guidance":
        for scale in GUIDANCES:
            keep(runs, seed, f"base, guidance {scale:g}", lambda scale=scale: draw_base(base, scale, 1))
        return
    if arm == "best of 8":
        keep(runs, seed, "base, best of 8", lambda: draw_base(base, None, BEST_OF))
        return
    keep(runs, seed, arm, lambda: run_arm(base, runs / f"{make_file_name(arm)}-{seed}", seed, arm))


def keep(runs: Path, seed: int, arm: str, make: Any) -> None:
    """Write what `make` returns to the arm's JSON file, if there is none."""
    path = runs / "measured" / f"{make_file_name(arm)}-{seed}.json"
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    found = {"arm": arm, "seed": seed, "processor": describe_cpu(), **make()}
    path.write_text(json.dumps(found))
    print(f"{arm}, seed {seed}: " + ", ".join(f"{j} {fmean(v.values()):.1f}" for j, v in found["values"].items()))


def make_file_name(arm: str) -> str:
    """Return the name of an arm's run folder and file."""
    return "".join(each if each.isalnum() else "-" for each in arm)


def run_arm(base: Path, path: Path, seed: int, arm: str) -> dict[str, Any]:
    """Fork the base, train and evaluate; return the aligned model's values, the training's time and peak memory."""
    if not path.exists():
        fork_run(base, path)
    memory = run_agfsync(path, {"seed": seed, **ARMS[arm]})
    with Run.open(path) as run:
        training = run.find_finished("training")
        values: dict[str, dict[str, float]] = defaultdict(dict)
        for row in run.read("evaluation", Comparison):
            if not row.element_type:
                values[row.judge][row.caption_key] = row.aligned
    assert training is not None
    return {
        "values": values,
        "seconds": training.seconds,
        "memory": memory if ARMS[arm] else 0,
        "notes": training.notes,
    }


def run_agfsync(path: Path, changes: Mapping[str, Any]) -> int:
    """Run the demo with `changes` at `path` in a process of its own; return its peak memory in bytes.

    Of several processes it is that of the largest.
    """
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "agfsync", "run", "shapes", "--out", str(path), "--update", *sets]
    with (path.parent / f"{path.name}.log").open("a") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed: see {path}.log")
    return usage.ru_maxrss * 1024


def draw_base(base: Path, guidance: float | None, count: int) -> dict[str, Any]:
    """Draw the held-out captions with the base alone; of `count` images a caption keep the best by the demo's sum."""
    begun = time.monotonic()
    with Run.open(base) as run:
        recipe = read_recipe(run)
        asked = list(read_captions_to_draw(Context(run, recipe, SilentProgress()), "held-out"))
    settings = recipe.model.arguments() | ({} if guidance is None else {"guidance": guidance})
    model = catalog.build("models", settings, recipe.model.defaults())
    weights = {**dict.fromkeys(JUDGES, 0.0), **recipe.pairs.weights}
    rewards = Rewards(weights, lambda name: catalog.build("scorers", recipe.scorers[name].model_dump()))
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for start in range(0, len(asked), 16):
        some = asked[start : start + 16]
        drawn = []
        for number in range(count):
            # The first image of each caption is the one that the evaluation draws.
            more = [number] if number else []
            seeds = [derive_seed(recipe.seed, "evaluation", each.key, *more) for each in some]
            texts = [each.caption.text for each in some]
            drawn.append(rewards.score(model.draw(texts, seeds, 0.0), texts, [each.questions for each in some]))
        for place, each in enumerate(some):
            best = max(drawn, key=lambda found: float(found.total_B[place]))
            for judge in JUDGES:
                values[judge][each.key] = float(best.scores[judge][place])
    return {"values": values, "seconds": time.monotonic() - begun, "memory": 0, "notes": {}}


HEAD = """# Methods on the Shapes world

`python benchmarks/methods.py RUNS` made the runs, and with `--table` this page, on {processors}.
All arms of a seed are forks of one run of the demo: they share captions, candidates, scores and the base's evaluation
images. The offline arms have the demo's {steps} steps of {batch} pairs or images; the online ones have {online_steps}
steps of {online_batch} prompts. Their settings are in `ARMS` of that script, and were tried on the captions of seed 100
alone, or not tuned at all.

A cell is the mean gain over the base on the held-out captions of all seeds of the row, with its 95 % interval over
captions; values are on 0..100. Nothing trains or selects on the oracle. `random-sft` fine-tunes on a random candidate
of each caption, without any preference: what a method gains over it is gained by feedback. The time is the training
stage's, beside other work on the same machine; the memory is the peak of the largest process.
"""


def render_table(runs: Path) -> str:
    """Return the results as Markdown: gains over the base, and over the control, with 95 % intervals over captions."""
    measured: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for path in sorted((runs / "measured").glob("*.json")):
        found = json.loads(path.read_text())
        measured[found["arm"]][found["seed"]] = found
    bases = {seed: read_base(runs / f"base-{seed}") for seed in {s for of in measured.values() for s in of}}
    control, order = measured.get(CONTROL, {}), [*ARMS, *sorted(set(measured) - set(ARMS))]
    columns = ["method", "seeds", *JUDGES, f"oracle, over {CONTROL}", "training", "peak memory"]
    lines = [render_head(measured), f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [render_row(arm, measured[arm], bases, control) for arm in order if arm in measured]
    missing = [arm for arm in ARMS if arm not in measured]
    if missing:
        lines += ["", f"Not measured yet: {'; '.join(missing)}."]
    lines += ["", f"## The demo against {CONTROL}, seed by seed", "", "| seed | oracle | VQA |", "|---|---|---|"]
    for seed, found in measured[DEMO].items():
        if seed in control:
            gains = [
                format_gain([(found["values"][judge], control[seed]["values"][judge])]) for judge in ("oracle", "vqa")
            ]
            lines.append(f"| {seed} | {' | '.join(gains)} |")
    return "\n".join(lines)


def render_head(measured: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Return the text above the table."""
    recipe = Recipe.load("shapes")
    return HEAD.format(
        processors="; ".join(sorted({found["processor"] for of in measured.values() for found in of.values()})),
        steps=recipe.training.steps,
        batch=recipe.training.batch,
        online_steps=ONLINE["training.steps"],
        online_batch=ONLINE["training.batch"],
    )


def render_row(
    arm: str,
    of: Mapping[int, Mapping[str, Any]],
    bases: Mapping[int, Mapping[str, Mapping[str, float]]],
    control: Mapping[int, Mapping[str, Any]],
) -> str:
    """Return an arm's row."""
    gains = [
        format_gain([(found["values"][judge], bases[seed][judge]) for seed, found in of.items()]) for judge in JUDGES
    ]
    shared = [
        (found["values"]["oracle"], control[seed]["values"]["oracle"]) for seed, found in of.items() if seed in control
    ]
    over = format_gain(shared) if shared and arm != CONTROL else "—"
    seconds, memory = fmean(f["seconds"] for f in of.values()), max(f["memory"] for f in of.values())
    size = f"{memory / 2**30:.1f} GiB" if memory else "—"
    return f"| {arm} | {', '.join(map(str, sorted(of)))} | {' | '.join([*gains, over])} | {seconds:.0f} s | {size} |"


def format_gain(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> str:
    """Return the mean paired difference over the captions of all seeds, with its interval."""
    gains = np.array([ours[key] - theirs[key] for ours, theirs in pairs for key in ours if key in theirs])
    interval, _ = infer_mean(gains, RESAMPLES, 0)
    if interval is None:
        return f"{gains.mean():+.1f}"
    return f"{gains.mean():+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def read_base(path: Path) -> dict[str, dict[str, float]]:
    """Return the base model's values by judge and caption."""
    values: dict[str, dict[str, float]] = defaultdict(dict)
    with Run.open(path) as run:
        for row in run.read("evaluation", Comparison):
            if not row.element_type:
                values[row.judge][row.caption_key] = row.base
    return values


if __name__ == "__main__":
    main()

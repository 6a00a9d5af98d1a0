"""The accuracy of the Shapes world's reward model by the share of the data, and with each aspect left out.

    python benchmarks/reward.py RUNS --seeds 0 1 2

Each seed has a run of shapes-visionprefer up to its pairs; each arm is a fork of it that trains a reward model. The
test pairs are the same for all arms of a seed, also those of aspects that an arm leaves out. What is done is kept:
typed again it goes on. Prints Markdown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import agfsync
from agfsync.models.dtypes import describe_cpu
from agfsync.pipeline import read_recipe
from agfsync.recipe import resolve_recipe
from agfsync.stages.reward import ACCURACY
from agfsync.stages.reward_accuracy import MODEL_NAME
from agfsync.store import Run
from agfsync.store.forks import fork_run

RECIPE = "shapes-visionprefer"
ASPECTS = ("prompt-following", "aesthetic", "fidelity", "harmlessness")
SHARES = (1 / 16, 1 / 4, 1.0)
OVERALL = ""


def list_arms(shares: Sequence[float], left_out: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the changes of the recipe by the name of each arm."""
    by_share = {f"share {share:.4g}": {"reward.share": share} for share in shares}
    without = {
        f"without {out}": {"reward.aspects": [f"annotator.{each}" for each in ASPECTS if each != out]}
        for out in left_out
    }
    return by_share | without


def train_arm(base: Path, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the notes of the reward stage of a fork of `base` with `changes`."""
    if not folder.exists():
        fork_run(base, folder)
    with Run.open(folder) as run:
        recipe = read_recipe(run)
    agfsync.run(recipe.with_(changes), folder, until="reward", update=True, progress=False)
    with Run.open(folder) as run:
        record = run.find_finished("reward")
        assert record is not None
        return dict(record.notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--captions", type=int, default=960)
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES)
    parser.add_argument("--without", nargs="*", default=ASPECTS, choices=ASPECTS, metavar="ASPECT")
    asked = parser.parse_args()
    bases = {seed: asked.runs / f"vp-{seed}" for seed in asked.seeds}
    for seed, base in bases.items():
        recipe = resolve_recipe(RECIPE).with_({"seed": seed, "captions.count": asked.captions})
        agfsync.run(recipe, base, until="pairs", update=True, progress=False)
    print(f"{describe_cpu()}. Accuracy on all test pairs with its 95 % interval over prompts, by run seed.\n")
    print(f"| arm | pairs trained on | {' | '.join(f'seed {seed}' for seed in bases)} | mean |")
    print(f"|{'---|' * (len(bases) + 3)}")
    for name, changes in list_arms(asked.shares, asked.without).items():
        folder = name.replace(" ", "-")
        notes = [train_arm(base, asked.runs / f"vp-{seed}--{folder}", changes) for seed, base in bases.items()]
        found = [each[ACCURACY][OVERALL][MODEL_NAME] for each in notes]
        cells = [f"{each['accuracy']:.1%} [{each['low']:.1%}, {each['high']:.1%}]" for each in found]
        pairs = ", ".join(f"{each['pairs']:,}" for each in notes)
        print(f"| {name} | {pairs} | {' | '.join(cells)} | {fmean(e['accuracy'] for e in found):.1%} |", flush=True)


if __name__ == "__main__":
    main()

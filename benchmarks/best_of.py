"""How much the best of N images of the base lies above one: an upper mark for methods that learn from the same judges.

    python benchmarks/best_of.py RUN [--count 8]

RUN is a finished run. Each held-out caption is drawn N times, and the image with the highest weighted sum of the run's
scores is kept; the first of the N is the one that the run's evaluation drew. Prints Markdown.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from agfsync import catalog
from agfsync.engine.progress import SilentProgress
from agfsync.models.dtypes import describe_cpu
from agfsync.pipeline import read_recipe
from agfsync.records import derive_seed
from agfsync.stages.context import Context, read_captions_to_draw
from agfsync.statistics import infer_mean
from agfsync.store import Run
from agfsync.training.rewards import Rewards

BATCH, RESAMPLES = 16, 10_000


def compare_best(run: Run, count: int) -> dict[str, list[float]]:
    """Return by judge the differences between the best image of each held-out caption and its first."""
    recipe = read_recipe(run)
    asked = list(read_captions_to_draw(Context(run, recipe, SilentProgress()), "held-out"))
    model = catalog.build("models", recipe.model.arguments(), recipe.model.defaults())
    weights = {**dict.fromkeys(recipe.scorers, 0.0), **recipe.pairs.weights}
    rewards = Rewards(weights, lambda name: catalog.build("scorers", recipe.scorers[name].model_dump()))
    gains: dict[str, list[float]] = defaultdict(list)
    for start in range(0, len(asked), BATCH):
        some = asked[start : start + BATCH]
        texts = [each.caption.text for each in some]
        scored = []
        for number in range(count):
            more = [number] if number else []
            seeds = [derive_seed(recipe.seed, "evaluation", each.key, *more) for each in some]
            scored.append(rewards.score(model.draw(texts, seeds, 0.0), texts, [each.questions for each in some]))
        for place in range(len(some)):
            best = max(scored, key=lambda found: float(found.total_B[place]))
            for judge in recipe.scorers:
                gains[judge].append(float(best.scores[judge][place] - scored[0].scores[judge][place]))
    return gains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=8)
    options = parser.parse_args()
    with Run.open(options.run) as run:
        gains = compare_best(run, options.count)
    print(f"{describe_cpu()}\n\n| judge | best of {options.count} over one |\n|---|---|")
    for judge, values in gains.items():
        interval, _ = infer_mean(np.array(values), RESAMPLES, 0)
        said = "" if interval is None else f" [{interval.low:+.1f}, {interval.high:+.1f}]"
        print(f"| {judge} | {np.mean(values):+.1f}{said} |", flush=True)


if __name__ == "__main__":
    main()

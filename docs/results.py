"""What stands in docs/shapes: `python docs/results.py docs/shapes RUN...` writes down runs of one recipe.

recipe.yaml is the first run's; results.md has every judge's figures for every run; evaluation-SEED.json all of a run's
figures, by category and element type too.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agfsync.config import Recipe
from agfsync.pipeline import recipe_of
from agfsync.stages.report.page import duration
from agfsync.stages.report.verdict import points
from agfsync.store import Finished, Run

HEAD = """# The Shapes world: results

Written by `python docs/results.py` from the run folders of `agfsync run {name} --set seed=SEED`, whose recipe, with
every default, is [recipe.yaml](recipe.yaml) (seed {seed}'s). Base and aligned model draw each held-out caption from the
same seed; values are on 0..100; the difference has its 95 % paired bootstrap interval over the captions. Nothing trains
or selects on the oracle. What there was to choose (learning rate, beta, the aesthetic score's weight) was chosen on the
captions of run seed 100.

| seed | judge | captions | base | aligned | difference | 95 % interval | win rate |
|---|---|---|---|---|---|---|---|"""
TIMES = "\nThe run of seed {seed} took:\n\n| {stages} | all |\n|{rules}---|\n| {times} |"


def main(folder: Path, paths: Sequence[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = [read(path) for path in paths]
    first = found[0][0]
    lines = [HEAD.format(name=first.name, seed=first.seed)]
    for recipe, finished in found:
        notes = finished["evaluation"].notes
        lines += [row(recipe.seed, judge, figures) for judge, figures in notes["judges"].items()]
        text = json.dumps({"seed": recipe.seed, **notes}, indent=1, ensure_ascii=False)
        (folder / f"evaluation-{recipe.seed}.json").write_text(text + "\n", encoding="utf-8")
    lines.append(times(*found[0]))
    (folder / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text((paths[0] / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def read(path: Path) -> tuple[Recipe, dict[str, Finished]]:
    """A run's recipe and how its stages ended."""
    with Run.open(path, writing=False) as run:
        recipe = recipe_of(run)
        stages = ("captions", "questions", "candidates", "scores", "pairs", "training", "evaluation", "report")
        return recipe, {stage: ended for stage in stages if (ended := run.finished(stage))}


def row(seed: int, judge: str, figures: Mapping[str, Any]) -> str:
    return (
        f"| {seed} | {judge} | {figures['prompts']} | {figures['base']:.1f} | {figures['aligned']:.1f} "
        f"| {points(figures['difference'])} | {points(figures['low'])} to {points(figures['high'])} "
        f"| {figures['win_rate']:.0%} |"
    )


def times(recipe: Recipe, finished: Mapping[str, Finished]) -> str:
    seconds = [each.seconds for each in finished.values()]
    shown = " | ".join(duration(each) for each in [*seconds, sum(seconds)])
    return TIMES.format(seed=recipe.seed, stages=" | ".join(finished), rules="---|" * len(seconds), times=shown)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])

"""Write docs/shapes: `python docs/results.py docs/shapes RUN...` documents runs of one recipe.

recipe.yaml is the first run's. results.md has every judge's figures for every run, and the verdict of its report.
evaluation-SEED.json has all figures of a run, also by category and element type. Run it on the machine of the runs,
whose processor it names.
"""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agfsync.pipeline import read_recipe
from agfsync.recipe import Recipe
from agfsync.stages.report.page import format_time
from agfsync.stages.report.verdict import Standing, format_interval, format_p, format_points, rank_judges, reach_verdict
from agfsync.stages.selection import find_selectors
from agfsync.store import Finished, Run

HEAD = """# The Shapes world: results

`python docs/results.py` wrote this page from the run folders of `agfsync run {name} --set seed=SEED`, on {processor};
[recipe.yaml](recipe.yaml) has every key (of seed {seed}). Base and aligned model draw each held-out caption from the
same seed; values are on 0..100. The interval is the uncorrected 95 % interval of the mean difference. p is corrected by
Holm over the independent judges, and separately over the others. A tie counts one half in the win rate.
[Evaluation](../evaluation.md) explains each. Nothing trains or selects on the oracle.

The learning rate, guidance, steps, numbers of captions, embedding noise, the aesthetic score's weight, beta and the
anchor were chosen on the captions of run seeds of 100 and up. Another processor gives other figures: for one seed of
an earlier recipe the oracle's gain was 4.9, 5.4 and 5.7 on three processors. [Methods](../results/methods.md) compares
the demo with other methods and with a control that trains without the feedback.

| seed | judge | role | captions | base | aligned | difference | 95 % interval | p | win rate | 95 % interval | ties |
|---|---|---|---|---|---|---|---|---|---|---|---|"""
TIMES = (
    "\nThe run of seed {seed} took, beside other work on {processor}:\n\n| {stages} | all |\n|{rules}---|\n| {times} |"
)
VERDICTS = "\nThe verdicts:\n"

Found = tuple[Recipe, dict[str, Finished], list[Standing]]


def main(folder: Path, paths: Sequence[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    found = [read(path) for path in paths]
    first = found[0][0]
    lines = [HEAD.format(name=first.name, seed=first.seed, processor=find_processor())]
    lines += [row(recipe.seed, standing) for recipe, _, judged in found for standing in judged]
    lines += [VERDICTS]
    for recipe, finished, judged in found:
        said = reach_verdict(judged)
        lines.append(f"- Seed {recipe.seed}: **{said.headline}.** {said.grounds}")
        text = json.dumps({"seed": recipe.seed, **finished["evaluation"].notes}, indent=1, ensure_ascii=False)
        (folder / f"evaluation-{recipe.seed}.json").write_text(text + "\n", encoding="utf-8")
    lines.append(times(first, found[0][1]))
    (folder / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text((paths[0] / "recipe.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def read(path: Path) -> Found:
    """Return a run's recipe, its finished stages, and its judges' results."""
    with Run.open(path) as run:
        recipe = read_recipe(run)
        stages = ("captions", "questions", "candidates", "scores", "pairs", "training", "evaluation", "report")
        finished = {stage: ended for stage in stages if (ended := run.find_finished(stage))}
        judged = rank_judges(finished["evaluation"].notes["judges"], recipe, find_selectors(run, recipe))
        return recipe, finished, judged


def row(seed: int, s: Standing) -> str:
    wins = f"{s.win_rate:.0%} | {s.win_low:.0%} to {s.win_high:.0%} | {s.ties:.0%}"
    return (
        f"| {seed} | {s.judge} | {s.role} | {s.prompts} | {s.base:.1f} | {s.aligned:.1f} "
        f"| {format_points(s.difference)} | {format_interval(s.low, s.high)} | {format_p(s.p_adjusted)} | {wins} |"
    )


def find_processor() -> str:
    """Return the name of this machine's processor, and its widest instruction set that matters here."""
    about = Path("/proc/cpuinfo")
    fields = [line.partition(":") for line in about.read_text().splitlines()] if about.is_file() else []
    facts = {name.strip(): value.strip() for name, _, value in fields}
    flags = facts.get("flags", "").split()
    sets = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
    widest = next((name for flag, name in sets.items() if flag in flags), "")
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({widest})" if widest else name


def times(recipe: Recipe, finished: Mapping[str, Finished]) -> str:
    seconds = [each.seconds for each in finished.values()]
    shown = " | ".join(format_time(each) for each in [*seconds, sum(seconds)])
    return TIMES.format(
        seed=recipe.seed,
        processor=find_processor(),
        stages=" | ".join(finished),
        rules="---|" * len(seconds),
        times=shown,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])

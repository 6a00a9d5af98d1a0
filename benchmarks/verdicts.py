"""Measure how often the report's verdicts are wrong, on simulated evaluations: the tables of docs/evaluation.md.

    python benchmarks/verdicts.py [--runs 500]

`tests/plugins/made_up_evaluations.py` describes the simulated judges. Each rate is of `runs` evaluations, or of half as
many with 400 captions. At a rate of 2.5 % and 500 runs the standard error is 0.7 %.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "plugins"))

from made_up_evaluations import KINDS, SCORERS, Evaluated, evaluate

INDEPENDENT = ("one", "two", "three", "four")
COUNTS = (20, 50, 100, 400)
RESAMPLES = 399


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    runs = parser.parse_args().runs
    print("| nothing gained | captions | Better | Worse or Mixed |\n|---|---|---|---|", flush=True)
    for kind in KINDS:
        for judges in (1, 4):
            for count in COUNTS:
                found = _evaluated(count, runs, dict.fromkeys(INDEPENDENT[:judges], 0.0), kind)
                better, other = _rate(found, _is("better")), _rate(found, _is("worse", "mixed"))
                print(f"| {kind}, {judges} judges | {count} | {better} | {other} |", flush=True)
    print("\n| gain of the 3 scores / of the judge | captions | Better | alarm |\n|---|---|---|---|", flush=True)
    for scores, judge in ((0.0, 0.0), (0.25, 0.25), (0.25, 0.125), (0.25, 0.0)):
        for count in (50, 100, 200, 400):
            found = _evaluated(count, runs // 4, {**dict.fromkeys(SCORERS, scores), "one": judge}, "questions")
            better, alarm = _rate(found, _is("better")), _rate(found, lambda each: each.is_hacked)
            print(f"| {scores} / {judge} | {count} | {better} | {alarm} |", flush=True)


def _evaluated(count: int, runs: int, gains: Mapping[str, float], kind: str) -> list[Evaluated]:
    draws = np.random.default_rng([count, len(gains), *kind.encode()])
    return [
        evaluate(draws, count, gains, kind=kind, resamples=RESAMPLES)
        for _ in range(runs if count < COUNTS[-1] else runs // 2)
    ]


def _is(*tones: str) -> Callable[[Evaluated], bool]:
    return lambda each: each.verdict.tone in tones


def _rate(found: list[Evaluated], holds: Callable[[Evaluated], bool]) -> str:
    return f"{100 * sum(map(holds, found)) / len(found):.1f} %"


if __name__ == "__main__":
    main()

"""Reward hacking over rounds: a judge that the method trains on rises while the watched judge falls."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

from agfsync.recipe import Recipe
from agfsync.records import derive_seed
from agfsync.stages.report.verdict import Alarm, format_points, is_significant
from agfsync.statistics import FEWEST_FOR_VERDICT, adjust_holm, infer_mean


def find_watched(recipe: Recipe) -> tuple[str, str | None]:
    """Return the evaluation set and the judge that watch the rounds: those of `stop`, or the first not trained on."""
    stop = None if recipe.rounds is None else recipe.rounds.stop
    if stop is not None:
        return stop.set, stop.by
    name = recipe.evaluation.first_set
    return name, next((judge for judge in recipe.set_scorers(name) if judge not in recipe.teachers), None)


def find_round_alarms(values: Mapping[str, Sequence[Mapping[str, float]]], watched: str, resamples: int) -> list[Alarm]:
    """Return an alarm for each round that fell below an earlier one by `watched` while a judge trained on rose.

    Each round is compared with the base and each earlier round, paired by caption. The p-values are corrected (Holm)
    over all comparisons and judges; at least `FEWEST_FOR_VERDICT` captions are needed.

    Args:
        values: judge -> the values by caption of the base and of each round; all judges but `watched` are trained on.
    """
    moves: dict[tuple[str, int, int], float] = {}
    p_values: dict[tuple[str, int, int], float | None] = {}
    for judge, rounds in values.items():
        for (i, before), (j, after) in combinations(enumerate(rounds), 2):
            gains = list_gains(before, after)
            if len(gains) >= FEWEST_FOR_VERDICT:
                moves[judge, i, j] = fmean(gains)
                p_values[judge, i, j] = infer_mean(gains, resamples, derive_seed("rounds", judge, i, j)).p
    significant = {key: moves[key] for key, p in adjust_holm(p_values).items() if is_significant(p)}
    alarms: dict[int, Alarm] = {}
    for (judge, i, j), fall in sorted(significant.items(), key=lambda move: move[1]):
        risen = {name: rise for (name, *of), rise in significant.items() if of == [i, j] and rise > 0}
        if judge == watched and fall < 0 and risen and j not in alarms:
            rises = ", ".join(f"{name} by {format_points(rise)}" for name, rise in risen.items())
            since = f"round {i}" if i else "the base"
            text = f"From {since} to round {j} the method raised {rises}, while {watched} fell by {abs(fall):.1f}."
            alarms[j] = Alarm(f"Reward hacking? Round {j} is worse by the watched judge", text)
    return [alarms[number] for number in sorted(alarms)]


def list_gains(before: Mapping[str, float], after: Mapping[str, float]) -> list[float]:
    """Return the differences (after - before) on the captions that both have."""
    return [value - before[caption] for caption, value in after.items() if caption in before]

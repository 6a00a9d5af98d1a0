"""The table of a study: a cell for each arm, evaluation set and judge; as Parquet, Markdown and LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq

from agfsync.files.atomic import write_atomic
from agfsync.records import derive_seed
from agfsync.statistics import FEWEST_FOR_VERDICT, adjust_holm, infer_mean_over_seeds
from agfsync.study.judged import JudgedValues
from agfsync.study.settings import Study
from agfsync.study.values import ArmResult, StudyResults

BASE = "base"


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference with its 95 % interval; `p` is corrected (Holm) over the cells of its kind."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """The values of one arm by one judge on one evaluation set, on 0..100.

    `gain` is the difference from the base and `over` the one from the study's `against`, both paired by caption and
    seed. An arm without values has one cell without a set and a judge. `seconds` is the mean training time, `memory`
    the largest peak in bytes; `state` names the seeds that failed or are missing, with the reasons.
    """

    arm: str
    set: str = ""
    judge: str = ""
    seeds: int = 0
    captions: int = 0
    mean: float | None = None
    gain: Difference = Difference()
    over: Difference = Difference()
    seconds: float | None = None
    memory: int | None = None
    state: str = "done"


_DIFFERENCE = [(name, pa.float64()) for name in ("value", "low", "high", "p")]
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("arm", "set", "judge")),
        *((name, pa.int64()) for name in ("seeds", "captions")),
        ("mean", pa.float64()),
        *((f"{kind}_{name}".removesuffix("_value"), type_) for kind in ("gain", "over") for name, type_ in _DIFFERENCE),
        ("seconds", pa.float64()),
        ("memory", pa.int64()),
        ("state", pa.string()),
    ]
)


def make_cells(results: StudyResults) -> list[Cell]:
    """Return the cells of the base, then those of each arm in the order of the study."""
    judged = results.list_judged()
    base = {seed: ArmResult(next(iter(results.arms.values()))[seed].status, v) for seed, v in results.base.items()}
    cells = _make_arm_cells(results, BASE, base, judged)
    for name, by_seed in results.arms.items():
        cells += _make_arm_cells(results, name, by_seed, judged) or [Cell(name)]
        states = describe_states(by_seed)
        count = len({result.status.arm.seed for result in by_seed.values() if result.values})
        cells = [replace(c, state=states, seeds=count) if c.arm == name else c for c in cells]
    return _correct_p_values(cells)


def describe_states(by_seed: Mapping[int, ArmResult]) -> str:
    """Return "done", or the seeds that aren't done with the reasons."""
    reasons: dict[str, list[str]] = {}
    for seed, result in by_seed.items():
        status = result.status
        if status.state != "done":
            reasons.setdefault(": ".join(filter(None, (status.state, status.detail))), []).append(str(seed))
    return "; ".join(f"seed {', '.join(seeds)} {reason}" for reason, seeds in reasons.items()) or "done"


def _make_arm_cells(
    results: StudyResults, name: str, by_seed: Mapping[int, ArmResult], judged: Sequence[tuple[str, str]]
) -> list[Cell]:
    study, times = results.study, [result.seconds for result in by_seed.values() if result.seconds is not None]
    peaks = [result.memory for result in by_seed.values() if result.memory is not None]
    rival = None if name == BASE else study.find_rival(name)
    rival_values = {seed: result.values for seed, result in results.arms.get(rival or "", {}).items()}
    cells = []
    for key in judged:
        ours = {seed: result.values[key] for seed, result in by_seed.items() if key in result.values}
        if not ours:
            continue
        cells.append(
            Cell(
                arm=name,
                set=key[0],
                judge=key[1],
                seeds=len(ours),
                captions=len({caption for values in ours.values() for caption in values}),
                mean=fmean(fmean(values.values()) for values in ours.values()),
                gain=Difference() if name == BASE else _compare(study, name, key, ours, results.base),
                over=Difference() if rival is None else _compare(study, name, key, ours, rival_values),
                seconds=fmean(times) if times else None,
                memory=max(peaks) if peaks else None,
            )
        )
    return cells


def _compare(
    study: Study,
    name: str,
    key: tuple[str, str],
    ours: Mapping[int, Mapping[str, float]],
    others: Mapping[int, JudgedValues],
) -> Difference:
    """Return the mean difference over the common seeds and captions."""
    theirs = {seed: values[key] for seed, values in others.items() if key in values}
    pairs = {seed: [c for c in ours[seed] if c in theirs[seed]] for seed in ours if seed in theirs}
    if study.is_crossed and pairs:
        common = set.intersection(*(set(captions) for captions in pairs.values()))
        pairs = {seed: [c for c in sorted(captions) if c in common] for seed, captions in pairs.items()}
    rows = [[ours[seed][c] - theirs[seed][c] for c in captions] for seed, captions in pairs.items() if captions]
    if not rows:
        return Difference()
    seed = derive_seed("study", name, *key)
    interval, p = infer_mean_over_seeds(rows, study.resamples, seed, crossed=study.is_crossed)
    low, high = interval or (None, None)
    tested = min(map(len, rows)) >= FEWEST_FOR_VERDICT
    return Difference(fmean(fmean(row) for row in rows), low, high, p if tested else None)


def _correct_p_values(cells: Sequence[Cell]) -> list[Cell]:
    gains = adjust_holm({i: cell.gain.p for i, cell in enumerate(cells)})
    overs = adjust_holm({i: cell.over.p for i, cell in enumerate(cells)})
    return [
        replace(cell, gain=replace(cell.gain, p=gains[i]), over=replace(cell.over, p=overs[i]))
        for i, cell in enumerate(cells)
    ]


def write_table(cells: Sequence[Cell], path: Path) -> None:
    """Write the cells as a Parquet file with one row for each."""
    rows = []
    for cell in cells:
        row = asdict(cell)
        for kind in ("gain", "over"):
            row |= {f"{kind}_{name}".removesuffix("_value"): value for name, value in row.pop(kind).items()}
        rows.append(row)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink)
    write_atomic(path, sink.getvalue().to_pybytes())


def format_markdown(cells: Sequence[Cell], study: Study) -> str:
    """Return a table for each evaluation set: gains over the base with their intervals, one row for each arm."""
    lines: list[str] = []
    for name, heads, rows in _list_tables(cells, study, lambda text, shown: f"**{text}**" if shown else text):
        lines += [f"### {name}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join([*lines, *_list_remarks(cells, study)])


def format_latex(cells: Sequence[Cell], study: Study) -> str:
    """Return the tables of `format_markdown` in LaTeX, with the rules of the package booktabs."""
    lines: list[str] = []
    for name, heads, rows in _list_tables(cells, study, lambda text, shown: f"\\textbf{{{text}}}" if shown else text):
        lines += [f"% {name}", f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", "\\toprule"]
        lines += [" & ".join(map(_escape_latex, heads)) + r" \\", "\\midrule"]
        lines += [" & ".join(map(_escape_latex, row)) + r" \\" for row in rows]
        lines += ["\\bottomrule", "\\end{tabular}", ""]
    return "\n".join([*lines, *(f"% {remark.strip()}" for remark in _list_remarks(cells, study))])


def _escape_latex(text: str) -> str:
    for sign in "%&_#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("—", "---").replace("−", "$-$")


def _list_tables(
    cells: Sequence[Cell], study: Study, mark: Callable[[str, bool], str]
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return each evaluation set with its column heads and rows; `mark` highlights a significant difference."""
    tables = []
    for name in dict.fromkeys(cell.set for cell in cells if cell.set):
        judges = list(dict.fromkeys(cell.judge for cell in cells if cell.set == name))
        rival_judges = judges if study.rival else []
        over_heads = [f"{judge}, over {study.rival}" for judge in rival_judges]
        heads = ["arm", "seeds", *judges, *over_heads, "training", "memory"]
        rows = []
        for arm in dict.fromkeys(cell.arm for cell in cells):
            by_judge = {cell.judge: cell for cell in cells if cell.arm == arm and cell.set in ("", name)}
            first = next(iter(by_judge.values()))
            row = [arm, str(first.seeds) if arm != BASE else ""]
            row += [_format_cell(by_judge.get(judge), arm, mark) for judge in judges]
            row += [
                _format_difference(by_judge[judge].over, mark) if judge in by_judge else "—" for judge in rival_judges
            ]
            row += ["—" if first.seconds is None else f"{first.seconds:.0f} s"]
            rows.append([*row, "—" if first.memory is None else f"{first.memory / 2**30:.1f} GiB"])
        tables.append((name, heads, rows))
    return tables


def _format_cell(cell: Cell | None, arm: str, mark: Callable[[str, bool], str]) -> str:
    if cell is None or cell.mean is None:
        return "—"
    return f"{cell.mean:.1f}" if arm == BASE else _format_difference(cell.gain, mark)


def _format_difference(difference: Difference, mark: Callable[[str, bool], str]) -> str:
    if difference.value is None:
        return "—"
    text = mark(f"{difference.value:+.1f}", difference.p is not None and difference.p <= 0.05)
    return text if difference.low is None else f"{text} [{difference.low:+.1f}, {difference.high:+.1f}]"


def _list_remarks(cells: Sequence[Cell], study: Study) -> list[str]:
    """Return a description of the figures, and the arms that have failed or are missing."""
    return [describe_method(study), *(f"\n{arm}: {state}." for arm, state in list_states(cells).items())]


def list_states(cells: Sequence[Cell]) -> dict[str, str]:
    """Return, for each incomplete arm, the seeds that have failed or are missing, with the reasons."""
    return {cell.arm: cell.state for cell in cells if cell.state != "done"}


def describe_method(study: Study) -> str:
    """Return the sentences on how the cells were computed."""
    key, seeds = study.varied
    captions = "the same captions under every seed" if study.is_crossed else "captions of their own under each seed"
    several = (
        f"over {len(seeds)} values of {key}, with {captions}: the wider of Student's t (degrees of freedom by "
        f"Satterthwaite) and a hierarchical bootstrap over seeds and captions, {study.resamples:,} resamples"
        if len(seeds) > 1
        else f"over captions, under one value of {key}: other seeds may give other gains"
    )
    over = f" The columns over {study.rival} are the differences to that {study.unit}, corrected likewise."
    return (
        f"The line of the base has its mean values; the others have mean gains over it, paired by caption and seed, "
        f"with 95 % intervals {several}. Marked gains have p at most 0.05, corrected by Holm over all {study.unit}s, "
        f"judges and sets of the table.{over if study.rival else ''}"
    )

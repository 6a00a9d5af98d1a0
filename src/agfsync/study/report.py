"""The results of a study: the table, and its self-contained page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agfsync import __version__
from agfsync.files.atomic import write_atomic
from agfsync.records import Caption
from agfsync.stages.report.evidence import read_images, read_steps
from agfsync.stages.report.figures import Curves, Direction, Effect, Scatter, make_forest, make_lines, make_scatter
from agfsync.stages.report.galleries import make_data_uris
from agfsync.stages.report.page import make_environment
from agfsync.stages.report.training import Panel
from agfsync.stages.report.verdict import Alarm, is_significant
from agfsync.store import Run
from agfsync.study.rounds import locate_runs
from agfsync.study.settings import Arm, Study
from agfsync.study.table import BASE, Cell, Difference, describe_method, list_states, make_cells, write_table
from agfsync.study.values import StudyResults, gather_results

OBJECTIVE_METRICS = {"reward": "Reward", "implicit_accuracy": "Implicit accuracy"}
"""The metrics that methods maximise, with the titles of their charts."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of arms; the order of the arms in the study determines their colours."""

    title: str
    figure: Curves | Scatter
    text: str = ""


@dataclass(frozen=True, slots=True)
class Strip:
    """A caption with one image of each arm: the arm, the image's key in the URIs, and its value by the lead."""

    caption: str
    images: Sequence[tuple[str, str, float | None]]


def write_results(path: Path, study: Study) -> list[Alarm]:
    """Write the table and the page of the arms that are done in the study at `path`; return the page's alarms."""
    results = gather_results(path, study)
    cells, alarms = make_cells(results), study.find_alarms(results)
    write_table(cells, path / study.table_file)
    write_atomic(path / study.page_file, render_study(results, cells, path, alarms).encode())
    return alarms


def render_study(results: StudyResults, cells: Sequence[Cell], path: Path, alarms: Sequence[Alarm] = ()) -> str:
    """Return the page; all texts are escaped."""
    first = next((cell.set for cell in cells if cell.set), "")
    lead, arms = _choose_lead(results, first), results.study.resolve_arms()
    strips, uris = _make_strips(results, arms, path, first, lead)
    context = {
        "version": __version__,
        "study": results.study,
        "seeds": results.study.varied,
        "method": describe_method(results.study),
        "states": list_states(cells),
        "alarms": alarms,
        "reports": {arm.name: page for arm in reversed(arms) if (page := _find_report(arm, path))},
        "sets": list(dict.fromkeys(cell.set for cell in cells if cell.set)),
        "cells": cells,
        "lead": lead,
        "arms": [BASE, *results.arms],
        "gains": _plot_differences(cells, first, "gain"),
        "overs": _plot_differences(cells, first, "over"),
        "pair": _plot_two_judges(cells, first),
        "shares": _plot_shares(results.study, cells, first),
        "steps": _plot_steps(results, arms, path),
        "strips": strips,
        "uris": uris,
    }
    return make_environment("agfsync.study").get_template("study.html.j2").render(context)


def _find_report(arm: Arm, path: Path) -> str:
    """Return the path of an arm's own report, relative to the study's page; empty if there is none."""
    report = locate_runs(arm, path)[-1] / "report.html"
    return report.relative_to(path).as_posix() if report.exists() else ""


def _choose_lead(results: StudyResults, name: str) -> str:
    """Return the first judge of a set that no arm uses before the evaluation; else one that none trains on, or any."""
    judges = [judge for of, judge in results.list_judged() if of == name]
    recipes = [arm.recipe for arm in results.study.resolve_arms()]
    trained_on = {judge for recipe in recipes for judge in recipe.teachers}
    used = trained_on | {judge for recipe in recipes for judge in recipe.candidate_scorers}
    order = [judge for unwanted in (used, trained_on, set[str]()) for judge in judges if judge not in unwanted]
    return next(iter(order), "")


def _plot_differences(cells: Sequence[Cell], name: str, kind: str) -> list[Panel]:
    """Return a forest plot for each judge of a set, a row for each arm."""
    panels = []
    for judge in dict.fromkeys(cell.judge for cell in cells if cell.set == name):
        differences = [(c, getattr(c, kind)) for c in cells if (c.set, c.judge) == (name, judge)]
        effects = [_make_effect(cell.arm, each, cell.captions) for cell, each in differences if each.value is not None]
        panels += [Panel(judge, make_forest(effects))] if effects else []
    return panels


def _make_effect(name: str, difference: Difference, captions: int) -> Effect:
    value = difference.value or 0.0
    tone: Direction = ("up" if value > 0 else "down") if value and is_significant(difference.p) else "flat"
    return Effect(name, value, difference.low, difference.high, tone, f"{captions:,}", difference.p)


def _plot_two_judges(cells: Sequence[Cell], name: str) -> Chart | None:
    """Plot the arms' gains by the aesthetic judge against those by the VQA judge, or by two other judges."""
    judges = list(dict.fromkeys(cell.judge for cell in cells if cell.set == name))
    preferred = [judge for judge in ("vqa", "aesthetic") if judge in judges]
    x, y = [*preferred, *(judge for judge in judges if judge not in preferred), "", ""][:2]
    gains = {(cell.arm, cell.judge): cell.gain for cell in cells if cell.set == name}
    points = {}
    for arm in dict.fromkeys(cell.arm for cell in cells):
        x_gain, y_gain = gains.get((arm, x), Difference()).value, gains.get((arm, y), Difference())
        if x_gain is not None and y_gain.value is not None:
            points[arm] = (x_gain, y_gain.value, y_gain.low, y_gain.high)
    return (
        Chart(f"{y} over {x}", make_scatter(points), f"Gains by {x} to the right, by {y} upwards.") if points else None
    )


def _plot_shares(study: Study, cells: Sequence[Cell], name: str) -> list[Chart]:
    """Plot, for each judge, the arms' gains against the study's numeric factor, such as the share of pairs."""
    factors, charts = study.list_places(), []
    for judge in dict.fromkeys(cell.judge for cell in cells if cell.set == name):
        gains = {c.arm: c.gain for c in cells if (c.set, c.judge) == (name, judge) and c.arm in factors}
        points = {a: (factors[a], g.value, g.low, g.high) for a, g in gains.items() if g.value is not None}
        if len(points) > 1:
            charts.append(Chart(judge, make_scatter(points), f"{study.along.capitalize()} to the right, gain upwards."))
    return charts


def _plot_steps(results: StudyResults, arms: Sequence[Arm], path: Path) -> list[Chart]:
    """Plot what the methods maximise, and the watched judges, over the steps; a line for each arm, first seed only."""
    logs: dict[str, list[dict[str, float]]] = {}
    for arm in arms:
        if arm.name not in logs and results.arms[arm.name][arm.seed].values and not arm.is_seedless:
            with Run.open(locate_runs(arm, path)[-1]) as run:
                logs[arm.name] = read_steps(run)
    logged = dict.fromkeys(name for steps in logs.values() for step in steps for name in step)
    titles = OBJECTIVE_METRICS | {name: f"Watched judge: {name[8:]}" for name in logged if name.startswith("watched_")}
    charts = []
    for metric, title in titles.items():
        series = {
            arm: ([step["step"] for step in logged_steps], [step[metric] for step in logged_steps])
            for arm, steps in logs.items()
            if len(logged_steps := [step for step in steps if metric in step]) > 1
        }
        figure = make_lines(series)
        charts += [Chart(title, figure, "Along the training steps, under the first seed.")] if figure else []
    return charts


def _make_strips(
    results: StudyResults, arms: Sequence[Arm], path: Path, name: str, lead: str
) -> tuple[list[Strip], Mapping[str, str]]:
    """Return captions with the base's and each arm's image of the same seed, and the images as data URIs."""
    seed = results.study.varied[1][0]
    values = {BASE: results.base.get(seed, {}).get((name, lead), {})}
    places = {BASE: (results.study.locate_base(path, seed), "base")}
    for arm in arms:
        by_caption = results.arms[arm.name][arm.seed].values.get((name, lead))
        if arm.seed == seed and by_caption:
            values[arm.name] = by_caption
            places[arm.name] = (locate_runs(arm, path)[-1], "base" if arm.trains_nothing else "aligned")
    shared = sorted(set.intersection(*(set(by_caption) for by_caption in values.values())))[: results.study.examples]
    images: dict[str, bytes] = {}
    for arm_name, (folder, side) in places.items() if shared else ():
        with Run.open(folder) as run:
            rows = run.rows("evaluation_images", ["key", "caption_key", "generator"])
            keys = {r["key"]: r["caption_key"] for r in rows if r["generator"] == side and r["caption_key"] in shared}
            images |= {
                f"{arm_name}/{keys[key]}": file for key, file in read_images(run, "evaluation_images", keys).items()
            }
    texts = _read_texts(places[BASE][0]) if shared else {}
    return [
        Strip(texts.get(key, key), [(arm_name, f"{arm_name}/{key}", values[arm_name].get(key)) for arm_name in places])
        for key in shared
    ], make_data_uris(images)


def _read_texts(path: Path) -> dict[str, str]:
    with Run.open(path) as run:
        tables: tuple[Any, ...] = (run.read("captions", Caption), run.read("evaluation_captions", Caption))
        return {caption.key: caption.text for table in tables for caption in table}

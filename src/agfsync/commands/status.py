"""The state of a run as text: its stages, the results of the reward model and the evaluation, and the report's path."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agfsync import pipeline
from agfsync.engine.progress import format_duration
from agfsync.statistics import FEWEST_FOR_VERDICT


def list_status_lines(path: Path) -> Iterator[str]:
    """Yield the state of each stage of the run at `path`, the results of finished stages, and the report's path.

    Raises:
        RunError: there is no run.
    """
    stages = pipeline.read_status(path)
    yield from map(_format_status, stages)
    notes = {stage.name: stage.finished.notes for stage in stages if stage.state == "done" and stage.finished}
    if "reward" in notes:
        from agfsync.commands.judge import format_accuracy  # few runs need it

        yield from (format_accuracy(judge, figures) for judge, figures in notes["reward"]["accuracy"][""].items())
    if "evaluation" in notes:
        yield from (format_finding(judge, figures) for judge, figures in notes["evaluation"]["judges"].items())
        for name, of_set in notes["evaluation"].get("sets", {}).items():
            yield from (f"{name}: {format_finding(judge, figures)}" for judge, figures in of_set["judges"].items())
        yield f"verdict: {pipeline.read_headline(path)}"
    for control, judges in notes["controls"]["controls"].items() if "controls" in notes else ():
        yield from (_format_control(control, judge, figures) for judge, figures in judges.items())
    if (path / "report.html").exists():
        yield f"report: {path / 'report.html'}"
    if (path / "rounds.html").exists():
        from agfsync.commands.study import format_study_status

        yield f"{format_study_status(path)}\nrounds: {path / 'rounds.html'}"


def _format_control(control: str, judge: str, figures: Mapping[str, Any]) -> str:
    """Return a line with a judge's comparison of the aligned model with a control."""
    if not figures["prompts"]:
        return f"{judge:<11} has judged no caption of the control {control}"
    interval = "" if figures["low"] is None else f" ({figures['low']:+.1f} to {figures['high']:+.1f})"
    means = f"{figures['control']:.1f} -> {figures['aligned']:.1f}"
    return f"{judge:<11} control {control} {means}: {figures['difference']:+.1f}{interval}"


def _format_status(stage: pipeline.StageStatus) -> str:
    finished = stage.finished
    if finished is None:
        return f"{stage.name:<11} {stage.state}" + (f", {stage.units} units" if stage.units else "")
    parts = [f"{finished.rows} rows" if finished.rows else "", format_duration(finished.seconds)]
    parts += [f"{finished.skipped} skipped"] if finished.skipped else []
    return f"{stage.name:<11} {stage.state:<12} " + ", ".join(part for part in parts if part)


def format_finding(judge: str, figures: Mapping[str, Any]) -> str:
    """Return a judge's means over the held-out captions, their difference and the win rate, with 95 % intervals."""
    difference = f"{figures['base']:.1f} -> {figures['aligned']:.1f}: {figures['difference']:+.1f}"
    if figures["low"] is not None:
        difference += f" ({figures['low']:+.1f} to {figures['high']:+.1f})"
    rate, low, high, ties = (f"{100 * figures[name]:.0f}" for name in ("win_rate", "win_low", "win_high", "ties"))
    line = f"{judge:<11} {difference}, win rate {rate} % ({low} to {high}), ties {ties} %"
    if figures["prompts"] < FEWEST_FOR_VERDICT:
        line += f"; too few captions to tell ({figures['prompts']} of {FEWEST_FOR_VERDICT})"
    return line

"""The report's section on the training: a chart of every logged metric, with remarks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agfsync.stages.report.evidence import Evidence
from agfsync.stages.report.figures import Curves, Forest, Histogram, make_curves


@dataclass(frozen=True, slots=True)
class Panel:
    """A small chart with its title and its explanation."""

    title: str
    figure: Curves | Histogram | Forest
    text: str = ""


@dataclass(frozen=True, slots=True)
class MetricChart:
    """A chart of a training: metrics with their labels, the value that means "nothing learnt", and a text."""

    title: str
    names: Mapping[str, str]
    reference: float | None = None
    text: str = ""


OBJECTIVE_CHARTS = (
    MetricChart("Reward", {"reward": "reward"}, None, "Mean over the images that a step draws."),
    MetricChart(
        "Implicit accuracy",
        {"implicit_accuracy": "accuracy"},
        0.5,
        "Share of pairs whose winner the model now prefers.",
    ),
)
"""Charts of the metrics that methods maximise."""
CHARTS = (
    MetricChart(
        "Denoising error",
        {"winner_error_change": "winner", "loser_error_change": "loser"},
        0.0,
        "Change against the reference. Below 0 the model draws that image more readily than the base does.",
    ),
    MetricChart("Gradient norm", {"gradient_norm": "norm"}, None, "Before clipping."),
    MetricChart("Learning rate", {"learning_rate": "rate"}),
)
"""Charts of metrics that several methods log; every other metric has a plain chart."""
UNCHARTED = {"step", "seconds", "watch_seconds"}


def plot_training(evidence: Evidence) -> list[Panel]:
    """Return the curves of all metrics: first the watched judge's, then what the method maximises, then the others."""
    steps = evidence.steps
    if not steps:
        return []
    metrics = {name: None for step in steps for name in step if name not in UNCHARTED}
    charts = [*_list_watched_charts(evidence), *OBJECTIVE_CHARTS, _chart_loss(steps), *CHARTS]
    charted = {name for chart in charts if chart.names.keys() <= metrics.keys() for name in chart.names}
    others = [name for name in metrics if name not in charted]
    plain = [MetricChart(name.replace("_", " ").capitalize(), {name: name}) for name in others]
    numbers = [step.get("step", number) for number, step in enumerate(steps)]
    panels = []
    for chart in [*charts, *plain]:
        numbered = zip(numbers, steps, strict=True)
        logged = [(number, step) for number, step in numbered if chart.names.keys() <= step.keys()]
        series = {label: [step[name] for _, step in logged] for name, label in chart.names.items()}
        figure = make_curves([number for number, _ in logged], series, chart.reference, (numbers[0], numbers[-1]))
        panels.extend([Panel(chart.title, figure, chart.text)] if figure else [])
    return panels


def _chart_loss(steps: Sequence[Mapping[str, float]]) -> MetricChart:
    """Return the chart of the loss: most losses on pairs begin at ln 2, before the model prefers any winner."""
    first = next((step for step in steps if "loss" in step), {})
    if "implicit_accuracy" in first and abs(first["loss"] - math.log(2)) < 0.05:
        text = "Dashed: ln 2, the loss of a model that has learnt nothing."
        return MetricChart("Loss", {"loss": "loss"}, math.log(2), text)
    return MetricChart("Loss", {"loss": "loss"})


def _list_watched_charts(evidence: Evidence) -> list[MetricChart]:
    watch = evidence.recipe.training.watch
    if watch is None:
        return []
    text = f"Mean of {watch.captions} held-out captions, by a judge that nothing trains on; step 0 is the base."
    return [MetricChart(f"Watched judge: {watch.by}", {watch.metric: watch.by}, None, text)]


def describe_watch(evidence: Evidence) -> str:
    """Return a text on the early stop of the training by the watched judge; empty if it wasn't stopped."""
    notes = evidence.finished["training"].notes.get("watch", {}) if "training" in evidence.finished else {}
    if "stopped_at" not in notes:
        return ""
    judge, best, last = notes["judge"], notes["best"], notes["last"]
    return (
        f"Stopped at step {notes['stopped_at']}: {judge}, which nothing trains on, fell from {best:.1f} at step "
        f"{notes['best_step']} to {last:.1f}, while what the method raises did not fall. The model has the weights of "
        f"step {notes['best_step']}. They were chosen by {judge} on held-out captions, so its gain there is a little "
        f"too high."
    )


def describe_errors(steps: Sequence[Mapping[str, float]]) -> str:
    """Return a text on the winner's own error, since the margin can grow while both images get worse."""
    last = [step["winner_error_change"] for step in steps[-max(1, len(steps) // 10) :] if "winner_error_change" in step]
    if not last:
        return ""
    if sum(last) > 0:
        return (
            "At the end the winner’s own error lay above the reference’s: the margin grew only because the loser’s "
            "rose further. training.method.sft_weight, fewer steps or a lower learning rate keep it down."
        )
    return "At the end the winner’s own error lay below the reference’s, as it should: the model learnt the winners."

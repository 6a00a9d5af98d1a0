"""Watching a training: a judge that nothing trains on scores images during the training, and may end it.

A method raises its reward even if the images get worse (reward hacking). An independent judge detects this: if its
score falls while the reward rises, the training ends with the weights of the best measured step.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from torch import Tensor

from agfsync.training.best_weights import BestWeights, Measured
from agfsync.training.state import TrainingState, use_result

LogLine = Mapping[str, float]
"""The metrics of a step."""
RAISED = ("reward", "implicit_accuracy")
"""Metrics that methods raise; the first one that a method logs is used, and minus its loss if it logs neither."""
ERRORS = 1.645
"""The standard errors by which a judge's score must have fallen: one-sided, at 5 %, for one comparison."""


def subtract_common(values_N: Tensor, others_N: Tensor) -> Tensor:
    """Return the differences `values_N` - `others_N` for the captions that have both, float64 (M,)."""
    difference_N = values_N - others_N
    return difference_N[difference_N.isfinite()]


def is_better(values_N: Tensor, best_N: Tensor | None) -> bool:
    """Return True if the mean score is above the best one, over the captions that have both.

    Without a best measurement, return True if any caption has a score.
    """
    if best_N is None:
        return bool(values_N.isfinite().any())
    difference_M = subtract_common(values_N, best_N)
    return len(difference_M) > 0 and float(difference_M.mean()) > 0


def has_fallen(values_N: Tensor, best_N: Tensor) -> bool:
    """Return True if the mean score is below the best one by more than 1.645 standard errors of their difference.

    The difference is paired over the captions that have both scores; with fewer than two, return False. The level is
    that of one comparison: with many measurements a fall by chance is more likely, also because the best measurement
    may be the best only by chance.
    """
    difference_M = subtract_common(values_N, best_N)
    if len(difference_M) < 2:
        return False
    error = float(difference_M.std(correction=1)) / len(difference_M) ** 0.5
    mean = float(difference_M.mean())
    return mean < 0 and mean < -ERRORS * error


def average_raised(lines: Sequence[LogLine], step: int, metric: str) -> float:
    """Return the mean of the metric that the method raises, from the measurement before `step` (exclusive) to `step`.

    The metric is `reward` if the method logs it, else `implicit_accuracy`, else minus `loss`. For step 0, the base, the
    value of step 1 is returned, which is computed before the first update.

    Args:
        lines: the metrics of all steps up to `step`, and for step 0 up to step 1.
        metric: the name of the watched judge's metric, which only the lines of measured steps have.
    """
    before = max((line["step"] for line in lines if metric in line and line["step"] < step), default=0)
    span = [line for line in lines if before < line["step"] <= step] or [line for line in lines if line["step"] == 1]
    name = next((name for name in RAISED if all(name in line for line in span)), None)
    return fmean(line[name] if name else -line["loss"] for line in span)


@dataclass(slots=True)
class Watcher:
    """Measures a judge every `every` steps, and decides when to stop.

    `measure` draws images with the current network and returns their scores, float64 (N,), NaN where the judge gives no
    score. Without `best` the training is never stopped. Only the first of several processes measures.
    """

    judge: str
    metric: str
    every: int
    measure: Callable[[], Tensor]
    best: BestWeights | None = None
    has_to_stop: bool = False
    _lines: list[LogLine] = field(default_factory=list)
    _best: Measured | None = None

    def resume(self, lines: Sequence[LogLine], done: int) -> None:
        """Resume the watch after `done` steps; `lines` are their metrics."""
        self._lines = list(lines)
        self._best = self.best.find(done) if self.best else None

    def is_due(self, step: int, steps: int) -> bool:
        """Return True if the network is measured after step `step` of `steps`."""
        return step % self.every == 0 or step == steps

    def may_stop_at(self, step: int, steps: int) -> bool:
        """Return True if the training may end after `step`, so that the processes must agree on it."""
        return self.best is not None and self.is_due(step, steps)

    def prune(self, steps: Collection[int]) -> None:
        """Delete the weights that a training resumed from one of `steps` doesn't need; without steps, delete all."""
        if self.best is not None:
            self.best.prune(steps)

    def observe(self, line: LogLine, steps: int, state: TrainingState) -> LogLine:
        """Return the metrics of a step, with the judge's if it is measured after this step, and decide when to stop.

        `state` is the state after the step. If there is an average of the weights, the average is measured.
        """
        step = int(line["step"])
        if not self.is_due(step, steps):
            self._lines.append(line)
            return line
        started = time.perf_counter()
        with use_result(state) as weights:
            found = Measured(step, self.measure())
            improved = is_better(found.values_N, self._best.values_N if self._best else None)
            if self.best and improved:
                self.best.save(found, weights)
        line = {**line, **self._make_figures(found), "watch_seconds": time.perf_counter() - started}
        self._lines.append(line)
        self.has_to_stop = self.best is not None and self._must_end(found)
        self._best = found if improved else self._best
        return line

    def _make_figures(self, found: Measured) -> LogLine:
        """Return the mean score if there is one, and the share of captions without a score if it is above 0."""
        unscored = 1 - float(found.values_N.isfinite().double().mean())
        figures = {self.metric: found.mean} if unscored < 1 else {}
        return figures | ({f"{self.metric}_unscored": unscored} if unscored else {})

    def _must_end(self, found: Measured) -> bool:
        if self._best is None or not has_fallen(found.values_N, self._best.values_N):
            return False
        now, then = (average_raised(self._lines, step, self.metric) for step in (found.step, self._best.step))
        return now >= then

    def end(self) -> str:
        """Record the end of the training, and return the message about it."""
        assert self.best is not None and self._best is not None
        last = self._lines[-1]
        self.best.end(self._best.step, int(last["step"]))
        return (
            f"training stopped at step {last['step']:.0f}: {self.judge} fell to {last[self.metric]:.1f} from "
            f"{self._best.mean:.1f} at step {self._best.step}, whose weights are the result"
        )

    def find_result(self) -> tuple[int, int] | None:
        """Return the step with the resulting weights and the step at which the watch ended the training, or None."""
        return self.best.find_end() if self.best else None

    def find_end(self) -> int | None:
        """Return the step at which the watch ended the training; None if it didn't."""
        found = self.find_result()
        return None if found is None else found[1]

    def load_result(self, state: TrainingState) -> bool:
        """Copy the best weights into the network if the watch ended the training; return True if it did."""
        found = self.find_result()
        if self.best is None or found is None:
            return False
        self.best.load(found[0], state.parameters)
        return True


def summarize_watch(judge: str, metric: str, lines: Sequence[LogLine], ended: tuple[int, int] | None) -> dict[str, Any]:
    """Return the notes on a watch: the base's mean, and the best and the last mean with their steps.

    `ended` is the step with the resulting weights and the step at which the watch ended the training; None if it
    didn't.
    """
    means = {int(line["step"]): line[metric] for line in lines if metric in line}
    if not means:
        return {"judge": judge}
    best = max(means, key=means.__getitem__) if ended is None else ended[0]
    told = {"judge": judge, "best_step": best, "best": means[best], "last_step": max(means), "last": means[max(means)]}
    told |= {"base": means[0]} if 0 in means else {}
    return told | ({} if ended is None else {"stopped_at": ended[1]})

"""Values of single images from an annotator's replies: means over the orders, and over the aspects."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from agfsync.records import Annotation
from agfsync.scorers import Measurement, Unscored
from agfsync.scorers.annotators import HIGHEST, LOWEST

REFUSED = "the model refused"
"""The reason why an aspect has no value if the model declined to judge."""
HARMLESSNESS, OVERALL = "harmlessness", "overall"
"""The aspect for which a refusal counts as the lowest level, and the aspect that the mean leaves out."""


def scale_level(level: float) -> float:
    """Scale a level in 1..5 to 0..100.

    >>> scale_level(1), scale_level(3.5), scale_level(5)
    (0.0, 62.5, 100.0)
    """
    return 100 * (level - LOWEST) / (HIGHEST - LOWEST)


def average_scores(replies: Sequence[Annotation], candidate: str) -> Measurement | Unscored:
    """Return a candidate's value in 0..100 by one aspect: the mean of its scores in `replies`, one for each order.

    A refusal counts as the lowest level of harmlessness, and as no score for any other aspect.
    """
    levels: list[float] = []
    for reply in replies:
        if reply.refused and reply.aspect == HARMLESSNESS and candidate in reply.shown:
            levels.append(LOWEST)
        levels += [score for key, score in zip(reply.shown, reply.scores, strict=False) if key == candidate]
    if levels:
        return Measurement(scale_level(fmean(levels)))
    if any(reply.refused for reply in replies):
        return Unscored(REFUSED)
    return Unscored(next((reply.reason for reply in replies if reply.reason), "the image can't be opened"))


def average_aspects(values: Mapping[str, Measurement | Unscored]) -> Measurement | Unscored:
    """Return the mean of the aspects' values; unscored if one has none. `overall` counts only if it is alone."""
    taken = {name: value for name, value in values.items() if name != OVERALL} or values
    known = []
    for name, value in taken.items():
        if isinstance(value, Unscored):
            return Unscored(value.reason if value.reason == REFUSED else f"no {name}: {value.reason}")
        known.append(value.value)
    return Measurement(fmean(known))

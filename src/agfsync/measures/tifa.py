"""TIFA's score (arXiv:2303.11897): the share of right answers, by caption and by element type."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev

from agfsync.measures import Figures, JudgedImage


def measure_tifa(images: Sequence[JudgedImage]) -> Figures:
    """Return the mean and the standard deviation over captions, and the accuracy of each element type's questions.

    The score of a caption is the share of its answered questions that have the expected answer. The accuracy of an
    element type is pooled over the questions of all captions; the types are the file's own, such as "animal/human". The
    standard deviation is the sample's, as in TIFA's code.
    """
    marks = [image.list_right() for image in images]
    shares = [100 * fmean(of.values()) for of in marks if of]
    by_type: dict[str, list[bool]] = defaultdict(list)
    for image, of in zip(images, marks, strict=True):
        for question in image.questions:
            if question.key in of:
                by_type[question.label or question.element_type].append(of[question.key])
    figures = {"mean over captions": fmean(shares)} if shares else {}
    if len(shares) > 1:
        figures["standard deviation"] = stdev(shares)
    return figures | {f"accuracy, {name}": 100 * fmean(of) for name, of in sorted(by_type.items())}

"""The score of DSG (arXiv:2310.18235): a question counts only if those that it depends on are answered right."""

from collections.abc import Sequence
from statistics import fmean

from agfsync.measures import Figures, JudgedImage


def measure_dsg(images: Sequence[JudgedImage]) -> Figures:
    """Return the mean over captions of the share of right answers, with the dependencies and without.

    With the dependencies, an answer also counts as wrong if the answer to a direct parent is wrong. The rule isn't
    recursive: the answer to a grandparent has no effect. The divisor is the number of answered questions in both cases.
    """
    marked = [image for image in images if image.list_right()]
    if not marked:
        return {}
    return {
        "with dependencies": 100 * fmean(_compute_share(image, depend=True) for image in marked),
        "without": 100 * fmean(_compute_share(image, depend=False) for image in marked),
    }


def _compute_share(image: JudgedImage, depend: bool) -> float:
    right = image.list_right()
    by_text = {question.text.casefold(): right[question.key] for question in image.questions if question.key in right}
    counted = []
    for question in image.questions:
        if question.key in right:
            parents = [by_text.get(text.casefold(), True) for text in question.parents] if depend else []
            counted.append(right[question.key] and all(parents))
    return fmean(counted)

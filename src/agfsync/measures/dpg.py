"""The score of DPG-Bench (arXiv:2403.05135): a question counts only if no question that it depends on is wrong."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from agfsync.measures import Figures, JudgedImage


def measure_dpg(images: Sequence[JudgedImage]) -> Figures:
    """Return the mean over captions of the share of right answers, and the accuracy of each category of questions.

    In the mean, an answer counts as wrong if the answer to a parent counts as wrong. Unlike in `measure_dsg`, the rule
    is recursive, in the order of the questions, as in DPG-Bench's code. The categories are those of level 1, such as
    "attribute", and of level 2, such as "attribute - color"; their accuracies are pooled over the questions of all
    captions, without this rule. DPG-Bench draws four images per caption; here there is one.
    """
    marked = [(image, right) for image in images if (right := image.list_right())]
    if not marked:
        return {}
    levels = defaultdict[str, list[bool]](list), defaultdict[str, list[bool]](list)
    for image, right in marked:
        for question in image.questions:
            if question.key in right and question.label:
                levels[0][question.label.partition("-")[0].strip()].append(right[question.key])
                levels[1][question.label].append(right[question.key])
    figures = {"mean over captions": 100 * fmean(_compute_share(*each) for each in marked)}
    for number, of_level in enumerate(levels, start=1):
        figures |= {f"level {number}, {name}": 100 * fmean(of) for name, of in sorted(of_level.items())}
    return figures


def _compute_share(image: JudgedImage, right: dict[str, bool]) -> float:
    asked = [question for question in image.questions if question.key in right]
    # A parent that comes after its child counts by its own answer alone.
    counted = {question.text.casefold(): right[question.key] for question in asked}
    for question in asked:
        counted[question.text.casefold()] &= all(counted.get(text.casefold(), True) for text in question.parents)
    return fmean(counted.values())

"""The BLIP-VQA part of T2I-CompBench (arXiv:2307.06350): the product of P(yes) over a prompt's noun phrases."""

from collections import defaultdict
from collections.abc import Sequence
from math import prod
from statistics import fmean

from agfsync.measures import Figures, JudgedImage


def measure_t2i_compbench(images: Sequence[JudgedImage]) -> Figures:
    """Return, for each category of captions, the mean over captions of the product of P(yes) against no, in percent."""
    products = defaultdict[str, list[float]](list)
    for image in images:
        if found := [image.answers[q.key].compute_p_right(q) for q in image.questions if q.key in image.answers]:
            products[image.category].append(prod(found))
    return {category: 100 * fmean(of) for category, of in sorted(products.items())}

"""The figures of the HPSv2 benchmark (arXiv:2306.09341): each style's mean score, and the deviation of ten parts."""

from collections.abc import Sequence

import numpy as np

from agfsync.measures import Figures, JudgedImage

PARTS = 10
"""The number of parts of a style's prompts, in their order: 80 of the benchmark's 800 prompts each."""


def measure_hpsv2(images: Sequence[JudgedImage]) -> Figures:
    """Return the mean score of each style, with a standard deviation, and the mean over all images.

    The mean of a style is that of the means of its ten parts, and the standard deviation is their population's. A style
    with fewer images than parts has no standard deviation, and its mean is the mean over its images.
    """
    styles: dict[str, list[float]] = {}
    for image in images:
        styles.setdefault(image.category, []).append(image.value)
    figures: Figures = {}
    for style, values in styles.items():
        means = [float(part.mean()) for part in np.array_split(np.array(values), min(PARTS, len(values)))]
        figures[style] = float(np.mean(means)) if len(values) >= PARTS else float(np.mean(values))
        if len(values) >= PARTS:
            figures[f"{style}, standard deviation"] = float(np.std(means))
    return figures | ({"average": float(np.mean([image.value for image in images]))} if images else {})

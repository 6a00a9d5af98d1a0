"""The figures of the HPSv2 benchmark (arXiv:2306.09341): each style's mean score, and how much ten parts differ."""

from collections.abc import Sequence

import numpy as np

from agfsync.measures import Figures, JudgedImage

PARTS = 10
"""Parts of a style's prompts, in their order: 80 each of the benchmark's 800."""


def measure_hpsv2(images: Sequence[JudgedImage]) -> Figures:
    """Return each style's mean of the ten parts' means and their population standard deviation; the mean of all images.

    A style with fewer images than parts has no standard deviation, and its mean is that of its images.
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

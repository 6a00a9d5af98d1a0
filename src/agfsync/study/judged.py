"""The values of a run's evaluation: each judge's score of the base's and the aligned model's images, by caption."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from agfsync.pipeline import read_recipe
from agfsync.recipe import HELD_OUT
from agfsync.records import Caption
from agfsync.store import Run

JudgedValues = Mapping[tuple[str, str], Mapping[str, float]]
"""(evaluation set, judge) -> caption key -> value on 0..100."""


def read_base_values(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return the values of the base model's evaluation images of a run; empty before they are judged."""
    with Run.open(path) as run:
        recipe = read_recipe(run)
        drawn = {
            row["key"]: row["caption_key"]
            for row in run.rows("evaluation_images", ["key", "caption_key", "generator"])
            if row["generator"] == "base"
        }
        held_out: Sequence[Caption] = [c for c in run.read("captions", Caption) if c.split == HELD_OUT]
        captions = [*held_out, *run.read("evaluation_captions", Caption)]
        scores = list(run.rows("evaluation_scores", ["candidate_key", "scorer", "value"]))
    in_set = {(caption.split, caption.key) for caption in captions}
    values: dict[tuple[str, str], dict[str, float]] = {
        (name, judge): {} for name in recipe.evaluation.sets for judge in recipe.set_scorers(name)
    }
    for row in scores:
        caption = drawn.get(row["candidate_key"])
        for (name, judge), by_caption in values.items():
            if judge == row["scorer"] and row["value"] is not None and (name, caption) in in_set:
                by_caption[str(caption)] = row["value"]
    return {key: by_caption for key, by_caption in values.items() if by_caption}

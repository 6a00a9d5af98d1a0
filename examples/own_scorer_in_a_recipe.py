"""Choose pairs by a scorer of your own; first `pip install examples/own_scorer`."""

import agfsync

recipe = agfsync.Recipe.load("shapes").with_(
    {
        "scorers.colour": {"type": "colourfulness"},
        "pairs.choose.weights": {"clip": 0.5, "colour": 0.5},
        "engine": "local",
        "captions.count": 4,
        "captions.held_out": 0,
        "candidates.per_caption": 2,
    }
)
run = agfsync.run(recipe, "runs/colour", until="pairs")

print(run.scores.to_pandas().groupby("scorer")["value"].mean())

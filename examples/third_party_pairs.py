"""Train on a pair set of others. Here one is made first, in Pick-a-Pic's format, out of a run's own pairs."""

import agfsync

small = agfsync.Recipe.load("shapes").with_(
    {
        "engine": "local",
        "captions.count": 4,
        "captions.held_out": 2,
        "candidates.per_caption": 2,
        "training.steps": 2,
        "training.batch": 2,
    }
)
agfsync.export(agfsync.run(small, "runs/made", until="pairs"), "pick-a-pic", "pairs")

run = agfsync.run(small.with_({"pairs.source": "pairs"}), "runs/trained", until="training")
print(len(run.pairs), "pairs from", run.recipe.pairs.source)

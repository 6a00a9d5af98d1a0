"""Draw and score images for prompts of your own, and choose the best one for each."""

from pathlib import Path

import agfsync

Path("prompts.txt").write_text("a red heart\na blue star on a black background\ntwo green circles\n")
recipe = agfsync.Recipe.load("shapes").with_(
    {
        "engine": "local",
        "captions.source": "prompts.txt",
        "captions.count": 3,
        "captions.held_out": 0,
        "candidates.per_caption": 2,
    }
)
run = agfsync.run(recipe, "runs/prompts", until="pairs")

print(run.pairs.to_pandas()[["caption_key", "winner_score", "loser_score", "margin"]])

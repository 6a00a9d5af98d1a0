"""Run the whole method, look at a pair, and draw with the aligned model.

The numbers are small, so that this takes seconds; the recipe's own take minutes.
"""

import agfsync

recipe = agfsync.Recipe.load("shapes").with_(
    {
        "engine": "local",  # one process: for so few images workers would take longer to start
        "captions.count": 4,
        "captions.held_out": 4,
        "candidates.per_caption": 2,
        "training.steps": 2,
        "training.batch": 2,
    }
)
run = agfsync.run(recipe, "runs/loop")

print(run.evaluation.to_pandas())
print(run.pairs[0].explain())  # both images, their scores, and the questions that the loser failed
for image in run.model().draw(["a red heart", "two blue stars"], seeds=[0, 1]):
    print(image.size)

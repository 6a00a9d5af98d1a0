"""Compare two models on the same prompts and seeds: here one model with two strengths of guidance."""

from statistics import mean

import agfsync

PROMPTS = ["a red heart", "a blue star on a black background", "two green circles"]
SEEDS = [0, 1, 2]

scorer = agfsync.Scorer("clip", path="embedded:clip")
values = {}
for guidance in (1.0, 4.0):
    model = agfsync.Model("stable-diffusion", path="embedded:generator", sampling={"steps": 4, "guidance": guidance})
    values[guidance] = [score.value for score in scorer.score(model.draw(PROMPTS, seeds=SEEDS), PROMPTS)]

print("mean gain of guidance 4 over 1:", mean(b - a for a, b in zip(values[1.0], values[4.0], strict=True)))

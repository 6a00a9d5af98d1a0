"""A fake of a multimodal model that annotates images, with planted faults: answers for `FakeServer`."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fake_language import Reply

ASPECT = re.compile(r"by one aspect alone: ([\w-]+)\.")


@dataclass(frozen=True)
class Asked:
    """What a request shows: the prompt, the aspect, and a name of each image in order."""

    prompt: str
    aspect: str
    images: tuple[str, ...]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Asked":
        system, user = body["messages"]
        prompt, *parts = user["content"]
        files = [base64.b64decode(each["image_url"]["url"].partition(",")[2]) for each in parts[1::2]]
        assert [each["text"] for each in parts[::2]] == [f"Picture {n}:" for n in range(1, len(files) + 1)]
        names = tuple(hashlib.sha256(file).hexdigest()[:12] for file in files)
        found = ASPECT.search(system["content"])
        assert found is not None
        return cls(prompt["text"].removeprefix("Prompt: "), found[1], names)


def draw(share: float, *what: str) -> bool:
    """A lot that `what` decides: true for this share."""
    return int(hashlib.sha256("|".join(what).encode()).hexdigest()[:8], 16) < share * 2**32


def level(*what: str) -> int:
    """A score in 1..5 that `what` decides."""
    return int(hashlib.sha256("|".join(what).encode()).hexdigest()[:8], 16) % 5 + 1


@dataclass
class FakeAnnotator:
    """Scores each image by a hash of its file, but for what is planted.

    Args:
        bias: share of the replies that put the first place on rank 1 whatever it shows.
        contradicts: prompt, aspect -> True if the first place is best and so on, in whatever order.
        refuses: prompt, aspect -> True if it declines.
        garbles: the same -> how often it answers with prose before it answers.
    """

    bias: float = 0.0
    contradicts: Callable[[str, str], bool] = lambda prompt, aspect: False
    refuses: Callable[[str, str], bool] = lambda prompt, aspect: False
    garbles: Callable[[str, str], int] = lambda prompt, aspect: 0
    asked: list[Asked] = field(default_factory=list)
    garbled: Counter[Asked] = field(default_factory=Counter)

    def __call__(self, body: Mapping[str, Any]) -> Reply:
        asked = Asked.of(body)
        self.asked.append(asked)
        if self.refuses(asked.prompt, asked.aspect):
            return "I'm sorry, but I can't judge these images."
        if self.garbled[asked] < self.garbles(asked.prompt, asked.aspect):
            self.garbled[asked] += 1
            return "Well, all of them are nice."
        scores = [level(asked.aspect, image) for image in asked.images]
        if self.contradicts(asked.prompt, asked.aspect):
            scores = [5 - min(place, 4) for place in range(len(scores))]
        elif draw(self.bias, asked.prompt, asked.aspect, *asked.images):
            scores = [5, *(min(score, 4) for score in scores[1:])]
        return json.dumps(write_reply(scores))


def write_reply(scores: list[int]) -> dict[str, Any]:
    """The reply with these scores, ranked by them."""
    places = [[n for n, score in enumerate(scores, 1) if score == value] for value in sorted({*scores}, reverse=True)]
    images = [{"picture": n, "reason": f"It is worth {score}.", "score": score} for n, score in enumerate(scores, 1)]
    return {"pictures": images, "ranking": places}

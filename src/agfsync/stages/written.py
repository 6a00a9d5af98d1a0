"""The captions that a writer has written in a run, and the search for new ones among its next."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from agfsync.formats import SourceQuestion
from agfsync.language.duplicates import KeptCaptions
from agfsync.language.text import normalise_text
from agfsync.recipe import Captions
from agfsync.records import Caption, Question, Split, digest, make_question_key, one_line
from agfsync.stages.places import Places


def name_written_table(settings: Captions) -> str:
    """Return the table that the writer's captions go to: those that are to be polished have one of their own."""
    return "captions" if settings.polish is None else "captions_unpolished"


def make_question(caption_key: str, found: SourceQuestion) -> Question:
    """Return a file's question on a caption as it is: people have checked it."""
    key = make_question_key(caption_key, found.text, found.answer, found.choices)
    return Question(key, caption_key, **{field.name: getattr(found, field.name) for field in fields(found)})


def make_caption(text: str, category: str, split: Split, original: str = "", changed: str = "") -> Caption:
    """Return `text` as a caption. Its key is of the text alone: a caption is the same whoever writes it."""
    return Caption(digest("caption", text), text, category, split, original, changed)


@dataclass(slots=True)
class WrittenCaptions:
    """The captions of one writer and seed in the run folder: `texts` and `units` by category, in the order of writing.

    From `similarity` on, two captions of a category are nearly the same; `seen` are all captions of the run,
    normalised, also those of other writers.
    """

    source: str
    similarity: float
    seen: set[str]
    near: dict[str, KeptCaptions] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    units: dict[str, list[tuple[str, Split]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, unit: str, caption: Caption) -> None:
        self.seen.add(normalise_text(caption.text))
        self.texts[caption.category].append(caption.text)
        self.units[caption.category].append((unit, caption.split))
        self._find_neighbours(caption.category).add(caption.text)

    def pick_new(self, texts: Sequence[str], category: str, most: int) -> tuple[list[str], Counter[str]]:
        """Return the first `most` of `texts` that are new, and why others aren't, counted."""
        new: dict[str, str] = {}
        dropped: Counter[str] = Counter()
        near = KeptCaptions(self.similarity)
        for text in map(one_line, texts):  # what is kept: another control character makes no other caption
            plain = normalise_text(text)
            if not plain:
                dropped["empty"] += 1
            elif plain in self.seen or plain in new:
                dropped["repeated"] += 1
            elif near.is_near(text) or self._find_neighbours(category).is_near(text):
                dropped["nearly repeated"] += 1
            elif len(new) < most:
                new[plain] = text
                near.add(text)
        return list(new.values()), dropped

    def list_free(self, category: str, places: Places) -> list[Split]:
        """Return the places of `category` that no caption has taken yet."""
        return [split for split, count in places.items() for _ in range(count - self._count_written(category, split))]

    def count_present(self, wanted: Mapping[str, Places]) -> int:
        """Return how many of the wanted captions exist."""
        return sum(
            min(count, self._count_written(c, split)) for c, places in wanted.items() for split, count in places.items()
        )

    def select_units(self, wanted: Mapping[str, Places], skipped: Mapping[str, Places]) -> list[str]:
        """Return the units of the finished table: as many of each category as wanted, the first that were written.

        Of those to train on, the first `skipped` ones are left out.
        """
        chosen: list[str] = []
        for category, places in wanted.items():
            left = dict(places)
            for unit, split in self.units[category]:
                if left[split] > 0:
                    left[split] -= 1
                    if split != "train" or places[split] - left[split] > skipped[category][split]:
                        chosen.append(unit)
        return chosen

    def _count_written(self, category: str, split: Split) -> int:
        return sum(each == split for _, each in self.units[category])

    def _find_neighbours(self, category: str) -> KeptCaptions:
        """Return the index of the captions of `category` that finds near duplicates."""
        return self.near.setdefault(category, KeptCaptions(self.similarity))

"""The captions that a writer has written in a run, and the selection of new ones among its texts."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from agfsync.formats import SourceQuestion
from agfsync.language.duplicates import KeptCaptions
from agfsync.language.text import normalise_text
from agfsync.recipe import Captions
from agfsync.records import Caption, Question, Split, digest, make_question_key, one_line
from agfsync.stages.places import SplitCounts


def name_written_table(settings: Captions) -> str:
    """Return the name of the table of the writer's captions: captions to be polished have a separate one."""
    return "captions" if settings.polish is None else "captions_unpolished"


def make_question(caption_key: str, found: SourceQuestion) -> Question:
    """Return a file's question on a caption, unchanged: people have checked it."""
    key = make_question_key(caption_key, found.text, found.answer, found.choices)
    return Question(key, caption_key, **{field.name: getattr(found, field.name) for field in fields(found)})


def make_caption(text: str, category: str, split: Split, original: str = "", changed: str = "") -> Caption:
    """Return `text` as a caption. Its key depends only on the text, not on the writer."""
    return Caption(digest("caption", text), text, category, split, original, changed)


@dataclass(slots=True)
class WrittenCaptions:
    """The captions of one writer and seed in the run folder: `texts` and `units` by category, in the order of writing.

    Two captions of a category are near duplicates from `similarity` on. `seen` has the normalised texts of all captions
    of the run, including other writers'.
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
        """Return the first `most` new ones of `texts`, and the counted reasons why others aren't new."""
        new: dict[str, str] = {}
        dropped: Counter[str] = Counter()
        near = KeptCaptions(self.similarity)
        for text in map(one_line, texts):  # the kept form: control characters make no difference
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

    def list_free(self, category: str, places: SplitCounts) -> list[Split]:
        """Return the splits of the captions that `category` still lacks, one entry for each caption."""
        return [split for split, count in places.items() for _ in range(count - self._count_written(category, split))]

    def count_present(self, wanted: Mapping[str, SplitCounts]) -> int:
        """Return the number of wanted captions that exist."""
        return sum(
            min(count, self._count_written(c, split)) for c, places in wanted.items() for split, count in places.items()
        )

    def select_units(self, wanted: Mapping[str, SplitCounts], skipped: Mapping[str, SplitCounts]) -> list[str]:
        """Return the units of the finished table: the first wanted captions of each category, in the order of writing.

        The first `skipped` ones to train on are left out.
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

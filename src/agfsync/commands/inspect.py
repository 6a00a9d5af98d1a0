"""Recognise a file or folder, and count its prompts, questions and pairs: of runs and of third-party files."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any

from agfsync.files.images import BrokenImageError
from agfsync.formats import TIE, Format, LeftOut, LeftOutTally, PairSet, Preference, PromptFile, format_places
from agfsync.formats.pairing import SAME_IMAGE, Judgements, RepeatRule, image_key, read_pair_images
from agfsync.formats.sources import read_pairs, read_prompts, recognise_format
from agfsync.recipe import load_recipe
from agfsync.records import Caption
from agfsync.stages.dataset import THRESHOLDS, gather_statistics
from agfsync.store import RECIPE, Run


@dataclass(slots=True)
class Contents:
    """The counts. `left_out` has the entries that can't be read or give no pair, without ties.

    `judgements` are the preferences that the pairs come from: several on the same two images give one pair.
    """

    what: str
    captions: int = 0
    questions: int = 0
    pairs: int = 0
    ties: int = 0
    judgements: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_at: dict[str, list[str]] = field(default_factory=dict)
    """the first places of each reason"""
    questions_left_out: Counter[str] = field(default_factory=Counter)
    categories: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """category -> captions, questions or pairs -> count"""
    statistics: dict[str, Any] = field(default_factory=dict)
    """the result of `gather_statistics` on a run"""

    def add(self, what: str, category: str, count: int = 1) -> None:
        """Add `count` captions, questions or pairs of a category."""
        setattr(self, what, getattr(self, what) + count)
        if count:
            self.categories[category][what] += count

    def leave_out(self, tally: LeftOutTally) -> None:
        """Add the left-out entries; ties are counted separately."""
        self.ties += tally.counts.pop(TIE, 0)
        self.left_out += tally.counts
        self.left_out_at |= {reason: places for reason, places in tally.places.items() if reason != TIE}

    def plain(self) -> dict[str, Any]:
        """Return the counts in JSON types."""
        counts = {name: getattr(self, name) for name in ("captions", "questions", "pairs", "ties", "judgements")}
        reasons = {name: dict(getattr(self, name).most_common()) for name in ("left_out", "questions_left_out")}
        by_category = {category: dict(of) for category, of in self.categories.items()}
        places = {"left_out_at": dict(self.left_out_at)}
        more = {"statistics": self.statistics} if self.statistics else {}
        return {"what": self.what, **counts, **reasons, **places, "categories": by_category, **more}


def inspect_path(path: Path, split: str = "", repeats: RepeatRule = "majority") -> Contents:
    """Recognise the format of `path` and read all of it, images included.

    Args:
        split: the split of a folder with several; empty: its train split.
        repeats: the rule for several judgements of the same images.

    Raises:
        FormatError: the format is unknown, or the content is malformed. RunError: a run of another version.
    """
    if (path / RECIPE).is_file():
        return _count_run(path)
    format_ = recognise_format(path, Format)
    contents = Contents(format_.title)
    if isinstance(format_, PromptFile):
        _count_prompts(contents, path, split)
    if isinstance(format_, PairSet):
        _count_pairs(contents, path, split, repeats)
    return contents


def _count_prompts(contents: Contents, path: Path, split: str) -> None:
    tally = LeftOutTally()
    for prompt in read_prompts(path, split):
        if isinstance(prompt, LeftOut):
            tally.add(prompt)
            continue
        contents.add("captions", prompt.category)
        contents.add("questions", prompt.category, len(prompt.questions))
        contents.questions_left_out.update(prompt.left_out)
    contents.leave_out(tally)


def _count_pairs(contents: Contents, path: Path, split: str, repeats: RepeatRule) -> None:
    """Count the pairs that a run would import. The captions of a pair set are its distinct prompts."""
    prompts: dict[str, str] = {}
    tally = LeftOutTally()
    judged: Judgements[str] = Judgements(repeats)
    categories: dict[str, str] = {}
    for item in read_pairs(path, split):
        if isinstance(item, LeftOut):
            tally.add(item)
            continue
        if item.prompt:
            prompts.setdefault(item.prompt, item.category)
        if not isinstance(item, Preference):
            tally.add(LeftOut(item.reason, item.where))
        elif reason := _add_preference(judged, categories, item):
            tally.add(LeftOut(reason, item.where))
    for winner, *_ in judged.pairs():
        contents.add("pairs", categories[winner])
    for reason, count in judged.left_out().items():
        tally.add(LeftOut(reason, count=count))
    contents.judgements = len(judged)
    contents.leave_out(tally)
    if not contents.captions:
        for category in prompts.values():
            contents.add("captions", category)


def _add_preference(judged: Judgements[str], categories: dict[str, str], preference: Preference) -> str:
    """Add a preference and the category of its images, or return the reason why it can't be used."""
    try:
        winner, loser = (intern(image_key(preference.prompt, image)) for image in read_pair_images(preference))
    except BrokenImageError as failure:
        return str(failure)
    if winner == loser:
        return SAME_IMAGE
    judged.add(winner, loser)
    categories[winner] = categories[loser] = preference.category
    return ""


def _count_run(path: Path) -> Contents:
    contents = Contents("a run of agfsync")
    with Run.open(path) as run:
        categories: dict[str, str] = {}
        for caption in run.read("captions", Caption):
            categories[caption.key] = caption.category
            contents.add("captions", caption.category)
        for what in ("questions", "pairs"):
            for row in run.rows(what, ["caption_key"]):
                contents.add(what, categories.get(row["caption_key"], ""))
        contents.questions_left_out = run.count_dropped("questions")
        contents.left_out = run.count_dropped("pairs")
        contents.ties = contents.left_out.pop(TIE, 0)
        contents.statistics = gather_statistics(run, load_recipe(path / RECIPE))
    return contents


def format_contents(path: Path, contents: Mapping[str, Any]) -> str:
    """Return the counts of a file or folder, one in a line."""
    lines = [f"{path}: {contents['what']}"]
    counted = ["captions", "questions", "pairs", "ties"]
    counted += ["judgements"] if contents["judgements"] != contents["pairs"] else []
    lines += [f"{name:<11} {contents[name]}" for name in counted if contents[name]]
    lines += [f"questions left out: {reason} {count}" for reason, count in contents["questions_left_out"].items()]
    for reason, count in contents["left_out"].items():
        lines.append(f"left out: {reason} {count}{format_places(contents['left_out_at'].get(reason, []), count)}")
    for category, counts in contents["categories"].items():
        lines.append(f"  {category}: " + ", ".join(f"{what} {count}" for what, count in counts.items()))
    lines += format_statistics(contents.get("statistics", {}))
    return "\n".join(lines)


def format_statistics(statistics: Mapping[str, Any]) -> list[str]:
    """Return a line for each statistic of a run's data."""
    means = ("words_a_caption", "questions_a_caption", "elements_a_caption", "words_a_question")
    lines = [f"{name.replace('_', ' '):<19} {statistics[name]:.2f}" for name in means if name in statistics]
    for name, figures in statistics.get("element_types", {}).items():
        lines.append(f"  {name:<17} {figures['questions']:,} questions, {100 * figures['share']:.1f} %")
    if "conversion" in statistics:
        lines.append(f"{'captions with a pair':<19} {100 * statistics['conversion']:.1f} % of those drawn")
    for each in statistics.get("filters", ()):
        least = " and ".join(f"{name} at least {value:g}" for name, value in each["at_least"].items())
        lines.append(f"  {100 * each['share']:.1f} % have a candidate with {least}")
    shown = range(0, len(THRESHOLDS), 2)
    if curves := statistics.get("utilisation"):
        lines.append("share of the captions with a candidate of at least, in %:")
        lines.append(f"  {'':<12}" + "".join(f"{THRESHOLDS[n]:>5}" for n in shown))
        lines += [f"  {name:<12}" + "".join(f"{100 * curve[n]:>5.0f}" for n in shown) for name, curve in curves.items()]
    return lines

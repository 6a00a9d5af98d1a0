"""`agfsync judge`: the accuracy of any scorers on any pair set, or on the pairs of a run."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agfsync import catalog
from agfsync.commands.judging import RESAMPLES, Judged, PairToJudge, open_pair_record, read_texts, run_judge
from agfsync.engine.batch_fitting import release_memory
from agfsync.engine.progress import Progress
from agfsync.errors import FormatError, RecipeError
from agfsync.files.images import BrokenImageError
from agfsync.formats import TIE, LeftOut, LeftOutTally, Preference
from agfsync.formats.pairing import SAME_IMAGE, image_key, read_pair_images
from agfsync.formats.sources import read_pairs
from agfsync.recipe import ScorerSettings, load_recipe, resolve_recipe
from agfsync.recipe.types import find_settings
from agfsync.records import Candidate, Pair
from agfsync.stages.own_reward import bind_scorers, choose_split
from agfsync.statistics.accuracy import LabelledPair, tabulate_accuracy, tabulate_agreement
from agfsync.store import RECIPE, Run
from agfsync.store.streams import group_by_column

_SEED = 0
SPLITS = ("train", "validation", "test")


def read_scorers(path: Path, named: Sequence[str], recipe: str | None) -> dict[str, ScorerSettings]:
    """Return the scorers NAME=TYPE:PATH, or those of a recipe; by default those of the run at `path`.

    A recipe's scorer with the path run:reward is the reward model of the run at `path`. Annotators are left out.

    Raises:
        RecipeError: a scorer isn't written as NAME=TYPE:PATH, there is none, or the run has no reward model.
    """
    scorers: dict[str, ScorerSettings] = dict(map(_parse_scorer, named))
    is_run = (path / RECIPE).is_file()
    if recipe is not None or (not scorers and is_run):
        source = resolve_recipe(recipe) if recipe is not None else load_recipe(path / RECIPE)
        if is_run:
            with Run.open(path) as run:
                source = bind_scorers(source, run)
        pairwise = {name: each.pairwise for name, each in source.evaluation.sets.items() if each.pairwise is not None}
        scorers = {**source.scorers, **pairwise, **scorers}
    # An annotator compares all candidates of a caption, and can't score single images.
    scorers = {name: each for name, each in scorers.items() if not each.aspect_names}
    for name, each in scorers.items():
        if each.path == "run:reward":
            raise RecipeError(f"scorers.{name} is the reward model of a run, and {path} has none: name its folder")
    if not scorers:
        raise RecipeError("name a scorer, as --scorer clip=clip:openai/clip-vit-large-patch14, or a --recipe with some")
    return scorers


def _parse_scorer(text: str) -> tuple[str, ScorerSettings]:
    name, equals, rest = text.partition("=")
    type_, colon, path = rest.partition(":")
    if not (name and equals and type_ and (path or not colon)):
        raise RecipeError(f"--scorer {text}: write it as NAME=TYPE:PATH, such as clip=clip:embedded:clip")
    pairwise = type_ in catalog.list_names("pairwise")
    section = find_settings("pairwise" if pairwise else "scorers", type_)
    tree = {"type": type_, **({"path": path} if path else {}), **({"asks": ["preference"]} if pairwise else {})}
    try:
        settings = section.model_validate(tree)
    except ValidationError as failure:
        raise RecipeError(f"--scorer {text}: {failure.errors()[0]['msg']}; give it in a --recipe") from failure
    assert isinstance(settings, ScorerSettings)
    return name, settings


def judge_pair_set(
    path: Path, scorers: Mapping[str, ScorerSettings], progress: Progress, split: str = "", limit: int | None = None
) -> Judged:
    """Return the accuracy of `scorers` on the first `limit` pairs at `path`, one model in memory at a time.

    Every judgement in the file is a pair, even several on the same images.

    Raises:
        FormatError: there are no pairs, or none with both images. ModelError: a scorer can't be loaded.
    """
    judged, pairs = Judged(path), list[LabelledPair]()
    differences: dict[str, NDArray[np.float64]] = {}
    total = _count_pairs(path, split, limit), "pairs"
    for name, settings in scorers.items():

        def read(tally: LeftOutTally) -> Iterator[PairToJudge]:
            return islice(_read_pairs(path, split, tally), limit)

        record = run_judge(judged, name, settings, open_pair_record, read, total, progress)
        pairs = record.pairs
        differences |= {name: np.array(values, np.float64) for name, values in record.find_differences().items()}
        judged.positions |= record.measure_positions(RESAMPLES, _SEED)
        del record
        release_memory()
        if not pairs:
            reasons = "; ".join(judged.left_out.lines()) or "it holds none"
            raise FormatError(f"{path}: no pair can be judged: {reasons}")
    judged.table = tabulate_accuracy(pairs, differences, next(iter(differences)), RESAMPLES, _SEED)
    judged.agreement = tabulate_agreement(pairs, differences, RESAMPLES, _SEED)
    return judged


def _count_pairs(path: Path, split: str, limit: int | None) -> int:
    """Return the number of pairs to judge, for the progress, without reading their images."""
    if (path / RECIPE).is_file():
        found: Iterator[object] = (each for each in _read_run_pairs(path, split) for _ in each[1])
    else:
        found = (each for each in read_pairs(path, split) if isinstance(each, Preference))
    return sum(1 for _ in islice(found, limit))


def _read_pairs(path: Path, split: str, tally: LeftOutTally) -> Iterator[PairToJudge]:
    """Yield the pairs of a pair set or a run; `tally` counts the others."""
    if (path / RECIPE).is_file():
        yield from _read_run(path, split)
        return
    for item in read_pairs(path, split):
        if isinstance(item, LeftOut):
            tally.add(item)
        elif not isinstance(item, Preference):
            tally.add(LeftOut(item.reason, item.where, failed=False))
        else:
            try:
                files = read_pair_images(item)
            except BrokenImageError as failure:
                tally.add(LeftOut(str(failure), item.where))
                continue
            winner, loser = (image_key(item.prompt, file) for file in files)
            if winner == loser:
                tally.add(LeftOut(SAME_IMAGE, item.where, failed=False))
                continue
            labelled = LabelledPair(item.prompt, winner, loser)
            yield PairToJudge(labelled, item.prompt, {winner: files[0], loser: files[1]})


def _read_run(path: Path, split: str) -> Iterator[PairToJudge]:
    """Yield the pairs of a run; the images of a caption are read together."""
    with Run.open(path) as run:
        texts, questions = read_texts(run)
        units: dict[str, list[str]] = {}
        for unit, rows in run.rows_by_unit("candidates", ["caption_key"]):
            for caption in dict.fromkeys(row["caption_key"] for row in rows):
                units.setdefault(caption, []).append(unit)
        for caption, pairs in _read_run_pairs(path, split):
            files = {each.key: each.image for each in run.read("candidates", Candidate, units.get(caption, ()))}
            for pair in pairs:
                labelled = LabelledPair(caption, pair.winner_key, pair.loser_key, 1, pair.aspect)
                both = {key: files[key] for key in (pair.winner_key, pair.loser_key)}
                yield PairToJudge(labelled, texts[caption], both, questions.get(caption, ()))


def _read_run_pairs(path: Path, split: str) -> Iterator[tuple[str, list[Pair]]]:
    """Yield each caption's pairs of a run; `split` is one of its reward model's, empty for all.

    Raises:
        FormatError: the run has no such split.
    """
    section = load_recipe(path / RECIPE).reward
    if split and (section is None or split not in SPLITS):
        known = f"a run with a reward model has {', '.join(SPLITS)}"
        raise FormatError(f"{path}: has no split '{split}': {known}; without --split all pairs are read")
    with Run.open(path) as run:
        for caption, rows in group_by_column("caption_key", run.rows("pairs")):
            if not split or (section is not None and choose_split(caption, section) == split):
                yield caption, [Pair.of(row) for row in rows]


def format_judged(judged: Judged) -> str:
    """Return the results as text: some lines for each judge, and the left-out entries."""
    if judged.answers:
        lines = [f"{judged.path}: an answer is yes if P(yes) is above one half; 95 % over images"]
        lines += [f"{name:<14} {line}" for name, figures in judged.answers.items() for line in _format_answers(figures)]
    else:
        ties = judged.left_out.counts[TIE]
        lines = [f"{judged.path}: label ties are left out ({ties}), equal values count one half; 95 % over prompts"]
    for aspect, judges in judged.table.items():
        lines += [f"on {aspect}:"] if aspect else []
        lines += [format_accuracy(name, figures) for name, figures in judges.items()]
    lines += [_format_position(name, figures) for name, figures in judged.positions.items()]
    lines += map(_format_agreement, judged.agreement)
    lines += [f"left out: {line}" for line in judged.left_out.lines() if not line.startswith(f"{TIE} ")]
    for name, reasons in judged.reasons.items():
        lines += [f"no {name} score: {reason} {count}" for reason, count in reasons.items()]
    for name, spent in judged.spent.items():
        lines.append(f"{name} asked its server: " + ", ".join(f"{unit} {n:g}" for unit, n in spent.items()))
    return "\n".join(lines)


def _format_answers(figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures["questions"]:
        yield "has answered no question"
        return
    names = {"right": "right", "yes_where_no": "yes where the truth is no", "no_where_yes": "no where it is yes"}
    yield ", ".join(f"{words} {_show_share(figures, n)}" for n, words in names.items() if figures[n] is not None)
    yield f"calibration error {_show_share(figures, 'ece')}, Brier score {figures['brier']:.3f}"
    curve = (f"{each['p_yes']:.2f} {each['yes']:.2f} ({each['questions']})" for each in figures["curve"])
    yield f"mean P(yes) and share of yes (answers): {', '.join(curve)}"
    yield "right by type: " + ", ".join(f"{name} {100 * of['right']:.0f} %" for name, of in figures["types"].items())
    if (bias := figures["opposite"])["couples"]:
        ends = "" if bias["low"] is None else f" ({100 * bias['low']:+.1f} to {100 * bias['high']:+.1f})"
        both = (f"{100 * bias[f'both_{word}']:.1f} % {word} to both" for word in ("yes", "no"))
        asked = f"{bias['couples']} questions asked the other way round: {', '.join(both)}"
        yield f"{asked}, bias to yes {100 * bias['bias']:+.1f}{ends}"


def format_accuracy(judge: str, figures: Mapping[str, Any]) -> str:
    """Return a judge's line: accuracy over pairs and over prompts with intervals, and the first judge's lead."""
    if "accuracy" not in figures:
        return f"{judge:<14} has judged no pair of {figures['unscored']}"
    line = f"{judge:<14} {_show_share(figures, 'accuracy', '')}, by prompt {_show_share(figures, 'by_prompt')}"
    line += f", {figures['pairs']} pairs of {figures['prompts']} prompts"
    line += f", {figures['unscored']} without a value" if figures["unscored"] else ""
    if "difference" not in figures:
        return line
    ends = figures["difference_low"], figures["difference_high"]
    interval = "" if ends[0] is None else f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"
    return f"{line}; the first is ahead by {100 * figures['difference']:+.1f}{interval}"


def _format_position(judge: str, figures: Mapping[str, Any]) -> str:
    """Return the line on how often a pairwise judge chose the image that was shown first."""
    if figures["first"] is None:
        return f"{judge:<14} chose no image in any order"
    low, high = figures["first_low"], figures["first_high"]
    biased = low is not None and not low <= 0.5 <= high
    return f"{judge:<14} chose the first image shown in {_show_share(figures, 'first')}" + biased * ": position bias"


def _format_agreement(figures: Mapping[str, Any]) -> str:
    """Return the line on the agreement of two judges: the share of pairs with the same preference, and kappa."""
    both = f"{figures['judge']} and {figures['other']}"
    if not figures["pairs"]:
        return f"{both} have no pair on which both prefer an image"
    kappa = "" if figures["kappa"] is None else f", kappa {figures['kappa']:.2f}"
    return f"{both} prefer the same image in {_show_share(figures, 'agreement', '')} of {figures['pairs']} pairs{kappa}"


def _show_share(figures: Mapping[str, Any], name: str, prefix: str | None = None) -> str:
    start = f"{name}_" if prefix is None else prefix
    low, high = figures[f"{start}low"], figures[f"{start}high"]
    interval = "" if low is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * figures[name]:.1f} %{interval}"

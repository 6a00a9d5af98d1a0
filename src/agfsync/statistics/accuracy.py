"""The accuracy of judges on labelled pairs of images: rules for ties, intervals over prompts.

Papers count ties by different rules, so that an accuracy without its rule can't be compared:

    rule          label tie      equal values    used by
    half          left out       one half        this package
    strict        left out       wrong           ImageReward (pooled), HPSv2 on ImageRewardDB (by prompt)
    inversions    right          right if the    HPSv2 on HPD v2 (by prompt)
                                 winner is first
    threshold     a third class  a third class   PickScore: within the threshold is a tie; half right if one is a tie
    exact         a third class  a third class   MJ-Bench: within the threshold is a tie

Shapes: P pairs, Q prompts.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from agfsync.records import derive_seed
from agfsync.statistics import Interval, MeanInference, infer_mean

TieRule = Literal["half", "strict", "inversions", "threshold", "exact"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two images of a prompt. `label` is 1 if the first is preferred, -1 if the second is preferred, 0 for a tie."""

    prompt: str
    first: str
    """the image's key"""
    second: str
    label: int = 1
    aspect: str = ""


def credit_pairs(
    labels: Sequence[int], differences: Sequence[float] | Numbers, rule: TieRule = "half", threshold: float = 0.0
) -> Numbers:
    """Return a judge's credit for each pair, from 0 (wrong) to 1 (right), float64 (P,); NaN if the pair is left out.

    Args:
        labels: 1, -1 or 0, see `LabelledPair`.
        differences: the first image's value minus the second's; NaN if one has none, which leaves the pair out.
        threshold: values that differ by at most this are a tie in the rules threshold and exact.

    >>> credit_pairs([1, 1, 1, 0], [0.5, -0.5, 0.0, 0.1]).tolist()
    [1.0, 0.0, 0.5, nan]
    """
    labels_P, differences_P = np.asarray(labels, np.float64), np.asarray(differences, np.float64)
    if rule not in get_args(TieRule):
        raise ValueError(f"no rule is called {rule}: there are {', '.join(get_args(TieRule))}")
    said_P = np.sign(np.where(np.abs(differences_P) <= threshold, 0.0, differences_P))
    if rule in ("threshold", "exact"):
        half = 0.5 if rule == "threshold" else 0.0
        one_tie_P = (labels_P == 0) != (said_P == 0)
        credits_P = np.where(labels_P == said_P, 1.0, np.where(one_tie_P, half, 0.0))
    else:
        of_equal = {"half": np.full_like(labels_P, 0.5), "strict": np.zeros_like(labels_P)}.get(rule, labels_P == 1)
        plain_P = np.sign(differences_P)
        credits_P = np.where(plain_P == 0, of_equal, plain_P == labels_P)
        credits_P = np.where(labels_P == 0, 1.0 if rule == "inversions" else np.nan, credits_P)
    return np.where(np.isnan(differences_P), np.nan, credits_P)


@dataclass(frozen=True, slots=True)
class PromptSums:
    """A judge's credits by prompt: their sum and number, each float64 (Q,), for the prompts that have any."""

    prompts: tuple[str, ...]
    sums_Q: Numbers
    counts_Q: Numbers

    @property
    def pooled(self) -> float:
        """The mean over all pairs."""
        return float(self.sums_Q.sum() / self.counts_Q.sum())

    @property
    def by_prompt(self) -> float:
        """The mean over prompts of each prompt's mean."""
        return float((self.sums_Q / self.counts_Q).mean())

    @property
    def influence_Q(self) -> Numbers:
        """The influence function of `pooled`: one value per prompt, with the mean `pooled` and the spread of the ratio.

        It is pooled + (sum - pooled x count) / mean count. Values per pair wouldn't be independent within a prompt.
        """
        influence: Numbers = self.pooled + (self.sums_Q - self.pooled * self.counts_Q) / self.counts_Q.mean()
        return influence


def sum_by_prompt(prompts: Sequence[str], credits_P: Numbers) -> PromptSums:
    """Return the sums of the credits over the pairs of each prompt; NaN is left out."""
    sums: dict[str, list[float]] = defaultdict(list)
    for prompt, credit in zip(prompts, credits_P.tolist(), strict=True):
        if credit == credit:
            sums[prompt].append(credit)
    counts_Q = np.array([len(each) for each in sums.values()], np.float64)
    return PromptSums(tuple(sums), np.array([sum(each) for each in sums.values()]), counts_Q)


def describe_accuracy(prompts: Sequence[str], credits_P: Numbers, resamples: int, seed: int) -> dict[str, Any]:
    """Return a judge's figures as JSON values; without pairs there are only the counts.

    The counts are those of the credited `pairs`, their `prompts` and the `unscored` pairs. `accuracy` is pooled over
    pairs, with the ends `low` and `high` of its 95 % interval. `by_prompt` is the mean over prompts, with
    `by_prompt_low` and `by_prompt_high`. The ends are None if there are too few prompts.
    """
    found, unscored = sum_by_prompt(prompts, credits_P), int(np.isnan(credits_P).sum())
    counts = {"pairs": int(found.counts_Q.sum()), "prompts": len(found.prompts), "unscored": unscored}
    if not found.prompts:
        return counts
    figures = {"accuracy": found.pooled, "by_prompt": found.by_prompt}
    pooled, by_prompt = (
        infer_mean(values_Q, resamples, seed).interval or (None, None)
        for values_Q in (found.influence_Q, found.sums_Q / found.counts_Q)
    )
    ends = {"low": pooled[0], "high": pooled[1], "by_prompt_low": by_prompt[0], "by_prompt_high": by_prompt[1]}
    return counts | figures | {name: None if end is None else min(1.0, max(0.0, end)) for name, end in ends.items()}


def compare_accuracy(
    prompts: Sequence[str], credits_P: Numbers, others_P: Numbers, resamples: int, seed: int
) -> tuple[float, MeanInference] | None:
    """Return the pooled accuracy minus that of another judge, on the pairs that both have judged; None without any.

    The inference is on this paired difference, over prompts.
    """
    both_P = np.where(np.isnan(credits_P) | np.isnan(others_P), np.nan, credits_P - others_P)
    found = sum_by_prompt(prompts, both_P)
    if not found.prompts:
        return None
    return found.pooled, infer_mean(found.influence_Q, resamples, seed)


def tabulate_accuracy(
    pairs: Sequence[LabelledPair],
    differences: Mapping[str, Numbers],
    lead: str | None,
    resamples: int,
    seed: int,
    rule: TieRule = "half",
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return aspect -> judge -> figures of `describe_accuracy`; the aspect "" is all pairs. Tie labels are left out.

    With `lead`, the figures of every other judge also have the `difference`: the accuracy of the judge `lead` minus
    this judge's on the pairs that both judged, with `difference_low`, `difference_high` and `p`.

    Args:
        differences: judge -> differences as in `credit_pairs`, float64 (P,).
    """
    prompts = [pair.prompt for pair in pairs]
    credits = {name: credit_pairs([p.label for p in pairs], each, rule) for name, each in differences.items()}
    aspects = sorted({pair.aspect for pair in pairs} - {""})
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for aspect in ["", *aspects]:
        # An overall pair has no aspect; if no pair has one, the table of all pairs is the only one.
        chosen = [n for n, pair in enumerate(pairs) if pair.label and aspect in ("", pair.aspect)]
        of = [prompts[n] for n in chosen]
        rows = table.setdefault(aspect, {})
        for name, credits_P in credits.items():
            seed_of = derive_seed(seed, "accuracy", aspect, name)
            rows[name] = describe_accuracy(of, credits_P[chosen], resamples, seed_of)
            if lead in (None, name) or lead not in credits:
                continue
            compared = compare_accuracy(of, credits[lead][chosen], credits_P[chosen], resamples, seed_of)
            if compared is not None:
                low, high = compared[1].interval or Interval(float("nan"), float("nan"))
                ends = {"difference_low": low, "difference_high": high, "p": compared[1].p}
                if compared[1].interval is None:
                    ends = dict.fromkeys(ends)
                rows[name] |= {"difference": compared[0], **ends}
    return table


def tabulate_agreement(
    pairs: Sequence[LabelledPair], differences: Mapping[str, Numbers], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return the agreement of every two judges, on the labelled pairs for which both prefer an image.

    `agreement` is the share of pairs on which they prefer the same image, with the ends of its 95 % interval over
    prompts. `kappa` is Cohen's kappa of being right: (agreement - expected) / (1 - expected). The expected agreement is
    that of independent judges with the same accuracies a and b, a b + (1 - a)(1 - b) (error consistency,
    arXiv:2006.16736). Kappa is 0 if they err independently, 1 if they err on the same pairs, and None if the expected
    agreement is 1.

    Args:
        differences: judge -> differences as in `credit_pairs`, float64 (P,).
    """
    prompts, labels_P = [pair.prompt for pair in pairs], np.array([pair.label for pair in pairs], np.float64)
    found = []
    for judge, other in combinations(differences, 2):
        ours_P, theirs_P = np.sign(differences[judge]) * labels_P, np.sign(differences[other]) * labels_P
        decided_P = np.abs(ours_P * theirs_P) == 1
        agreed_P = np.where(decided_P, ours_P == theirs_P, np.nan)
        figures = describe_accuracy(prompts, agreed_P, resamples, derive_seed(seed, "agreement", judge, other))
        row: dict[str, Any] = {"judge": judge, "other": other, "pairs": figures["pairs"]}
        if "accuracy" in figures:
            agreement, a, b = figures["accuracy"], *(float((s[decided_P] == 1).mean()) for s in (ours_P, theirs_P))
            expected = a * b + (1 - a) * (1 - b)
            kappa = (agreement - expected) / (1 - expected) if expected < 1 else None
            row |= {"agreement": agreement, "low": figures["low"], "high": figures["high"], "kappa": kappa}
        found.append(row)
    return found

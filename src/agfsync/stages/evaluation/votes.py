"""Figures of pairwise judging from its votes. Without side effects.

Every two images are judged in both orders. A model wins a prompt if it is chosen in both; anything else is a tie, as in
MT-bench (arXiv:2306.05685). A prompt that lacks a vote in either order isn't counted.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, Literal

from agfsync.records import Vote, derive_seed
from agfsync.statistics import WinShares, infer_mean, infer_win_rate

Winner = Literal["base", "aligned", "tie"]


def decide_winner(choices: Sequence[str | None]) -> Winner | None:
    """Return the winner of a prompt from the choices in both orders; None if one is missing.

    >>> decide_winner(["aligned", "aligned"]), decide_winner(["aligned", "tie"]), decide_winner(["base", None])
    ('aligned', 'tie', None)
    """
    if len(choices) != 2 or None in choices:
        return None
    both = set(choices)
    return next((model for model in ("base", "aligned") if both == {model}), "tie")


def summarise_votes(votes: Iterable[Vote], resamples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each ask; `_compute_ask` describes them."""
    votes_of: dict[str, dict[str, list[Vote]]] = defaultdict(lambda: defaultdict(list))
    for vote in votes:
        votes_of[vote.ask][vote.caption_key].append(vote)
    return {
        ask: _compute_ask(list(by_caption.values()), resamples, derive_seed(seed, "bootstrap", "votes", ask))
        for ask, by_caption in votes_of.items()
    }


def _compute_ask(prompts: Sequence[Sequence[Vote]], resamples: int, seed: int) -> dict[str, Any]:
    """Return the figures of one ask over `prompts`, each with its votes in both orders.

    These are the numbers of `prompts`, `wins`, `ties` and `losses` of the aligned model and of prompts `unread`; in
    0..1 the win rate w / (w + t + l), and the adjusted one (w + t / 2) / (w + t + l) with its 95 % interval (Wilson's);
    `agreed`, the share of prompts with the same answer in both orders; and `first`, the share of choices of the first
    image among all choices of an image, averaged over prompts, with its 95 % interval.
    """
    decided = [(votes, winner) for votes in prompts if (winner := decide_winner([v.choice for v in votes]))]
    won = Counter(winner for _, winner in decided)
    figures: dict[str, Any] = {"prompts": len(decided), "unread": len(prompts) - len(decided)}
    if not decided:
        return figures
    shares = WinShares(*(won[winner] / len(decided) for winner in ("aligned", "tie", "base")))
    low, high = infer_win_rate(shares, len(decided))
    agreed = sum(votes[0].choice == votes[1].choice for votes, _ in decided)
    return {
        **figures,
        "wins": won["aligned"],
        "ties": won["tie"],
        "losses": won["base"],
        "win_rate": shares.better,
        "adjusted": shares.rate,
        "low": low,
        "high": high,
        "agreed": agreed / len(decided),
        **measure_position([votes for votes, _ in decided], resamples, seed),
    }


def measure_position(prompts: Sequence[Sequence[Vote]], resamples: int, seed: int) -> dict[str, float | None]:
    """Return the mean share of choices of the first image over prompts with a choice, and its 95 % interval.

    It is one half for a judge without position bias, such as one that prefers the same image in both orders.
    """
    chosen = ([vote.choice == vote.first for vote in votes if vote.choice != "tie"] for votes in prompts)
    shares = [fmean(firsts) for firsts in chosen if firsts]
    low, high = infer_mean(shares, resamples, seed).interval or (None, None)
    return {"first": fmean(shares) if shares else None, "first_low": low, "first_high": high}

"""The results of `agfsync judge --out`, and the warning where training weighs a judge heavily that they doubt."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agfsync.errors import FormatError
from agfsync.formats import Selector
from agfsync.stages.report.verdict import Alarm

HEAVY = 1 / 3
"""The share of the weights above which a judge weighs heavily."""


def read_check(path: Path) -> dict[str, Any]:
    """Return what `agfsync judge PAIRS --out` wrote at `path`.

    Raises:
        FormatError: it isn't there, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise FormatError(f"report.checks: {path} can't be read: {failure.strerror}") from failure
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"path", "judges", "accuracy"} <= found.keys():
        says = f"{path} isn't what `agfsync judge PAIRS --out FILE.json` writes: write it again"
        raise FormatError(f"report.checks: {says}")
    return found


def find_doubtful_judges(selectors: Sequence[Selector] | None, checks: Sequence[dict[str, Any]]) -> list[Alarm]:
    """Return an alarm for each judge that weighs heavily and is near a coin toss on a pair set that it was checked on.

    A judge is known by its type and models, whatever its name. It is near a coin toss if one half is in the interval of
    its accuracy, or above it.
    """
    total = sum(abs(each.weight) for each in selectors or ())
    found = []
    for each in selectors or ():
        share = abs(each.weight) / total if total else 0.0
        doubts = list(_list_doubts(each, checks)) if share > HEAVY else []
        if doubts:
            title = f"{each.name} has {100 * share:.0f} % of the weight, and is near a coin toss where it was checked"
            text = f"It prefers the preferred image in {', and in '.join(doubts)}."
            found.append(Alarm(title, f"{text} Lower its weight, or take a better judge."))
    return found


def _list_doubts(selector: Selector, checks: Sequence[dict[str, Any]]) -> Iterator[str]:
    for check in checks:
        names = [name for name, identity in check["judges"].items() if identity == selector.identity]
        for figures in (check["accuracy"].get("", {}).get(name, {}) for name in names):
            if figures.get("low") is not None and figures["low"] <= 0.5:
                share, low, high = (100 * figures[name] for name in ("accuracy", "low", "high"))
                yield f"{share:.1f} % ({low:.1f} to {high:.1f}) of {figures['pairs']:,} pairs of {check['path']}"

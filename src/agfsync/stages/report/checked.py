"""The results of `agfsync judge --out`, and warnings on heavily weighted judges that they show to be unreliable."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agfsync.errors import FormatError
from agfsync.formats import Selector
from agfsync.stages.report.verdict import Alarm

HEAVY = 1 / 3
"""the share of the total weight above which a judge is heavily weighted"""


def read_check(path: Path) -> dict[str, Any]:
    """Return the result that `agfsync judge PAIRS --out` wrote to `path`.

    Raises:
        FormatError: the file is missing, or isn't such a result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise FormatError(f"report.checks: {path} can't be read: {failure.strerror}") from failure
    except ValueError:
        result = None
    if not isinstance(result, dict) or not {"path", "judges", "accuracy"} <= result.keys():
        fault = f"{path} isn't what `agfsync judge PAIRS --out FILE.json` writes: run that again"
        raise FormatError(f"report.checks: {fault}")
    return result


def find_doubtful_judges(selectors: Sequence[Selector] | None, checks: Sequence[dict[str, Any]]) -> list[Alarm]:
    """Return an alarm for each heavily weighted judge that is near a coin toss on a pair set that it was checked on.

    Judges are matched by type and models, not by name. A judge is near a coin toss if the interval of its accuracy
    contains one half, or lies below it.
    """
    total = sum(abs(selector.weight) for selector in selectors or ())
    alarms = []
    for selector in selectors or ():
        share = abs(selector.weight) / total if total else 0.0
        doubts = list(_list_doubts(selector, checks)) if share > HEAVY else []
        if doubts:
            weight = f"{100 * share:.0f} % of the weight"
            title = f"{selector.name} has {weight}, and is near a coin toss where it was checked"
            text = f"It prefers the preferred image in {', and in '.join(doubts)}."
            alarms.append(Alarm(title, f"{text} Lower its weight, or take a better judge."))
    return alarms


def _list_doubts(selector: Selector, checks: Sequence[dict[str, Any]]) -> Iterator[str]:
    for check in checks:
        names = [name for name, identity in check["judges"].items() if identity == selector.identity]
        for figures in (check["accuracy"].get("", {}).get(name, {}) for name in names):
            if figures.get("low") is not None and figures["low"] <= 0.5:
                share, low, high = (100 * figures[name] for name in ("accuracy", "low", "high"))
                yield f"{share:.1f} % ({low:.1f} to {high:.1f}) of {figures['pairs']:,} pairs of {check['path']}"

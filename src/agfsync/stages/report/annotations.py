"""The agreement of the annotators' replies with each other, for the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agfsync.stages.annotating import ANNOTATORS
from agfsync.stages.report.evidence import Evidence
from agfsync.stages.report.verdict import format_p


@dataclass(frozen=True, slots=True)
class AnnotatorLine:
    """The checks of an aspect, formatted."""

    aspect: str
    replies: str
    refused: str
    unread: str
    rank_faults: str
    contradicted: str
    first_at: str
    position_p: str
    unequal: str


def list_annotators(evidence: Evidence) -> list[AnnotatorLine]:
    """Return a line for each aspect of each annotator."""
    lines = []
    for name, checks in _read_checks(evidence).items():
        for aspect, figures in checks["aspects"].items():
            line = AnnotatorLine(
                aspect=f"{name}.{aspect}",
                replies=f"{figures['replies']:,}",
                refused=f"{figures['refused']:,}",
                unread=f"{figures['unread']:,}",
                rank_faults=_format_share(figures["rank_faults"], figures["replies"]),
                contradicted=_format_share(figures["contradicted"], figures["couples"]),
                first_at=" / ".join(map(str, figures["first_at"])),
                position_p=format_p(figures["position_p"]),
                unequal=_format_share(figures["unequal_duplicates"], figures["duplicates"]),
            )
            lines.append(line)
    return lines


def describe_overall(evidence: Evidence) -> list[str]:
    """Return a sentence for each annotator that gave overall scores."""
    return [
        f"{name}: the overall score of {overall['apart']:,} of {overall['images']:,} images lies more than one level "
        f"from the mean of their aspects; on average it is {overall['difference']:+.2f} levels off."
        for name, checks in _read_checks(evidence).items()
        if (overall := checks.get("overall"))
    ]


def _read_checks(evidence: Evidence) -> Mapping[str, Any]:
    notes = evidence.finished["scores"].notes if "scores" in evidence.finished else {}
    checks: Mapping[str, Any] = notes.get(ANNOTATORS, {})
    return checks


def _format_share(count: int, total: int) -> str:
    """Return a count with its share: "12 of 72 (17 %)".

    >>> _format_share(12, 72), _format_share(0, 0)
    ('12 of 72 (17 %)', '')
    """
    return f"{count:,} of {total:,} ({100 * count / total:.0f} %)" if total else ""

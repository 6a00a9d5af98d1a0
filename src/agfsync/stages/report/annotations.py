"""The annotators of a run: how far their replies agree with each other, for the report."""

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
    """Return a line for each aspect of each annotator; none where there is no annotator."""
    lines = []
    for name, checks in _read_checks(evidence).items():
        for aspect, of in checks["aspects"].items():
            line = AnnotatorLine(
                aspect=f"{name}.{aspect}",
                replies=f"{of['replies']:,}",
                refused=f"{of['refused']:,}",
                unread=f"{of['unread']:,}",
                rank_faults=_format_share(of["rank_faults"], of["replies"]),
                contradicted=_format_share(of["contradicted"], of["couples"]),
                first_at=" / ".join(map(str, of["first_at"])),
                position_p=format_p(of["position_p"]),
                unequal=_format_share(of["unequal_duplicates"], of["duplicates"]),
            )
            lines.append(line)
    return lines


def describe_overall(evidence: Evidence) -> list[str]:
    """Return a sentence for each annotator that was asked for an overall score."""
    return [
        f"{name}: the overall score of {of['apart']:,} of {of['images']:,} images lies more than one level from the "
        f"mean of their aspects; on average it is {of['difference']:+.2f} levels off."
        for name, checks in _read_checks(evidence).items()
        if (of := checks.get("overall"))
    ]


def _read_checks(evidence: Evidence) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (
        evidence.finished["scores"].notes.get(ANNOTATORS, {}) if "scores" in evidence.finished else {}
    )
    return found


def _format_share(count: int, of: int) -> str:
    """Return a count with its share: "12 of 72 (17 %)".

    >>> _format_share(12, 72), _format_share(0, 0)
    ('12 of 72 (17 %)', '')
    """
    return f"{count:,} of {of:,} ({100 * count / of:.0f} %)" if of else ""

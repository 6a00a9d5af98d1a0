"""What the doctor found: a need for each stage, and what is missing."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Need:
    """What a stage takes; None is not known, or nothing to tell of. Memory is its device's, disk the run folder's."""

    stage: str
    models: list[str] = field(default_factory=list)
    runs: bool = False
    """whether it runs a network, so that memory and time are to be told"""
    memory: float | None = None
    """bytes"""
    disk: float | None = None
    """bytes"""
    seconds: float | None = None
    requests: float | None = None
    tokens: float | None = None
    """sent and received"""
    cost: float | None = None
    """in the currency of the recipe's prices"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what is wrong, where, and what to do. Without `blocks` the run can begin all the same."""

    says: str
    blocks: bool


@dataclass(slots=True)
class Findings:
    """All of them, each once."""

    all: list[Finding] = field(default_factory=list)

    def add(self, says: str, *, blocks: bool) -> None:
        if all(says != each.says for each in self.all):
            self.all.append(Finding(says, blocks))


@dataclass(frozen=True, slots=True)
class Examination:
    """Of a recipe on this machine."""

    recipe: str
    device: str
    """that `auto` takes"""
    needs: tuple[Need, ...]
    findings: tuple[Finding, ...]
    download: float
    """bytes of weights to be fetched from the hub"""

    @property
    def can_begin(self) -> bool:
        return not any(finding.blocks for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """For programs, as JSON can hold it; bytes and seconds."""
        missing = [finding.says for finding in self.findings if finding.blocks]
        notes = [finding.says for finding in self.findings if not finding.blocks]
        return {
            "recipe": self.recipe,
            "device": self.device,
            "can_begin": self.can_begin,
            "stages": [{n: v for n, v in asdict(need).items() if n != "runs"} for need in self.needs],
            "download": self.download,
            "missing": missing,
            "notes": notes,
        }

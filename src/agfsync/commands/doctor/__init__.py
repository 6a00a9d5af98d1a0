"""What a run of a recipe would take, and what it lacks: told before anything runs, nothing loaded and nothing made.

`examine` says for each stage its models, memory, disk, time and tokens, and what is missing. `docs/doctor.md` says how
each figure comes about and what is assumed.
"""

from agfsync.commands.doctor.examining import examine
from agfsync.commands.doctor.findings import Examination, Finding, Need

__all__ = ["Examination", "Finding", "Need", "examine"]

"""The writer of no questions, for recipes whose scorers ask none."""

from collections.abc import Sequence

from agfsync.language import QuestionDraft


class NoQuestions:
    """Writes no question on any caption; where a caption's file has questions, those are still taken."""

    identity = "none"
    concurrency = 1

    def questions(self, caption: str, seed: int) -> Sequence[QuestionDraft]:
        """Return none."""
        return ()

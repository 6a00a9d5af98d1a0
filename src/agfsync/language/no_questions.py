"""A question writer that writes none, for recipes with scorers that don't ask questions."""

from collections.abc import Sequence

from agfsync.language import QuestionDraft


class NoQuestions:
    """Writes no questions. Questions in a caption's file are still used."""

    identity = "none"
    concurrency = 1

    def questions(self, caption: str, seed: int) -> Sequence[QuestionDraft]:
        """Return no questions."""
        return ()

"""The pairwise judge in this process: an image-text-to-text model that reads two images at once."""

from collections.abc import Sequence

from PIL import Image

from agfsync.chat.completions import Reply, explain_reply
from agfsync.scorers import Unscored
from agfsync.scorers.narrow import explain_refusal
from agfsync.scorers.pairwise import COMPARE, Ballot, Match, ask_about, read_ballot
from agfsync.scorers.vlm import ImageReader


class PairwiseVlm:
    """A judge of two images: a greedy reply of at most `reply_tokens` tokens for each match.

    `path` is a folder or a hub id of a model that the scorer `vlm` supports; it must be trained on several images.
    """

    def __init__(
        self,
        *,
        path: str,
        reply_tokens: int = 256,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._reader = ImageReader(path, revision, dtype, device)
        self._reply_tokens = reply_tokens

    def compare(self, matches: Sequence[Match]) -> list[Ballot | Unscored]:
        """Return one result for each match, in order."""
        return [self._ask(match) for match in matches]

    def _ask(self, match: Match) -> Ballot | Unscored:
        content: list[Image.Image | str] = [
            COMPARE,
            "Picture 1:",
            match.first,
            "Picture 2:",
            match.second,
            ask_about(match),
        ]
        try:
            text, cut = self._reader.reply(content, self._reply_tokens)
        except ValueError as refusal:
            return Unscored(explain_refusal((match.first, match.second), refusal))
        reply = Reply(text, finish="length" if cut else "stop", cut=cut)
        return read_ballot(text, reply.answer, explain_reply(reply, f"reply_tokens = {self._reply_tokens}"))

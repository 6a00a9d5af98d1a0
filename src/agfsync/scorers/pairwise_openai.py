"""The pairwise judge behind an OpenAI-compatible server."""

from collections.abc import Mapping, Sequence
from typing import Any

from agfsync.chat.client import Client, make_response_format
from agfsync.chat.completions import explain_reply
from agfsync.chat.meter import Meter
from agfsync.chat.threads import map_in_threads
from agfsync.errors import BudgetError, NoReplyError
from agfsync.scorers import CapReached, Unscored
from agfsync.scorers.pairwise import COMPARE, Ballot, ChoiceReply, Match, ask_about, read_ballot
from agfsync.scorers.vqa_openai import make_data_url


class PairwiseOpenAI:
    """A judge of two images: one request for each match, with both images inline as lossless PNG, at temperature 0.

    `path` is the server's name of the model, `server` the section `server` of the recipe. `meter` counts and caps the
    cost of the requests.
    """

    def __init__(
        self,
        *,
        path: str,
        server: Mapping[str, Any] | None = None,
        revision: str | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._client = Client.of_judge("a pairwise-openai judge", path, server, meter)

    def compare(self, matches: Sequence[Match]) -> list[Ballot | Unscored]:
        """Return one result for each match, in order.

        Raises:
            ModelError: there is no server or no such model, or the server rejects the key.
            CapReached: the next request might exceed the meter's cap.
        """
        results: list[Ballot | Unscored] = []
        try:
            for said in map_in_threads(self._ask, matches, self._client.at_once):
                results.append(said)  # `CapReached` carries the results so far
        except BudgetError as reached:
            raise CapReached(str(reached), results) from None
        return results

    def _ask(self, match: Match) -> Ballot | Unscored:
        content: list[dict[str, Any]] = []
        for number, image in enumerate((match.first, match.second), start=1):
            content.append({"type": "text", "text": f"Picture {number}:"})
            content.append({"type": "image_url", "image_url": {"url": make_data_url(image)}})
        content.append({"type": "text", "text": ask_about(match)})
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": COMPARE},
            {"role": "user", "content": content},
        ]
        try:
            reply = self._client.reply(messages, response_format=make_response_format(ChoiceReply))
        except NoReplyError as fault:
            return Unscored(str(fault))
        return read_ballot(reply.text, reply.answer, explain_reply(reply, self._client.limit))

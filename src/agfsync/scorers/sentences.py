"""A sentence model that replaces a free answer by the nearest choice, as TIFA does (arXiv:2303.11897, 3.3)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel

from agfsync.models import pretrained
from agfsync.records import Answer, Question
from agfsync.scorers import Unscored


class SentenceModel:
    """A text encoder that averages the embeddings of a text's tokens.

    `path` is a folder or a hub id, such as TIFA's `sentence-transformers/all-mpnet-base-v2`.
    """

    def __init__(self, path: str, *, device: str = "auto") -> None:
        self._model = pretrained.load_model(AutoModel, path, None, "fp32", device)
        self._tokenizer = pretrained.load_tokenizer(path, None)
        self._known: dict[tuple[str, tuple[str, ...]], str] = {}

    def replace(self, found: Answer | Unscored, question: Question, said: str) -> Answer | Unscored:
        """Return `found` with the choice nearest to the reply `said`; unchanged if `question` has no choices."""
        if isinstance(found, Unscored) or not question.choices:
            return found
        return replace(found, answer=self.choose(said.strip(), question.choices))

    def choose(self, answer: str, choices: tuple[str, ...]) -> str:
        """Return `answer` if it is one of `choices`, else the choice with the largest cosine similarity to it."""
        if answer in choices:
            return answer
        if (answer, choices) not in self._known:
            first_E, *others = self._embed([answer, *choices])
            self._known[answer, choices] = choices[int((torch.stack(others) @ first_E).argmax())]
        return self._known[answer, choices]

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Return the unit-norm embedding of each text, fp32 (N, E) on the CPU."""
        inputs = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self._model.device)
        states_NTE = self._model(**inputs).last_hidden_state
        mask_NT1 = inputs["attention_mask"][..., None].to(states_NTE.dtype)
        means_NE = (states_NTE * mask_NT1).sum(1) / mask_NT1.sum(1).clamp(min=1e-9)
        return normalize(means_NE, dim=1).float().cpu()

"""Reward models as scorers: those that this package trains (VP-Score), and the published ImageReward.

Wu et al. 2024, arXiv:2404.15100; Xu et al. 2023, arXiv:2304.05977.

Shapes: B images, C, H, W their pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models.artefact import MODEL_FILE, ModelArtefact
from agfsync.scorers import Item, Measurement, Unscored, measure_reward
from agfsync.scorers.reward_networks import RewardModel
from agfsync.scorers.reward_networks.blip_head import BlipReward

IMAGEREWARD_SCALE = (0.16717362830052426, 1.0333394966054072)
"""Mean and standard deviation of the output of ImageReward's head on the authors' data, published with their code."""


class VpScore:
    """The scorer `vp-score`: 100 x sigmoid(reward), where the reward is (output - mean) / standard deviation.

    An average image of the training has the value 50, the order of images is that of the outputs, and the reward is
    log(value / (100 - value)). The head is trained so that sigmoid(difference of two outputs) is the probability that
    the first image is preferred to the second.

    `path` is the folder of a reward model that a run has trained, with its `model.json`. Without that file it is a BLIP
    of ImageReward's architecture, which gives configuration and tokenizer, and the weights too if they are
    ImageReward's. Otherwise `weights` gives them, by the published names or transformers'.
    """

    asks_questions = False

    def __init__(
        self,
        *,
        path: str,
        weights: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        self._model = open_reward_model(path, weights, revision, dtype, device)
        self._model.network.requires_grad_(False)

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> list[Measurement | Unscored]:
        """Return one result for each item; its questions aren't used."""
        if not items:
            return []
        resized_BCHW = self._model.resize_images([item.image for item in items])
        pixels_BCHW = self._model.standardise_images(resized_BCHW)
        rewards_B, truncated = self._rate(pixels_BCHW, [item.prompt for item in items])
        return [measure_reward(reward, cut) for reward, cut in zip(rewards_B.tolist(), truncated, strict=True)]

    def rewards(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return 100 x sigmoid(reward) with a gradient; `standardise` undoes the sigmoid, so that it doesn't vanish."""
        rewards_B, _ = self._rate(self._model.process_pixels(pixels_BCHW), prompts)
        return 100 * rewards_B.sigmoid().to(pixels_BCHW.device)

    @staticmethod
    def standardise(values_B: Tensor) -> Tensor:
        """Return the standardised rewards for values on the scale of `score`: log(value / (100 - value))."""
        return torch.logit(values_B / 100, eps=1e-6)

    def _rate(self, pixels_BCHW: Tensor, prompts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """Return the standardised rewards, fp32 (B,), and True for each prompt that was truncated."""
        tokens, truncated = self._model.tokenize(prompts)
        there = {name: each.to(self._model.device) for name, each in tokens.items()}
        (mean, deviation), network = self._model.scale, self._model.network
        return (network(pixels_BCHW.to(self._model.device), there) - mean) / deviation, truncated


def open_reward_model(
    path: str, weights: str | None = None, revision: str | None = None, dtype: str = "fp32", device: str = "auto"
) -> RewardModel:
    """Load the reward model of a folder with `model.json`, or else one of ImageReward's architecture.

    Raises:
        ModelError: there is none.
    """
    folder = Path(path)
    if weights is not None or not (folder / MODEL_FILE).is_file():
        model: RewardModel = BlipReward(path=path, weights=weights, revision=revision, dtype=dtype, device=device)
        model.scale = IMAGEREWARD_SCALE
        return model
    artefact = ModelArtefact.load(folder)
    base, scale = artefact.require_reward(folder)
    known, kind = catalog.list_names("networks"), base.get("type")
    if kind not in known:
        raise ModelError(f"{path} holds a reward model of the type {kind}: known are {', '.join(known)}")
    made = {"type": kind, "path": path, "activation": base.get("activation", "none"), "dtype": dtype, "device": device}
    trained: RewardModel = catalog.build("networks", made)
    trained.scale = scale
    return trained

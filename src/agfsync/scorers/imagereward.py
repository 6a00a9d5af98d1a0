"""ImageReward: a BLIP with a head, trained on people's rankings (Xu et al., 2023, arXiv 2304.05977).

The weights are published as a pickle, which isn't read here: take them as safetensors. `blip_head` has their names.
"""

from agfsync.errors import ModelError
from agfsync.scorers.reward_networks.blip_head import BlipReward
from agfsync.scorers.vp_score import IMAGEREWARD_SCALE, VpScore

MEAN, STD = IMAGEREWARD_SCALE


class ImageReward(VpScore):
    """The scorer: 100 x sigmoid(reward), where the reward is the head's output less its mean, over its deviation.

    So 50 is the reward of the authors' average image; with a deviation of 1.03, the value is about the chance in
    percent against an image of average reward.

    `path` is a folder or hub id of any BLIP of the same build (the published one is large): its configuration and
    tokenizer are taken, and its weights where they are ImageReward's. `weights` has them otherwise: a safetensors file,
    or a folder or hub id of one, by the published names or transformers'. A reward model of this build that a run has
    trained is also taken, with its own mean and deviation.
    """

    def __init__(
        self,
        *,
        path: str,
        weights: str | None = None,
        revision: str | None = None,
        dtype: str = "fp32",
        device: str = "auto",
    ) -> None:
        super().__init__(path=path, weights=weights, revision=revision, dtype=dtype, device=device)
        if not isinstance(self._model, BlipReward):
            raise ModelError(f"{path} is a {self._model.type}: an imagereward scorer takes a blip-head; see vp-score")

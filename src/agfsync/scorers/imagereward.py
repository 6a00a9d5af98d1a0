"""ImageReward: a BLIP with a head, trained on human rankings (Xu et al., 2023, arXiv 2304.05977).

The weights are published as a pickle, which isn't supported here: convert them to safetensors. `blip_head` lists their
names.
"""

from agfsync.errors import ModelError
from agfsync.scorers.reward_networks.blip_head import BlipReward
from agfsync.scorers.vp_score import IMAGEREWARD_SCALE, VpScore

MEAN, STD = IMAGEREWARD_SCALE


class ImageReward(VpScore):
    """The scorer: 100 x sigmoid(reward), where the reward is (output - mean) / standard deviation of the head's output.

    The value of the authors' average image is 50. As the deviation is 1.03, the value is about the probability in
    percent that the image is preferred to one of average reward.

    `path` is a folder or hub id of a BLIP of the same architecture (the published one is large). It gives configuration
    and tokenizer, and the weights too if they are ImageReward's. Otherwise `weights` gives them: a safetensors file, or
    a folder or hub id that has one, by the published names or transformers'. `path` may also be a reward model of this
    architecture that a run has trained, with its own mean and deviation.
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

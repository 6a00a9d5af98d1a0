"""AWM, advantage-weighted matching (arXiv:2509.25050): the model's own loss as the log-likelihood of a policy."""

from dataclasses import dataclass

from torch import Tensor

from agfsync.models.schedules import NoiseSchedule
from agfsync.training.methods.clean_images import CleanBatch, CleanImageMethod
from agfsync.training.methods.policy_gradient import compute_policy_loss
from agfsync.training.noising import squared_error


@dataclass(frozen=True, kw_only=True)
class AdvantageWeightedMatching(CleanImageMethod):
    """The method `awm`: lower the errors of images with a positive advantage, and raise those of the others.

    The log-ratio of an image is m_old - m, the decrease of its error at one noise and time. The ratio is clipped at
    `clip` as in PPO.
    """

    clip: float = 0.2

    def compute_errors(
        self, schedule: NoiseSchedule, batch: CleanBatch, noisy_BCHW: Tensor, predicted_BCHW: Tensor
    ) -> Tensor:
        target_BCHW = schedule.target(batch.clean_BCHW, batch.noise_BCHW, batch.times_B)
        error_B, old_B = (squared_error(each, target_BCHW) for each in (predicted_BCHW, batch.old_BCHW))
        return compute_policy_loss(old_B - error_B, batch.advantages_B, self.clip)

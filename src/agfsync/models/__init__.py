"""What draws."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

LORA_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA in a folder."""


EXCHANGED = ("vae", "unet", "transformer")
"""Parts of pipelines that another model may give."""
UNLOADED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that no generator loads."""


class Generator(Protocol):
    """A text-to-image model with its sampling settings."""

    identity: str
    """What of this generator shapes its pictures; kept beside each of them."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> Sequence[Image.Image]:
        """One picture for each prompt and its seed, in order, all in one batch.

        Each seed starts one CPU generator that gives the image's embedding noise n ~ N(0, `embedding_noise`^2 I) and
        its latents z0, as in x0 = G(c + n, z0) (Eq. 1). Equal prompts are encoded once.
        """
        ...

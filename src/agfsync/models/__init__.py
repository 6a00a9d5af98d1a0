"""Text-to-image models: loading, noise schedules and sampling, with one file for each architecture."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

LORA_FILE = "pytorch_lora_weights.safetensors"
"""The file name of a LoRA in diffusers."""
EXCHANGED = ("vae", "unet", "transformer")
"""The parts of a pipeline that may come from another model."""
NETWORKS = ("unet", "transformer")
"""The parts of a pipeline that denoise; its other networks are encoders."""
UNLOADED = ("safety_checker", "feature_extractor", "image_encoder")
"""The parts of a pipeline that are never loaded."""


class Generator(Protocol):
    """A text-to-image model with its sampling settings."""

    identity: str
    """The digest of everything that affects its images; it is stored with each image."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float) -> Sequence[Image.Image]:
        """Draw one image for each prompt with its seed, in order, all in one batch.

        Each seed initialises a CPU generator that draws the image's embedding noise n ~ N(0, `embedding_noise`^2 I) and
        its latents z0, as in x0 = G(c + n, z0) (Eq. 1). Equal prompts are encoded once.
        """
        ...

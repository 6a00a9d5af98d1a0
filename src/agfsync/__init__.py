"""Align text-to-image diffusion models with AI feedback, without a human label (AGFSync, arXiv 2403.13352)."""

__version__ = "0.1.0"

"""Fixtures that the tests of several folders share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random `StableDiffusionPipeline` that draws 16x16 pixels from 8x8 latents."""
    from tiny_diffusion import pipeline

    folder = tmp_path_factory.mktemp("tiny") / "generator"
    pipeline().save_pretrained(folder)
    return folder

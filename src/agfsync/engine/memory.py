"""Gives memory back. Imports no torch, and works with it."""

import gc
import sys
from typing import Any


def release() -> None:
    """Give back the memory of a model, or of a batch, that was let go of."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()

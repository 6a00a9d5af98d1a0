"""The trained model of a run: a folder with `model.json`, which describes the model.

`model.json` holds the base model, its revision and every setting that differs from the defaults, the adapters in the
folder, and the steering of a training-free method. No other file describes the model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from agfsync.errors import ModelError
from agfsync.files.atomic import store_errors, write_atomic
from agfsync.models import EXCHANGED

MODEL_FILE = "model.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ModelArtefact:
    """The content of `model.json`.

    `base` holds the settings of the base model, with the keys of a recipe's `model`. `kind` is "pipeline" if the folder
    holds a whole pipeline, "adapters" if it holds LoRAs of the base model, "base" if it holds no weights, and "reward"
    for a reward model; its `base` is the network that was trained. `steering` are the settings of a training-free
    method, `scale` the mean and deviation of a reward model's outputs on the images that it was trained on.
    """

    kind: Literal["pipeline", "adapters", "base", "reward"]
    base: Mapping[str, Any]
    adapters: tuple[str, ...] = ()
    steering: Mapping[str, Any] | None = None
    scale: tuple[float, float] | None = None
    format: int = field(default=_FORMAT)

    def save(self, folder: Path) -> None:
        """Write `model.json` into `folder`."""
        write_atomic(folder / MODEL_FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `model.json` from `folder`.

        Raises:
            ModelError: there is no `model.json`, or it is invalid or of another format.
        """
        path = folder / MODEL_FILE
        if not path.is_file():
            raise ModelError(
                f"no trained model at {folder}: there is no {MODEL_FILE}, which a training writes at its end"
            )
        try:
            with store_errors(path):
                tree = json.loads(path.read_text(encoding="utf-8"))
            if tree["format"] != _FORMAT:
                raise ModelError(f"{path} has format {tree['format']}; this version reads format {_FORMAT}")
            mean, deviation = map(float, tree.get("scale") or (0, 1))
            scale = (mean, deviation) if tree.get("scale") else None
            return cls(tree["kind"], tree["base"], tuple(tree["adapters"]), tree["steering"], scale)
        except (ValueError, KeyError, TypeError) as failure:
            raise ModelError(f"{path} is no description of a model: train again, or restore the file") from failure

    def require_reward(self, folder: Path) -> tuple[Mapping[str, Any], tuple[float, float]]:
        """Return the network and the scale of the reward model in `folder`.

        Raises:
            ModelError: the model isn't a reward model.
        """
        if self.kind != "reward" or self.scale is None:
            raise ModelError(f"{folder} holds a model of the kind {self.kind}, which rates no image")
        return self.base, self.scale

    def extend_arguments(self, base: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return the arguments that create this model: those of the `base` model, with this model's changes."""
        if self.kind == "adapters":
            return {**base, "adapter": folder}
        if self.kind == "pipeline":
            # A saved pipeline has all of its parts, and no variant.
            own = dict.fromkeys(("revision", "variant", *EXCHANGED))
            return {**base, **{name: value for name, value in own.items() if name in base}, "path": str(folder)}
        return {**base, **({"steering": self.steering} if self.steering else {})}

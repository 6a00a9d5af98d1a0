"""Check that a model has the members that training needs."""

import dis
from collections.abc import Iterator, Mapping, Sequence
from inspect import isfunction
from typing import Any

from agfsync.training import DifferentiableModel, DiffusionModel, SamplingModel, TracedModel, TrainableModel


def _list_members(*kinds: type) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for kind in kinds for name in vars(kind) if not name.startswith("_")))


NEEDED = _list_members(TrainableModel, DiffusionModel)
NEEDED_FOR: Mapping[str, tuple[str, ...]] = {
    "training": NEEDED,
    "sampling": _list_members(TrainableModel, DiffusionModel, SamplingModel),
    "gradients": _list_members(TrainableModel, DiffusionModel, DifferentiableModel),
    "tracked noise": _list_members(TrainableModel, DiffusionModel, TracedModel),
}
"""Use of a model -> the members that it needs: any training, images drawn in training, the gradient of a reward, the
noise that an image was drawn from."""
_USES = {
    "sampling": " on images that it draws in training",
    "gradients": " by the gradient of a reward",
    "tracked noise": " on tracked noise",
}


def list_missing_of_class(kind: type, needed: Sequence[str] = NEEDED) -> list[str]:
    """Return the names in `needed` that objects of the class `kind` lack.

    The class's methods, annotations and assigned attributes are searched. No object is created. A class with
    `__getattr__` counts as having every name.

    >>> list_missing_of_class(int)[:2]
    ['device', 'network']
    """
    if hasattr(kind, "__getattr__"):
        return []
    has = set(dir(kind)) | set(_list_attributes(kind))
    return [name for name in needed if name not in has]


def list_missing(model: Any, needed: Sequence[str] = NEEDED) -> list[str]:
    """Return the names in `needed` that `model` lacks, with the reason if a name is defined but fails."""
    found = []
    for name in needed:
        try:
            getattr(model, name)
        except AttributeError as failure:
            own = any(name in vars(kind) for kind in type(model).__mro__)
            found.append(f"{name} ({failure})" if own else name)
    return found


def explain_untrainable(type_: str, missing: Sequence[str], use: str = "training") -> str:
    """Return the message about a model of the type `type_` that lacks the members `missing` for a use in training."""
    how = "" if set(NEEDED) & {name.split(" ")[0] for name in missing} else _USES.get(use, "")
    return f"a model of the type {type_} draws and is scored, but can't be trained{how}: it has no {', '.join(missing)}"


def _list_attributes(kind: type) -> Iterator[str]:
    """Yield the attributes that a class annotates and those that its methods assign."""
    for each in kind.__mro__:
        yield from vars(each).get("__annotations__", {})
        for method in vars(each).values():
            if isfunction(method):
                yield from (i.argval for i in dis.get_instructions(method) if i.opname == "STORE_ATTR")

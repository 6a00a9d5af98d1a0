"""Check that a model has the members that training needs."""

import dis
from collections.abc import Iterator, Sequence
from inspect import isfunction
from typing import Any

from agfsync.training import DiffusionModel, TrainableModel

NEEDED = tuple(name for kind in (TrainableModel, DiffusionModel) for name in vars(kind) if not name.startswith("_"))


def list_missing_of_class(kind: type) -> list[str]:
    """Return the names that objects of class `kind` lack, by its methods, annotations and assigned attributes.

    No object is created. A class with `__getattr__` is taken to have every name.

    >>> list_missing_of_class(int)[:2]
    ['device', 'network']
    """
    if hasattr(kind, "__getattr__"):
        return []
    has = set(dir(kind)) | set(_list_attributes(kind))
    return [name for name in NEEDED if name not in has]


def list_missing(model: Any) -> list[str]:
    """Return the names that `model` lacks; with the reason for one that is defined and fails."""
    found = []
    for name in NEEDED:
        try:
            getattr(model, name)
        except AttributeError as failure:
            own = any(name in vars(kind) for kind in type(model).__mro__)
            found.append(f"{name} ({failure})" if own else name)
    return found


def explain_untrainable(type_: str, missing: Sequence[str]) -> str:
    """Return the message about a model of the type `type_` that lacks what training needs."""
    return f"a model of the type {type_} draws and is scored, but can't be trained: it has no {', '.join(missing)}"


def _list_attributes(kind: type) -> Iterator[str]:
    """Yield the attributes that a class annotates or its methods assign."""
    for each in kind.__mro__:
        yield from vars(each).get("__annotations__", {})
        for method in vars(each).values():
            if isfunction(method):
                yield from (i.argval for i in dis.get_instructions(method) if i.opname == "STORE_ATTR")

"""What alignment needs of a generator and doesn't find."""

import dis
from collections.abc import Iterator, Sequence
from inspect import isfunction
from typing import Any

from agfsync.training import Denoiser, TrainableModel

NEEDED = tuple(name for kind in (TrainableModel, Denoiser) for name in vars(kind) if not name.startswith("_"))


def missing_of_class(kind: type) -> list[str]:
    """Return what objects of class `kind` lack, by its methods, annotations and what its methods assign.

    Nothing is made. A class that answers for any name (`__getattr__`) is taken to have all.

    >>> missing_of_class(int)[:2]
    ['device', 'network']
    """
    if hasattr(kind, "__getattr__"):
        return []
    has = set(dir(kind)) | set(_declared(kind))
    return [name for name in NEEDED if name not in has]


def missing_of(generator: Any) -> list[str]:
    """Return what the object `generator` lacks, each with the reason where it is there and fails."""
    found = []
    for name in NEEDED:
        try:
            getattr(generator, name)
        except AttributeError as failure:
            own = any(name in vars(kind) for kind in type(generator).__mro__)
            found.append(f"{name} ({failure})" if own else name)
    return found


def untrainable_type(type_: str, missing: Sequence[str]) -> str:
    """Return what to say of a generator that lacks what alignment needs."""
    return f"a generator of the type {type_} draws and is scored, but can't be trained: it has no {', '.join(missing)}"


def _declared(kind: type) -> Iterator[str]:
    for each in kind.__mro__:
        yield from vars(each).get("__annotations__", {})
        for method in vars(each).values():
            if isfunction(method):
                yield from (i.argval for i in dis.get_instructions(method) if i.opname == "STORE_ATTR")

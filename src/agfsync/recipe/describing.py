"""The keys of a recipe in words: meaning, type, bounds and default, for the terminal and the documentation site."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@cache
def read_attribute_docstrings(owner: type) -> Mapping[str, str]:
    """Return the string below each annotated attribute of a class, its base classes' included.

    Third-party classes, and classes without source such as a plug-in's settings, add nothing.
    """
    docstrings: dict[str, str] = {}
    for base in reversed(owner.__mro__):
        if not base.__module__.startswith("agfsync"):
            continue
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):
            continue  # no source: the key's help is left out
        assert isinstance(definition, ast.ClassDef)
        for statement, after in pairwise(definition.body):
            match statement, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docstrings[name] = text
    return docstrings


def find_sections(annotation: Any, path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (path, section) for the recipe's sections in a field's type; NAME stands for a key that the user names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield path, annotation
    origin = get_origin(annotation)
    for argument in get_args(annotation):
        if origin is not Literal:
            yield from find_sections(argument, f"{path}.NAME" if origin in (dict, Mapping) else path)


def format_type(annotation: Any, metadata: list[Any]) -> str:
    """Return a field's type in words, with its bounds; values are in backticks.

    >>> format_type(Literal["a", "b", "c"] | None, [])
    'one of `a`, `b` or `c`'
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return format_type(arguments[0], [*metadata, *arguments[1:]])
    if isinstance(annotation, FieldInfo):
        return ""
    if origin is Literal:
        return ("one of " if len(arguments) > 2 else "") + " or ".join(
            ", ".join(f"`{each}`" for each in arguments).rsplit(", ", 1)
        )
    if origin in (Union, UnionType):
        return " or ".join(format_type(each, metadata) for each in arguments if each is not NoneType)
    if origin is tuple:
        return "a list of " + format_type(arguments[0], []) if arguments[-1] is ... else f"{len(arguments)} values"
    if origin in (dict, Mapping):
        return f"a mapping of names to {format_type(arguments[1], [])}"
    words = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return ", ".join([words.get(annotation, getattr(annotation, "__name__", str(annotation))), *_list_bounds(metadata)])


def format_default(field: FieldInfo) -> str:
    """Return a field's default in words, after a semicolon; empty for a section, whose keys have defaults."""
    if field.default is PydanticUndefined:
        return "" if field.default_factory else "; required"
    if field.default is None or isinstance(field.default, BaseModel):
        return "" if field.default is not None else "; absent by default"
    if isinstance(field.default, Mapping) and any(isinstance(value, BaseModel) for value in field.default.values()):
        return f"; default: {', '.join(f'`{name}`' for name in field.default)}"
    if field.default in ("", ()):
        return "; empty by default"
    return f"; default `{field.default if isinstance(field.default, str) else json.dumps(field.default)}`"


def _list_bounds(metadata: list[Any]) -> Iterator[str]:
    """Yield the bounds among a field's metadata in words."""
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from _list_bounds(each.metadata)
        for name, words in {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}.items():
            if getattr(each, name, None) is not None:
                yield f"{words} {getattr(each, name)}"

"""`agfsync methods`: the alignment methods of the catalog, and the settings of one.

The facts of a method are attributes of its settings class, or of the class of a third-party method; listing the
project's own methods doesn't import torch.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap

from pydantic import BaseModel

from agfsync import catalog
from agfsync.recipe.describing import find_sections, format_default, format_type, read_attribute_docstrings
from agfsync.recipe.methods import MethodSettings
from agfsync.recipe.types import find_settings

METHOD_FAMILIES = ("pairs", "supervised", "online", "reward gradient", "training-free", "reward model")
_ALL_MODELS = "all that can be trained"
USUAL_FAMILIES = {"pairs": "pairs", "scores": "supervised", "captions": "online", "nothing": "training-free"}
"""`needs` of a method -> its family, if it names none"""


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """The facts of a method that `agfsync methods` shows."""

    name: str
    family: str
    """one of METHOD_FAMILIES; empty for the methods given and none, which align nothing"""
    needs: str
    """the table that it trains on: pairs, scores, captions or nothing"""
    models: tuple[str, ...]
    """the types of models that it works with, empty for all that can be trained"""
    paper: str
    summary: str


def list_methods() -> list[MethodFacts]:
    """Return the facts of all methods by family, in the catalog's order within a family.

    A third-party method that can't be imported has the reason as its summary.
    """
    methods = [_read_facts(name) for name in catalog.list_names("methods")]
    order = (*METHOD_FAMILIES, *dict.fromkeys(facts.family for facts in methods if facts.family not in METHOD_FAMILIES))
    return sorted(methods, key=lambda facts: order.index(facts.family))


def format_methods(methods: Sequence[MethodFacts], width: int) -> str:
    """Return a block for each family with a paragraph for each method, in lines of at most `width` columns."""
    lines: list[str] = []
    column = " " * (max(len(facts.name) for facts in methods) + 4)
    for family, members in groupby(methods, lambda facts: facts.family):
        lines += ["", family or "no alignment"]
        for facts in members:
            lines += _fill(facts.summary, width, column, f"  {facts.name}".ljust(len(column)))
            lines += _fill(_join_facts(facts), width, column) if facts.family else []
    lines += ["", *_fill(f"Models: {_ALL_MODELS}, unless some are named.", width)]
    return "\n".join([*lines[1:], *_fill("`agfsync methods NAME` shows the settings of a method.", width)])


def format_method(name: str, width: int) -> str:
    """Return a method's facts and its settings, in lines of at most `width` columns.

    Raises:
        RecipeError: no method has this name.
    """
    section, facts = find_settings("methods", name), _read_facts(name)
    stage = "reward" if getattr(section, "trains", "") == "reward" else "training"
    lines = [*_fill(f"{name}: {facts.summary}", width)]
    for label, value in {
        "family": facts.family,
        "needs": facts.needs,
        "models": ", ".join(facts.models) or _ALL_MODELS,
        "paper": facts.paper,
    }.items():
        lines += _fill(value, width, " " * 8, f"{label}:".ljust(8)) if value and facts.family else []
    _, _, details = (inspect.getdoc(section) or "").partition("\n\n")
    for paragraph in details.split("\n\n") if details and section.__module__.startswith("agfsync") else ():
        lines += ["", *_fill(paragraph.replace("`", ""), width, "  ")]
    lines += ["", f"settings of {stage}.method:"]
    settings = list(_list_settings(section, "", set(MethodSettings.model_fields)))
    for key, kind, meaning in settings:
        lines += _fill(f"{key}: {kind}", width, "  ")
        lines += _fill(meaning, width, "    ") if meaning else []
    return "\n".join(lines if settings else [*lines, "  none"])


def _read_facts(name: str) -> MethodFacts:
    try:
        section = find_settings("methods", name)
    except Exception as failure:  # importing a third-party module can raise any error
        reason = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
        return MethodFacts(name, "can't be imported", "", (), "", " ".join(reason.split()))
    assert issubclass(section, MethodSettings)
    family = section.family or ("" if name in ("given", "none") else USUAL_FAMILIES.get(section.needs, "other"))
    docstring = section.summary or inspect.getdoc(catalog.find("methods", name)) or ""
    summary = " ".join(docstring.partition("\n\n")[0].split())
    return MethodFacts(name, family, section.needs, section.models, section.paper, summary)


def _join_facts(facts: MethodFacts) -> str:
    """Return one line with a method's needs, its models if not all, and its paper."""
    models = f"models: {', '.join(facts.models)}" if facts.models else ""
    return "; ".join(part for part in (f"needs {facts.needs}" if facts.needs else "", models, facts.paper) if part)


def _list_settings(section: type[BaseModel], path: str, excluded: set[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (key, type with default, meaning) for each setting, including those of inner sections."""
    docstrings = read_attribute_docstrings(section)
    for name, field in section.model_fields.items():
        if name in excluded:
            continue
        sections: Sequence[tuple[str, type[BaseModel]]] = list(find_sections(field.annotation, path + name))
        kind = "a section" if sections else format_type(field.annotation, field.metadata)
        meaning = field.description or docstrings.get(name) or ""
        yield path + name, (kind + format_default(field)).replace("`", ""), " ".join(meaning.replace("`", "").split())
        for place, inner in sections:
            yield from _list_settings(inner, f"{place}.", set())


def _fill(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    """Return the lines of a paragraph, indented by `indent`; the first line starts with `first` instead."""
    width = max(width, len(indent) + 20)
    initial = indent if first is None else first
    return wrap(text, width, initial_indent=initial, subsequent_indent=indent, break_on_hyphens=False) or [initial]

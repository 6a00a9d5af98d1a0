"""Write the reference pages of the site, from the recipe's schema, the command line, the records and the public API.

`docs/conf.py` calls `write_pages` at each build; nothing in docs/reference is written by hand, or committed.
"""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

import agfsync
from agfsync import catalog, records
from agfsync.recipe import Recipe
from agfsync.recipe.describing import find_sections, format_default, format_type, read_attribute_docstrings
from agfsync.recipe.types import BASES, SETTINGS, MethodSettings

INDEX = """# Reference

Generated from the source at each build of this site.

```{toctree}
recipe
commands
api
plugins
tables
examples
```
"""
RECIPE = """# Recipe keys

A recipe is a YAML file; a key that it leaves out has the default below. `--set KEY=VALUE` sets a key for one run, such
as `--set captions.count=64`. `agfsync recipes show NAME` prints a shipped recipe, and the `recipe.yaml` of a run folder
has every key with its value.
"""
API = """# Python API

`import agfsync` is quick: torch is imported when something needs it.
"""
PLUGINS = """# Plug-ins

Another package adds to agfsync by an entry point of one of these groups; a recipe then names it as a `type` or as a
`writer`. [A scorer in one file](../contributing.md) shows the whole of it. `agfsync.catalog` lists the built-in ones:

| group | built in |
|---|---|
"""
TABLES = """# Tables of a run

Each stage writes its records as Parquet parts into a folder of its name, which
`datasets.load_dataset("parquet", data_files="runs/mine/pairs/*.parquet")` reads. Hugging Face `datasets` decodes the
images. [The run folder](../concepts.md#the-run-folder) has what else lies there.
"""
EXAMPLES = """# Examples

Each of these scripts is in `examples/`, and the test suite runs it on the embedded world.
"""
PROTOCOLS = ("scorers", "models", "language", "choices", "training", "formats")
"""Modules that hold the protocols that a plug-in follows, and the types they speak of."""


PATHS = {
    "models": "model",
    "scorers": "scorers.NAME",
    "pairwise": "evaluation.sets.NAME.pairwise",
    "captions": "captions.writer",
    "questions": "questions.writer",
    "polishers": "captions.polish",
    "methods": "training.method",
    "parsers": "training.method.parser",
    "networks": "reward.method.network",
    "choices": "pairs.choose",
}
"""The section of a recipe whose `type` each kind of the catalog is."""


def write_pages(folder: Path) -> None:
    """Write every reference page into `folder`. Unchanged pages keep their time, so that Sphinx skips them."""
    folder.mkdir(exist_ok=True)
    pages = {
        "index": INDEX,
        "recipe": describe_recipe(),
        "commands": describe_commands(),
        "api": API + "\n".join(describe_api()),
        "plugins": "\n".join(describe_plugins()),
        "tables": TABLES + "\n".join(describe_tables()),
        "examples": EXAMPLES + "\n".join(describe_examples()),
    }
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def describe_recipe() -> str:
    """Return the Markdown of every key of a recipe."""
    seen: dict[type, str] = {}
    return RECIPE + "\n".join([*describe_section("", Recipe, seen), *describe_types(seen)])


def describe_section(path: str, model: type[BaseModel], seen: dict[type, str]) -> Iterator[str]:
    """Yield the Markdown of a section of the recipe and of the sections below it, each model once.

    Args:
        path: the keys that lead to it, such as "evaluation.sets.NAME"; empty for the recipe itself.
        seen: the sections that have been described, each with its path.
    """
    seen[model] = path
    level = "##" if path.removesuffix(".NAME").count(".") == 0 else "###"
    title = f"`{path.partition('#')[0]}`" if path else "The recipe"
    yield f"\n({anchor(path)})=\n{level} {title}\n"
    yield clean(inspect.getdoc(model) or "") + "\n"
    yield from describe_fields(model, set(model.model_fields), path, seen)


def describe_fields(model: type[BaseModel], names: set[str], path: str, seen: dict[type, str]) -> Iterator[str]:
    """Yield a definition for each of a section's keys that are among `names`, then the sections below it."""
    documents = read_attribute_docstrings(model)
    below = {}
    for name, field in model.model_fields.items():
        for place, section in find_sections(field.annotation, f"{path}.{name}" if path else name):
            if name in names and section not in seen:
                # Several types have a key of the same place, each with a section of its own.
                seen[section] = below[section] = f"{place}#{section.__name__}" if place in seen.values() else place
    for name, field in model.model_fields.items():
        if name not in names:
            continue
        sections = [section for _, section in find_sections(field.annotation, "")]
        links = ", ".join(f"[`{seen[each]}`](#{anchor(seen[each])})" for each in sections if each in seen)
        kind = f"see {links}" if links else format_type(field.annotation, field.metadata)
        meaning = describe_field(field, documents.get(name), sections)
        yield f"`{name}`\n: *{kind}{format_default(field)}*{f'<br>{chr(10)}  {meaning}' if meaning else ''}\n"
    for section, place in below.items():
        yield from describe_section(place, section, seen)


def describe_types(seen: dict[type, str]) -> Iterator[str]:
    """Yield the Markdown of the keys that a `type` adds to those of every model, scorer, writer, method or choice."""
    for kind, types in SETTINGS.items():
        yield f"\n({anchor(f'types-{kind}')})=\n## Types of `{PATHS[kind]}`\n"
        for section in dict.fromkeys(types.values()):
            names = ", ".join(f"`{name}`" for name, each in types.items() if each is section)
            own = {name for name in section.model_fields if name not in BASES[kind].model_fields}
            yield f"### {names}\n"
            if issubclass(section, MethodSettings) and section.summary:
                paper = f" ({section.paper})" if section.paper else ""
                yield f"{section.summary.rstrip('.')}{paper}.\n"
            yield "\n".join(describe_fields(section, own, PATHS[kind], seen)) if own else "No keys of its own.\n"


def describe_field(field: FieldInfo, documented: str | None, sections: Sequence[type]) -> str:
    """Return a key's meaning: its own docstring, else the first sentence of the section that it holds."""
    text = field.description or documented
    if not text and len(sections) == 1:
        text = (inspect.getdoc(sections[0]) or "").partition("\n\n")[0]
    return clean(text or "", capital=False)


def anchor(path: str) -> str:
    """Return the link target of a section of the recipe."""
    return f"recipe-{path.lower().replace('.', '-').replace('#', '-')}".rstrip("-")


def clean(text: str, *, capital: bool = True) -> str:
    """Return a docstring as one paragraph that ends with a full stop, and begins with a `capital` letter if wanted."""
    line = " ".join(text.split()).replace("<", "&lt;")
    first = line[:1].upper() if capital else line[:1]
    return first + line[1:] + ("" if not line or line.endswith((".", ":", "?")) else ".")


def describe_commands() -> str:
    """Return the Markdown of the command line, by typer's own generator, without its list of shortened sentences."""
    generate = ["utils", "docs", "--name", "agfsync", "--title", "Command line"]
    program = [sys.executable, "-m", "typer", "agfsync.cli", *generate]
    text = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    return re.sub(r"\*\*Commands\*\*:\n.*?(?=^## )", "", text, count=1, flags=re.M | re.S)


def describe_api() -> Iterator[str]:
    """Yield the directives that document each name of `agfsync.__all__`."""
    for name in getattr(agfsync, "__all__", ()):
        if not name.startswith("_"):
            yield document("agfsync", name, getattr(agfsync, name))


def describe_plugins() -> Iterator[str]:
    """Yield the Markdown of the groups of entry points and of the protocols behind them."""
    rows = [
        f"| `agfsync.{kind}` | {', '.join(f'`{name}`' for name in names)} |" for kind, names in catalog.CATALOG.items()
    ]
    yield PLUGINS + "\n".join(rows) + "\n"
    for name in PROTOCOLS:
        module = __import__(f"agfsync.{name}", fromlist=["*"])
        yield f"\n## `agfsync.{name}`\n\n{clean(inspect.getdoc(module) or '')}\n"
        for public, found in vars(module).items():
            if inspect.isclass(found) and found.__module__ == module.__name__ and not public.startswith("_"):
                yield document(module.__name__, public, found)


def describe_tables() -> Iterator[str]:
    """Yield a table of columns for each record that has an Arrow schema."""
    for name, record in vars(records).items():
        if isinstance(record, type) and issubclass(record, records.Record) and record is not records.Record:
            columns = [f"| `{field.name}` | `{field.type}` |" for field in record.schema]
            yield f"\n## {name}\n\n{clean(inspect.getdoc(record) or '')}\n\n| column | type |\n|---|---|"
            yield "\n".join(columns)


def describe_examples() -> Iterator[str]:
    """Yield a section for each script of examples/."""
    for path in sorted((Path(__file__).parents[1] / "examples").glob("*.py")):
        include = f"```{{literalinclude}} ../../examples/{path.name}\n:language: python\n```"
        yield f"\n## `{path.name}`\n\n{include}\n"


def document(module: str, name: str, found: Any) -> str:
    """Return the autodoc directive of a public object."""
    directive = "autoclass" if inspect.isclass(found) else "autofunction" if callable(found) else "autodata"
    return f"```{{eval-rst}}\n.. {directive}:: {module}.{name}\n```\n"

"""Measure the language of the source: `python -m tests.words [TREE]...`; with `--check`, fail on names defined twice.

TREE is a folder of Python files (default: src). The exceptions of `--check` are in `[tool.agfsync.names]` of
pyproject.toml: `twice` lists the names that two modules may define, `not_yet` those that are still to be renamed.
"""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

DEPENDENT = re.compile(r"(What|Of|Whether|How|All that|Where|As|With|Which|Who|Whose|When|If|That|Why)\b")
"""The first word of a docstring that is no sentence: "What names a stage", "Whether a unit is done"."""

Functions = (ast.FunctionDef, ast.AsyncFunctionDef)


def main(arguments: list[str]) -> int:
    trees = [Path(tree) for tree in arguments if not tree.startswith("-")] or [Path("src")]
    if "--check" not in arguments:
        for tree in trees:
            print("\n".join(measure_words(tree)))
        return 0
    exceptions = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["agfsync"]["names"]
    twice = find_names_defined_twice(trees[0])
    new = sorted(twice.keys() - set(exceptions["twice"]) - set(exceptions.get("not_yet", ())))
    for name in new:
        print(f"{name} is defined in {' and '.join(twice[name])}: rename one, or give it a leading underscore")
    return 1 if new else 0


def measure_words(tree: Path) -> Iterator[str]:
    """Yield a line for each figure of `tree`, then the places of each name defined twice."""
    texts = [path.read_text(encoding="utf-8") for path in tree.rglob("*.py")]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    functions = [node.name for node in nodes if isinstance(node, Functions) and not node.name.startswith("__")]
    documented = [node for node in nodes if isinstance(node, (*Functions, ast.ClassDef, ast.Module))]
    docstrings = [text for node in documented if (text := ast.get_docstring(node))]
    twice, names = find_names_defined_twice(tree), find_places(tree)
    yield f"{tree}: {len(texts)} files, {sum(text.count(chr(10)) for text in texts)} lines"
    yield format_share("function names of one word", ["_" not in name.strip("_") for name in functions])
    yield format_share("public module-level names defined twice", [name in twice for name in names])
    yield format_share(
        "docstrings that begin with a dependent clause", [bool(DEPENDENT.match(text)) for text in docstrings]
    )
    yield format_share("docstrings with an example", [">>>" in text for text in docstrings])
    for name, places in sorted(twice.items()):
        yield f"  {name}: {', '.join(places)}"


def format_share(what: str, hits: list[bool]) -> str:
    """Return one line with the share of `hits` that are true.

    >>> format_share("names", [True, False, False, False])
    'names: 25.0 % (1 of 4)'
    """
    return f"{what}: {100 * sum(hits) / max(len(hits), 1):.1f} % ({sum(hits)} of {len(hits)})"


def find_names_defined_twice(tree: Path) -> Mapping[str, list[str]]:
    """Return the public module-level names that at least two modules define, each with its modules."""
    return {name: places for name, places in find_places(tree).items() if len(places) > 1}


def find_places(tree: Path) -> Mapping[str, list[str]]:
    """Return every public module-level name (function, class, constant, alias) with the modules that define it."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in tree.rglob("*.py"):
        for name in list_definitions(ast.parse(path.read_text(encoding="utf-8"))):
            if not name.startswith("_"):
                places[name].add(str(path.relative_to(tree)))
    return {name: sorted(modules) for name, modules in sorted(places.items())}


def list_definitions(module: ast.Module) -> Iterator[str]:
    """Yield the names that a module binds at its top level, imports excepted.

    >>> list(list_definitions(ast.parse("import re; a = b = 1; c: int = 2")))
    ['a', 'b', 'c']
    """
    for statement in module.body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name
            case ast.Assign():
                yield from (
                    node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)
                )
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

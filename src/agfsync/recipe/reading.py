"""Reads, checks, overrides and writes recipes, with a message for each kind of fault."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from agfsync.errors import RecipeError
from agfsync.recipe.base import Section
from agfsync.recipe.recipe import Recipe

YAML_FAULTS = (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, LookupError, ArithmeticError)
"""Errors that PyYAML raises on invalid text: mostly its own, but others on, for example, a month 13."""
SHORT = Repr()
"""Shortens wrong values in messages, since YAML aliases can make a value huge."""
_WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    **dict.fromkeys(
        ("model_type", "dict_type", "mapping_type", "model_attributes_type"), "should be a section of keys"
    ),
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list"),
    "string_type": "should be a text",
}
"""pydantic's error types -> messages for the author of a recipe"""
_ALIASES = {"lr": "learning_rate", "bs": "batch", "epochs": "steps", "cfg": "guidance"}
"""other programs' names of keys, which aren't similar to ours in spelling"""
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 2, 80, 80


def list_shipped() -> list[str]:
    """Return the names of the shipped recipes."""
    names = (path.name for path in (files("agfsync") / "recipe" / "shipped").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_shipped(name: str) -> str:
    """Return the YAML text of the shipped recipe `name`, comments included.

    Raises:
        RecipeError: there is no such recipe.
    """
    if name not in list_shipped():
        close = get_close_matches(name, list_shipped(), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(list_shipped())}"
        raise RecipeError(f"no shipped recipe is called '{name}': {hint}")
    return _locate_recipe(name).read_text(encoding="utf-8")


def summarize_shipped(name: str) -> str:
    """Return the first sentence of a shipped recipe's comment."""
    text = read_shipped(name)
    lines = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), text.splitlines())]
    return " ".join(lines).partition(". ")[0].removesuffix(".")


def resolve_recipe(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe at a path, or of a shipped name, with `overrides` such as `training.steps=200` applied.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key or a value out of range; the message says which.
    """
    tree = read_yaml(_locate_recipe(recipe))
    for override in overrides:
        _apply_override(tree, override)
    return check_recipe(tree, where=recipe)


def load_recipe(path: Path) -> Recipe:
    """Return the recipe at `path`. Recent texts are cached.

    Raises:
        RecipeError: as for `resolve_recipe`.
    """
    return _parse_recipe(_read_text(path), str(path))


@lru_cache(maxsize=8)
def _parse_recipe(text: str, where: str) -> Recipe:
    return check_recipe(_read_tree(text, where), where)


def check_recipe(tree: dict[str, Any], where: str) -> Recipe:
    """Return the validated recipe of `tree`; `where` names its source in an error."""
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as failure:
        raise RecipeError(f"{where}: {describe_first_fault(failure)}") from failure
    try:
        recipe.model_dump_json()
    except ValueError as failure:
        raise RecipeError(f"{where}: has half of a character in a text, which no file can hold") from failure
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, defaults included."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _locate_recipe(recipe: str) -> Path:
    if recipe in list_shipped():
        return Path(str(files("agfsync") / "recipe" / "shipped" / f"{recipe}.yaml"))
    path = Path(recipe)
    with suppress(OSError):  # such as a name that is too long for one
        if path.is_file():
            return path
        if path.is_dir():
            raise RecipeError(f"'{recipe}' is a folder: give the file of a recipe, such as the recipe.yaml in a run")
    close = get_close_matches(recipe, list_shipped(), n=1)
    hint = f"did you mean '{close[0]}'?" if close else "`agfsync recipes` lists those"
    raise RecipeError(f"no recipe '{recipe}': it is neither a file nor a shipped recipe; {hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that the YAML file at `path` holds.

    Raises:
        RecipeError: it can't be read, isn't YAML, or isn't a mapping.
    """
    return _read_tree(_read_text(path), str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as failure:
        raise RecipeError(f"{path}: can't be read: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        raise RecipeError(f"{path}: isn't UTF-8 text: save it as UTF-8, or give a YAML file") from failure


def _describe_yaml_fault(failure: Exception) -> str:
    """Return one line on a YAML error, with its line and column if it has them."""
    mark, problem = getattr(failure, "problem_mark", None), getattr(failure, "problem", None)
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark and problem else str(failure)


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, of which PyYAML's would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _read_tree(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, _StrictLoader)
    except YAML_FAULTS as failure:
        raise RecipeError(f"{where}: not YAML: {_describe_yaml_fault(failure)}") from failure
    if tree is None:
        raise RecipeError(f"{where}: it is empty; `agfsync recipes show shapes` prints a whole recipe")
    if not isinstance(tree, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of stages, this is a {type(tree).__name__}")
    return tree


def change_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return `recipe` with `changes`: dotted keys and their values.

    Raises:
        RecipeError: a key or value is wrong; the message says which.
    """
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    for key, value in changes.items():
        _set_value(tree, key, value, key)
    return check_recipe(tree, where=recipe.name)


def override_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return `recipe` with `overrides` such as `training.steps=200` applied.

    Raises:
        RecipeError: as for `resolve_recipe`.
    """
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        _apply_override(tree, override)
    return check_recipe(tree, where=recipe.name)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise RecipeError(f"--set {override}: write it as stage.key=value, such as training.steps=200")
    try:
        value = yaml.safe_load(text)
    except YAML_FAULTS as failure:
        raise RecipeError(f"--set {override}: '{text}' is not a YAML value") from failure
    _set_value(tree, path, value, f"--set {override}")


def _set_value(tree: dict[str, Any], path: str, value: Any, what: str) -> None:
    *parents, last = path.split(".")
    default: Any = Recipe()
    for name in parents:
        default = default.get(name) if isinstance(default, dict) else getattr(default, name, None)
        if tree.get(name) is None:
            tree[name] = _begin_override(default)
        if isinstance(default, Section) and isinstance(tree[name], str):
            tree[name] = {"type": tree[name]}  # short for a section of that type
        tree = tree[name]
        if not isinstance(tree, dict):
            raise RecipeError(f"{what}: '{name}' is a value, not a section")
    tree[last] = value


def _begin_override(default: Any) -> Any:
    """Return the initial value to which an override of a part of `default` is applied.

    A section starts empty, since its defaults may depend on the key that is set. A mapping, such as the weights, starts
    with its default, so that an override of one scorer's weight keeps the others'.
    """
    if default is None or isinstance(default, Section):
        return {}
    if isinstance(default, dict):
        return {key: value.model_dump() if isinstance(value, Section) else value for key, value in default.items()}
    return default


def describe_first_fault(failure: ValidationError, section: type[BaseModel] = Recipe) -> str:
    """Return one line on the first fault of a `section`'s values."""
    return _describe_fault(failure.errors()[0], section, ())


def _describe_fault(fault: Any, section: type[BaseModel], parents: tuple[Any, ...]) -> str:
    """Return one line on a fault of `section`, whose path in the recipe is `parents`."""
    if fault["type"] == "nested":
        context = fault["ctx"]
        return _describe_fault(context["faults"][0], context["section"], (*parents, *fault["loc"]))
    where = ".".join(str(part) for part in (*parents, *fault["loc"]))
    if fault["type"] == "extra_forbidden":
        known = _known_keys(section, [str(part) for part in fault["loc"][:-1]])
        meant = _ALIASES.get(str(fault["loc"][-1]), str(fault["loc"][-1]))
        close = get_close_matches(meant, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known)}"
        return f"unknown key '{where}': {hint}"
    if fault["type"] == "missing":
        return f"the key '{where}' is missing"
    message: str = _WANTED.get(fault["type"], fault["msg"].removeprefix("Value error, "))
    if not where:
        return message
    if fault["type"] in ("secret", "plain") or (fault["type"] == "value_error" and isinstance(fault["input"], dict)):
        return f"{where}: {message}"
    return f"{where}: {message[:1].lower()}{message[1:]}, got {_show_value(fault['input'])}"


def _show_value(value: Any) -> str:
    try:
        return SHORT.repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _known_keys(section: type[BaseModel], parents: list[str]) -> list[str]:
    """Return the keys of the section at `parents` within `section`."""
    for name in parents:
        field = section.model_fields.get(name)
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        # Without an inner section, `name` is a user's own key of a mapping: its section is already `section`.
        section = inner or section
    return list(section.model_fields)

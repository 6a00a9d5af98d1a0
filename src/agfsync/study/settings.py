"""The settings of a study: its base, arms and seeds, read from a file and checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from agfsync.errors import RecipeError
from agfsync.recipe import Recipe, check_recipe, list_shipped, resolve_recipe
from agfsync.recipe.base import Positive, Section
from agfsync.recipe.reading import describe_first_fault, read_yaml
from agfsync.store import STUDY_FILE

if TYPE_CHECKING:
    from agfsync.stages.report.verdict import Alarm
    from agfsync.study.values import StudyResults

ARM_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
SHARE_KEY = "pairs.share"


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm under one seed: a run of its own, which follows `recipe`."""

    name: str
    seed: int
    recipe: Recipe

    @property
    def trains_nothing(self) -> bool:
        """True if the arm is the base model with other settings of drawing, such as another guidance."""
        return self.recipe.training.method.type == "none"

    @property
    def is_seedless(self) -> bool:
        """True if the arm trains no weights, so that training.seed has no effect."""
        return self.trains_nothing or self.recipe.training.method.trains == "nothing"

    def locate(self, study: Path) -> Path:
        """Return the arm's run folder in the folder of the study."""
        return study / "arms" / self.name / f"seed-{self.seed}"


class Study(Section):
    """A study: arms, which are changes of a base recipe, each run under every seed."""

    table_file: ClassVar[str] = "table.parquet"
    page_file: ClassVar[str] = "study.html"
    kind: ClassVar[str] = "study"
    unit: ClassVar[str] = "arm"
    along: ClassVar[str] = "share of the captions that give pairs"
    """the name of the factor that `list_places` returns"""
    name: str = Field(default="study", pattern=ARM_NAME)
    base: str | dict[str, Any] = "shapes"
    """the base recipe: a shipped one, a file (as seen from the study's own folder, too), or the recipe itself"""
    set: dict[str, Any] = Field(default={})
    """changes of the base that all arms have: dotted keys and their values"""
    seeds: dict[Literal["seed", "training.seed"], tuple[int, ...]] = Field(default={"training.seed": (0,)})
    """the key of the recipe that is varied. training.seed: all seeds share captions, candidates and scores; seed: each
    has its own base"""
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    """the changes of each arm, under names of your own: dotted keys and their values"""
    against: str | None = None
    """the arm that all others are also compared with, such as a control"""
    resamples: Positive = 10_000
    """of the bootstrap over seeds and captions"""
    examples: Positive = 6
    """captions whose images study.html shows"""

    @field_validator("seeds")
    @classmethod
    def _vary_one_key(cls, seeds: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        if len(seeds) != 1 or not all(each and len(set(each)) == len(each) for each in seeds.values()):
            raise ValueError("give one key, seed or training.seed, and different numbers, such as seed: [0, 1, 2]")
        return seeds

    @model_validator(mode="after")
    def _names_are_arms(self) -> Self:
        for name in self.arms:
            if not re.match(ARM_NAME, name) or name == "base":
                raise ValueError(
                    f"arms.{name}: an arm's name has letters, digits, dots, dashes and underscores, and isn't base"
                )
        if self.against is not None and self.against not in self.arms:
            raise ValueError(f"against names no arm '{self.against}': arms has {', '.join(self.arms)}")
        return self

    @property
    def varied(self) -> tuple[str, tuple[int, ...]]:
        """The key that the seeds vary, and its values."""
        return next(iter(self.seeds.items()))

    @property
    def is_crossed(self) -> bool:
        """True if all seeds have the same captions."""
        return self.varied[0] == "training.seed"

    @property
    def rival(self) -> str:
        """The name of the arm that the others are also compared with; empty if there is none."""
        return self.against or ""

    @property
    def ended(self) -> str:
        """The reason why there are no more arms; empty for a study's own arms."""
        return ""

    def find_rival(self, arm: str) -> str | None:
        """Return the other arm that `arm` is compared with."""
        return None if arm == self.against else self.against

    def locate_base(self, path: Path, seed: int) -> Path:
        """Return the folder of the base run of a seed."""
        return path / "base" if self.is_crossed else path / "base" / f"seed-{seed}"

    def list_places(self) -> dict[str, float]:
        """Return the arms that differ only in their share of the pairs, each with its share."""
        others = {arm: {key: value for key, value in of.items() if key != SHARE_KEY} for arm, of in self.arms.items()}
        shares = {arm: float(of[SHARE_KEY]) for arm, of in self.arms.items() if SHARE_KEY in of}
        rest = [others[arm] for arm in shares]
        return shares | {arm: 1.0 for arm in self.arms if arm not in shares and others[arm] in rest}

    def find_alarms(self, results: "StudyResults") -> "list[Alarm]":
        """Return reasons to distrust the gains."""
        return []

    def resolve_base(self, seed: int) -> Recipe:
        """Return the base recipe under a seed.

        Raises:
            RecipeError: there is no such recipe, or a key of `set` is wrong; the message says which.
        """
        base = resolve_recipe(self.base) if isinstance(self.base, str) else check_recipe(self.base, self.name)
        return _change(base, {**self.set, self.varied[0]: seed}, "set")

    def resolve_arms(self) -> list[Arm]:
        """Return all arms under all seeds, in the order of the study, each with its checked recipe.

        An arm without weights to train has one training.seed, the first.

        Raises:
            RecipeError: a recipe is wrong; the message names the arm and the key.
        """
        bases = {seed: self.resolve_base(seed) for seed in self.varied[1]}
        arms = [
            Arm(name, seed, _change(base, {"name": name, **changes}, f"arm {name}"))
            for name, changes in self.arms.items()
            for seed, base in bases.items()
        ]
        return [arm for arm in arms if not (self.is_crossed and arm.is_seedless and arm.seed != self.varied[1][0])]


def _change(recipe: Recipe, changes: dict[str, Any], what: str) -> Recipe:
    try:
        return recipe.with_(changes)
    except RecipeError as failure:
        raise RecipeError(f"{what}: {str(failure).removeprefix(f'{recipe.name}: ')}") from failure


def list_shipped_studies() -> list[str]:
    """Return the names of the shipped studies."""
    names = (path.name for path in (files("agfsync") / "study" / "shipped").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_study(source: str, overrides: Sequence[str] = ()) -> Study:
    """Return the study of a file or shipped name; `overrides` (KEY=VALUE) change its base, and so all arms.

    Raises:
        RecipeError: there is no such study, or a key or value is wrong; the message says which.
    """
    shipped = source in list_shipped_studies()
    path = Path(str(files("agfsync") / "study" / "shipped" / f"{source}.yaml")) if shipped else Path(source)
    if path.is_dir():
        raise RecipeError(f"'{source}' is a folder: give the file of a study, such as the {STUDY_FILE} in it")
    if not path.is_file():
        raise RecipeError(
            f"no study '{source}': it is neither a file nor a shipped study; shipped are "
            f"{', '.join(list_shipped_studies())}"
        )
    tree = {"name": path.resolve().parent.name if path.name == STUDY_FILE else path.stem, **read_yaml(path)}
    try:
        study = Study.model_validate(tree)
    except ValidationError as failure:
        raise RecipeError(f"{source}: {describe_first_fault(failure, Study)}") from failure
    try:
        return study.model_copy(update={"base": _resolve_tree(study.base, path.parent, overrides)})
    except RecipeError as failure:
        raise RecipeError(f"{source}: base: {failure}") from failure


def _resolve_tree(base: str | dict[str, Any], folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the keys that the base recipe and the overrides set."""
    if isinstance(base, dict):
        recipe = check_recipe(base, "base")
        changes = {key: yaml.safe_load(value) for key, _, value in (override.partition("=") for override in overrides)}
        recipe = recipe.with_(changes)
    else:
        file = folder / base
        is_file = base not in list_shipped() and file.is_file()
        recipe = resolve_recipe(str(file) if is_file else base, overrides)
    tree: dict[str, Any] = recipe.model_dump(mode="json", exclude_unset=True)
    return tree


def dump_study(study: Study) -> str:
    """Return the study as YAML, with its base recipe in it, so that it needs no other file."""
    return yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)

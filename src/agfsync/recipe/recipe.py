"""The recipe: its sections in stage order, and properties that depend on several of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from agfsync import catalog
from agfsync.recipe.base import Positive, Section, Share
from agfsync.recipe.checks import check_agreement
from agfsync.recipe.data import Candidates, Captions, Pairs, Questions, Scores
from agfsync.recipe.evaluation import Evaluation, Report
from agfsync.recipe.methods import GivenSettings
from agfsync.recipe.models import ModelSettings, StableDiffusionSettings
from agfsync.recipe.reward import Reward
from agfsync.recipe.rounds import Rounds, Start
from agfsync.recipe.scorers import AestheticSettings, EmbeddingSettings, ScorerSettings, VqaSettings
from agfsync.recipe.steering import SteeringSettings
from agfsync.recipe.training import Training
from agfsync.recipe.types import (
    ModelOfType,
    ScorerOfType,
)

SHAPES_SCORERS: dict[str, ScorerSettings] = {
    "vqa": VqaSettings(type="vqa", path="embedded:vqa"),
    "clip": EmbeddingSettings(type="clip", path="embedded:clip"),
    "aesthetic": AestheticSettings(type="aesthetic", path="embedded:clip", head="embedded:aesthetic"),
}


class Engine(Section):
    """The processes or machines that draw and judge. Results don't depend on it: a run may continue on another engine.

    In a recipe `engine: ray` is short for `engine: {type: ray}`.
    """

    type: Literal["local", "ray"] = "local"
    """local: this machine; ray: a Ray cluster (pip install 'agfsync[ray]'), whose machines all have the run folder at
    the same path"""
    workers: Positive | Literal["cores"] | None = None
    """worker processes, each with its own copy of the model. Default: one for each accelerator of the machine or
    cluster; without any, local works in the main process, and ray in one worker. cores: without an accelerator, one
    for each core of this machine, at most 8"""
    accelerators: float | None = Field(default=None, ge=0)
    """accelerators of each worker on Ray: with 0.5, two workers share one. Default: 1, or 0 on a cluster without any"""
    address: str | None = None
    """HOST:PORT of the Ray cluster. Default: the environment's RAY_ADDRESS; without it Ray is started here"""

    @model_validator(mode="after")
    def _cores_are_local(self) -> Self:
        if self.workers == "cores" and self.type != "local":
            raise ValueError(f"workers: cores counts this machine's cores: with {self.type} give a number")
        return self

    @field_validator("accelerators")
    @classmethod
    def _whole_or_shared(cls, accelerators: float | None) -> float | None:
        if accelerators is not None and accelerators > 1 and not accelerators.is_integer():
            raise ValueError("more than one accelerator is a whole number of them")
        return accelerators


class Recipe(Section):
    """A complete run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0)
    failure_budget: Share = 0.05
    """share of a stage's items that may be skipped before the run stops"""
    engine: Engine = Engine()
    model: ModelOfType = StableDiffusionSettings()
    scorers: dict[str, ScorerOfType] = SHAPES_SCORERS
    """all scorers of the run, under names that you choose"""
    captions: Captions = Captions()
    questions: Questions = Questions()
    candidates: Candidates = Candidates()
    scores: Scores = Scores()
    pairs: Pairs = Pairs()
    reward: Reward | None = None
    """absent: no reward model is trained"""
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    report: Report = Report()
    rounds: Rounds | None = None
    """absent: a single round"""
    start: Start | None = None
    """absent: the model draws the candidates, and the training starts from it"""

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, engine: Any) -> Any:
        return {"type": engine} if isinstance(engine, str) else engine

    @classmethod
    def load(cls, source: str, overrides: Sequence[str] = ()) -> "Recipe":
        """Return the shipped recipe or the recipe file `source`, with `overrides` as on the command line.

        >>> Recipe.load("shapes", ["training.steps=7"]).training.steps
        7

        Raises:
            RecipeError: there is no such recipe, or a key or value is wrong; the message says which and where.
        """
        from agfsync.recipe.reading import resolve_recipe

        return resolve_recipe(source, overrides)

    def with_(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with `changes`: dotted keys and their values.

        >>> Recipe().with_({"training.steps": 7, "scorers.mine": {"type": "clip", "path": "a/b"}}).training.steps
        7

        Raises:
            RecipeError: a key or value is wrong; the message says which and where.
        """
        from agfsync.recipe.reading import change_recipe

        return change_recipe(self, changes)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        check_agreement(self)
        return self

    @property
    def score_sources(self) -> dict[str, str]:
        """The name of each score -> its scorer: NAME, and also NAME.ASPECT for an annotator."""
        aspects = {f"{name}.{aspect}": name for name, each in self.scorers.items() for aspect in each.aspect_names}
        return {name: name for name in self.scorers} | aspects

    @property
    def drawing_models(self) -> tuple[ModelSettings, ...]:
        """The models that draw candidates, the aligned one first."""
        return (self.model, *self.candidates.beside.values())

    @property
    def reward_weights(self) -> dict[str, float]:
        """The weights of the scorers with which the method rates images; default: those that choose the pairs."""
        return getattr(self.training.method, "reward", None) or self.pairs.weights

    @property
    def teachers(self) -> tuple[str, ...]:
        """The scorers that the method trains on, directly or through the pairs; none for the pairs of a source."""
        method = self.training.method
        learns = self.pairs.source is None if method.needs == "pairs" else hasattr(method, "reward")
        chosen = self.reward_weights if learns else {}
        return tuple(dict.fromkeys([*(name for name, weight in chosen.items() if weight), *method.scorers]))

    @property
    def candidate_scorers(self) -> dict[str, ScorerSettings]:
        """The scorers of the candidates, in the recipe's order."""
        method = self.training.method
        rated = {**self.reward_weights, **dict.fromkeys(method.scorers, 1.0)}
        needed = rated if method.needs == "scores" else self.pairs.weights
        names = needed if self.scores.by is None else self.scores.by
        wanted = {self.score_sources[name] for name in names}
        return {name: settings for name, settings in self.scorers.items() if name in wanted}

    def find_scorer(self, score: str) -> ScorerSettings:
        """Return the settings of the scorer that gives the score `score`."""
        return self.scorers[self.score_sources[score]]

    @property
    def candidate_scores(self) -> list[str]:
        """The names of the candidates' scores; an annotator's aspects come before their mean."""
        scorers = self.candidate_scorers.items()
        return [
            score
            for name, settings in scorers
            for score in (*(f"{name}.{aspect}" for aspect in settings.aspect_names), name)
        ]

    def uses_own_reward(self, stage: str) -> bool:
        """Return True if `stage`, training or evaluation, uses the reward model that the run trains."""
        draws = stage == "training" and self.training.method.needs == "captions"
        used = self.evaluation_scorers if stage == "evaluation" else self.reward_weights if draws else ()
        return any(self.find_scorer(name).is_own for name in used)

    @property
    def reward_judges(self) -> dict[str, ScorerSettings]:
        """The scorers of single images that the reward model's accuracy is compared with, in the recipe's order."""
        by = None if self.reward is None else self.reward.by
        single = {name: each for name, each in self.scorers.items() if not (each.is_own or each.aspect_names)}
        return {name: each for name, each in single.items() if by is None or name in by}

    def set_scorers(self, name: str) -> dict[str, ScorerSettings]:
        """Return an evaluation set's scorers in order, without annotators, which can't score single images."""
        of_set = self.evaluation.sets[name]
        names = of_set.by if of_set.pairwise is None else ()
        single = {each: settings for each, settings in self.scorers.items() if not settings.aspect_names}
        return {each: settings for each, settings in single.items() if names is None or each in names}

    @property
    def embedding(self) -> str | None:
        """The scorer whose embeddings the evaluation measures; None if it measures none."""
        settings = self.evaluation
        if settings.per_caption == 1 and settings.reference is None:
            return None
        return settings.embedding or next((name for name, each in self.scorers.items() if each.type == "clip"), None)

    @property
    def evaluation_scorers(self) -> dict[str, ScorerSettings]:
        """The scorers of all evaluation sets."""
        used = {each for name in self.evaluation.sets for each in self.set_scorers(name)}
        return {each: settings for each, settings in self.scorers.items() if each in used}

    @property
    def steering(self) -> dict[str, Any] | None:
        """The settings of a training-free method with its parser chosen, None if the method isn't one."""
        method = self.training.method
        if method.trains != "nothing" or method.type in ("none", "given"):
            return None
        settings = method.model_dump(mode="json")
        if isinstance(method, SteeringSettings):
            parser = method.parser.choose(embedded=self.model.path.startswith(catalog.EMBEDDED))
            settings["parser"] = parser.model_dump(mode="json")
        return settings

    @property
    def given(self) -> GivenSettings | None:
        """The settings of a comparison of two models, None if the run isn't one."""
        method = self.training.method
        return method if isinstance(method, GivenSettings) else None

    @property
    def evaluated_models(self) -> dict[str, ModelSettings]:
        """The settings of the evaluation's models "base" and "aligned", without the changes of a training."""
        return {"base": self.model, "aligned": self.model if self.given is None else self.given.model}

    @property
    def model_names(self) -> dict[str, str]:
        """The names that the report gives to the models "base" and "aligned"."""
        names = ("base", "aligned") if self.given is None else self.given.names
        return dict(zip(("base", "aligned"), names, strict=True))

    @property
    def reward_seed(self) -> int:
        """The seed of the reward model's training; default: the run's."""
        return self.seed if self.reward is None or self.reward.seed is None else self.reward.seed

    @property
    def training_seed(self) -> int:
        """The seed of the training; default: the run's."""
        return self.seed if self.training.seed is None else self.training.seed

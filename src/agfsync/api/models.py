"""Models and scorers by themselves, without a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agfsync import catalog, pipeline
from agfsync.recipe import check_recipe
from agfsync.records import Question

if TYPE_CHECKING:
    from PIL.Image import Image

    from agfsync.scorers import Measurement, Unscored

_SCORED = {"choose": {"weights": {"scorer": 1.0}}}


class Model:
    """A text-to-image model that is loaded to draw with.

    >>> model = Model("stable-diffusion", path="embedded:generator", sampling={"steps": 4})  # doctest: +SKIP
    >>> model.draw(["a red heart"], seeds=[0])  # doctest: +SKIP
    [<PIL.Image.Image image mode=RGB size=64x64>]

    Args:
        type: a model type of the catalog.
        settings: the keys of a recipe's `model`, such as `path`, `dtype` and `sampling`.

    Raises:
        RecipeError: there is no such type or setting. ModelError: the model can't be loaded.
    """

    def __init__(self, type: str = "stable-diffusion", **settings: Any) -> None:
        self._load({"type": type, **settings}, dict)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], extend: Callable[[dict[str, Any]], Any] = dict) -> "Model":
        """Load the model of a recipe's `settings`; `extend` adds a trained model to the arguments."""
        model = cls.__new__(cls)
        model._load(settings, extend)
        return model

    def _load(self, settings: Mapping[str, Any], extend: Callable[[dict[str, Any]], Any]) -> None:
        self.settings = pipeline.choose_dtypes(check_recipe({"model": dict(settings)}, "Model")).model
        self._model = _build("models", extend(self.settings.arguments()), self.settings.defaults())

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], embedding_noise: float = 0.0) -> "list[Image]":
        """Draw one image for each prompt and its seed, in order, all in one batch.

        Args:
            embedding_noise: sigma of the noise on the text embedding (Eq. 1).
        """
        return list(self._model.draw(list(prompts), list(seeds), embedding_noise))

    def __repr__(self) -> str:
        return f"Model({self.settings.type!r}, path={self.settings.path!r})"


class Scorer:
    """A scorer that is loaded to score images with.

    >>> Scorer("clip", path="embedded:clip").score([image], ["a red heart"])  # doctest: +SKIP
    [Measurement(value=71.2, answers=(), truncated=False)]

    Args:
        type: a scorer type of the catalog.
        settings: the keys of one of a recipe's `scorers`, such as `path` and `dtype`.

    Raises:
        RecipeError: there is no such type or setting. ModelError: the scorer can't be loaded.
    """

    def __init__(self, type: str, **settings: Any) -> None:
        tree = {"scorers": {"scorer": {"type": type, **settings}}, "pairs": _SCORED}
        recipe = pipeline.choose_dtypes(check_recipe(tree, "Scorer"))
        self.settings = recipe.scorers["scorer"]
        self._scorer = _build("scorers", self.settings.model_dump())

    def score(
        self,
        images: "Sequence[Image]",
        prompts: Sequence[str],
        questions: Sequence[Sequence[Question]] | None = None,
    ) -> "list[Measurement | Unscored]":
        """Return a measurement for each image and its prompt, in order, or the reason why there is none.

        Args:
            questions: the questions on each prompt, for a scorer that asks questions.
        """
        from agfsync.scorers import Item

        by_prompt = questions or [()] * len(prompts)
        items = [Item(p, tuple(q), i.convert("RGB")) for i, p, q in zip(images, prompts, by_prompt, strict=True)]
        return list(self._scorer.score(items))

    def __repr__(self) -> str:
        return f"Scorer({self.settings.type!r}, path={self.settings.path!r})"


def _build(kind: str, *settings: Any) -> Any:
    """Return what the catalog builds, without the warnings of the libraries that are imported for it."""
    from agfsync.models.pretrained import silence_transformers

    with silence_transformers():
        return catalog.build(kind, *settings)

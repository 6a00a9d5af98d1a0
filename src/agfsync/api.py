"""The Python API: run a recipe, read a run, draw and score. `agfsync` exports these names.

>>> import agfsync
>>> run = agfsync.run("shapes", "runs/first")  # doctest: +SKIP
>>> run.pairs.to_pandas()  # doctest: +SKIP
>>> run.pairs[0].explain()  # doctest: +SKIP
"""

import html
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from agfsync import catalog, pipeline
from agfsync.commands.export import export_pairs
from agfsync.engine.progress import SilentProgress, make_progress
from agfsync.files.images import decode_image
from agfsync.models.artefact import ModelArtefact
from agfsync.pipeline import StageStatus
from agfsync.recipe import Recipe, check_recipe, resolve_recipe
from agfsync.records import Candidate, Caption, Comparison, Pair, Question, Record, Score
from agfsync.stages.pairs import find_parts
from agfsync.store import Run
from agfsync.store.forks import fork_run
from agfsync.study.rounds import list_rounds, run_with_rounds

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    from PIL.Image import Image

    from agfsync.commands.doctor.page import Examination
    from agfsync.scorers import Measurement, Unscored

_R = TypeVar("_R")
_SHOWN = 8
"""Rows of a table that a notebook shows."""


def run(
    recipe: str | Path | Recipe,
    path: str | Path | None = None,
    *,
    until: str | None = None,
    update: bool = False,
    progress: bool = True,
) -> "LoadedRun":
    """Run the stages of a recipe that aren't up to date, and return the run.

    Args:
        recipe: the name of a shipped recipe, a file, or a `Recipe`.
        path: the run's folder; default: runs/NAME.
        until: the last stage to run, such as "pairs".
        update: go on with other settings than the run's.
        progress: show progress bars, in a terminal or a notebook.

    Raises:
        AgfsyncError: something that the caller can mend, in one line; `RecipeError`, `ModelError` and others say what.
    """
    recipe = recipe if isinstance(recipe, Recipe) else resolve_recipe(str(recipe))
    folder = Path(path) if path is not None else Path("runs") / recipe.name
    shown = make_progress() if progress else SilentProgress()
    pipeline.prepare(folder, recipe, update=update, progress=shown)
    run_with_rounds(folder, until=until, progress=shown)
    return load_run(folder)


def load_run(path: str | Path) -> "LoadedRun":
    """Return the run at `path` to read; it takes no lock, so that another process may work on it.

    Raises:
        RunError: there is no run.
    """
    loaded = LoadedRun(Path(path))
    _ = loaded.recipe
    return loaded


def fork(base: "str | Path | LoadedRun", to: str | Path) -> "LoadedRun":
    """Make a run at `to` that shares what is done with the run `base`: nothing is drawn or scored again.

    Raises:
        RunError: `to` exists, or `base` is no run, or a process works on it.
    """
    fork_run(_find_folder(base), Path(to))
    return load_run(to)


def export(run: "str | Path | LoadedRun", format: str, out: str | Path) -> Mapping[str, int]:
    """Write a run's pairs into the new folder `out`, in a format such as "pick-a-pic"; return the counts.

    Raises:
        RunError: the run has no pairs. FormatError: there is no such format. StoreError: `out` exists.
    """
    return export_pairs(_find_folder(run), format, Path(out))


def compare(
    base: str | Path,
    other: str | Path,
    path: str | Path | None = None,
    *,
    sets: Sequence[str] = (),
    judges: Sequence[str] = (),
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    update: bool = False,
    progress: bool = True,
) -> "LoadedRun":
    """Compare two models, LoRAs or runs on the same prompts and seeds, as `agfsync compare`; return the run.

    Raises:
        AgfsyncError: something that the caller can mend, in one line.
    """
    from agfsync.commands.compare import plan_comparison, prepare_comparison

    plan = plan_comparison(str(base), str(other), recipe=recipe, sets=sets, judges=judges, overrides=overrides)
    folder = Path(path) if path is not None else Path("runs") / plan.recipe.name
    shown = make_progress() if progress else SilentProgress()
    prepare_comparison(folder, plan, update=update, progress=shown)
    pipeline.run(folder, progress=shown)
    return load_run(folder)


def doctor(recipe: str | Path | Recipe, path: str | Path | None = None) -> "Examination":
    """Return what a run of `recipe` at `path` would take, and what is missing for it; nothing is run."""
    from agfsync.commands.doctor import examine

    recipe = recipe if isinstance(recipe, Recipe) else resolve_recipe(str(recipe))
    return examine(recipe, Path(path) if path is not None else Path("runs") / recipe.name)


class LoadedRun:
    """A run folder to read: its tables, its models and its report.

    The tables are `captions`, `questions`, `candidates`, `scores`, `pairs` and `evaluation`. They are read when they
    are used, and may grow while another process works on the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run, with every default."""
        with Run.open(self.path) as opened:
            return pipeline.read_recipe(opened)

    @property
    def status(self) -> list[StageStatus]:
        """The state of each stage."""
        return pipeline.read_status(self.path)

    @property
    def captions(self) -> "Table[Caption]":
        """The captions, to train on and held out."""
        return Table(self.path, "captions", Caption, lambda row: row)

    @property
    def questions(self) -> "Table[Question]":
        """The questions on the captions."""
        return Table(self.path, "questions", Question, lambda row: row)

    @property
    def candidates(self) -> "Table[RunCandidate]":
        """The images of the captions to train on; each has `image`."""
        return Table(self.path, "candidates", Candidate, RunCandidate)

    @property
    def scores(self) -> "Table[Score]":
        """Each scorer's value of each candidate, on 0..100, or the reason why there is none."""
        return Table(self.path, "scores", Score, lambda row: row)

    @property
    def pairs(self) -> "Table[RunPair]":
        """The preference pairs; each has `explain()`."""
        return Table(self.path, "pairs", Pair, lambda row: RunPair(self, row))

    @property
    def evaluation(self) -> "Table[Comparison]":
        """Base and aligned model on each caption by each scorer; rows with an `element_type` are parts of others."""
        return Table(self.path, "evaluation", Comparison, lambda row: row)

    @property
    def rounds(self) -> "list[LoadedRun]":
        """The rounds of a recipe with `rounds`, each a run of its own; the first is this one."""
        return [LoadedRun(place) for place in list_rounds(self.path)]

    @property
    def report(self) -> Path:
        """The page with the results."""
        return self.path / "report.html"

    def model(self, **settings: Any) -> "Model":
        """Load the aligned model; `settings` replace those of the recipe's model, such as `device` or `sampling`.

        Raises:
            ModelError: the run has trained no model.
        """
        folder = self.path / "model"
        artefact = ModelArtefact.load(folder)
        return Model._of({**artefact.base, **settings}, lambda given: artefact.extend_arguments(given, folder))

    def base_model(self, **settings: Any) -> "Model":
        """Load the model before its alignment."""
        return Model._of({**self.recipe.model.model_dump(exclude_defaults=True), **settings})

    def __repr__(self) -> str:
        return f"LoadedRun({str(self.path)!r})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{each.name}</th><td>{each.state}</td><td>{each.units or ''}</td></tr>" for each in self.status
        )
        return f"<p>{html.escape(str(self.path))}</p><table>{rows}</table>"


class Table(Sequence[_R], Generic[_R]):
    """A table of a run: a sequence of its rows that are read from disk when they are used.

    >>> run.scores[0].value  # doctest: +SKIP
    83.3
    """

    def __init__(self, path: Path, name: str, kind: type[Record], wrap: Callable[[Any], _R]) -> None:
        self._path, self._name, self._kind, self._wrap = path, name, kind, wrap

    def __len__(self) -> int:
        with Run.open(self._path) as run:
            return run.count_rows(self._name)

    @overload
    def __getitem__(self, index: int) -> _R: ...

    @overload
    def __getitem__(self, index: slice) -> list[_R]: ...

    def __getitem__(self, index: int | slice) -> _R | list[_R]:
        if isinstance(index, slice):
            places = range(*index.indices(len(self)))
            found = {number: row for number, row in enumerate(self) if number in places}
            return [found[place] for place in places]
        place = index + len(self) if index < 0 else index
        for number, row in enumerate(self) if place >= 0 else ():
            if number == place:
                return row
        raise IndexError(f"the table {self._name} has {len(self)} rows, and none at {index}")

    def __iter__(self) -> Iterator[_R]:
        with Run.open(self._path) as run:
            for row in run.read(self._name, self._kind):
                yield self._wrap(row)

    def to_arrow(self) -> "pa.Table":
        """Return the table as an Arrow table; an image is a struct of bytes and path, as in Hugging Face datasets."""
        import pyarrow as pa

        from agfsync.records import add_huggingface_metadata

        with Run.open(self._path) as run:
            rows = [row.row() for row in run.read(self._name, self._kind)]
        return pa.Table.from_pylist(rows, schema=add_huggingface_metadata(self._kind.schema))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table as a pandas data frame (pip install pandas)."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_dataset(self) -> "datasets.Dataset":
        """Return the table as a Hugging Face dataset, with images decoded (pip install datasets)."""
        import datasets

        return datasets.Dataset(self.to_arrow())

    def __repr__(self) -> str:
        return f"<{self._name} of {self._path}: {len(self)} rows>"

    def _repr_html_(self) -> str:
        names = [each.name for each in fields(self._kind) if each.name != "key"]
        shown = [row for _, row in zip(range(_SHOWN), self, strict=False)]
        head = "".join(f"<th>{name}</th>" for name in names)
        rows = "".join("<tr>" + "".join(f"<td>{_show(row, name)}</td>" for name in names) + "</tr>" for row in shown)
        more = f"<p>{len(self)} rows</p>" if len(self) > _SHOWN else ""
        return f"<table><tr>{head}</tr>{rows}</table>{more}"


@dataclass(frozen=True, slots=True)
class RunCandidate:
    """A candidate image of a caption, with the values of its row."""

    record: Candidate

    @property
    def image(self) -> "Image":
        """The image, decoded."""
        return decode_image(self.record.image)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    def _repr_html_(self) -> str:
        return _show_image(self.record.image)


@dataclass(frozen=True, slots=True)
class RunPair:
    """A pair of a run, with the values of its row."""

    run: LoadedRun
    record: Pair

    def __getattr__(self, name: str) -> Any:
        return getattr(self.record, name)

    def explain(self) -> "Explanation":
        """Return why the winner won: both images, each score, and the questions that the loser failed."""
        keys = (self.record.winner_key, self.record.loser_key)
        found: dict[str, bytes] = {}
        scores: dict[str, dict[str, Score]] = {key: {} for key in keys}
        with Run.open(self.run.path) as opened:
            for unit, rows in opened.rows_by_unit("candidates", ["key"]):
                if any(row["key"] in keys for row in rows):
                    for record in opened.read("candidates", Candidate, [unit]):
                        found |= {record.key: record.image} if record.key in keys else {}
            for score in opened.read("scores", Score):
                if score.candidate_key in scores:
                    scores[score.candidate_key][score.scorer] = score
            asked = {q.key: q for q in opened.read("questions", Question) if q.caption_key == self.record.caption_key}
            caption = next(c for c in opened.read("captions", Caption) if c.key == self.record.caption_key)
            parts = find_parts(opened, pipeline.read_recipe(opened), self.record)
        winner, loser = (scores[key] for key in keys)
        return Explanation(
            caption=caption.text,
            winner=found[keys[0]],
            loser=found[keys[1]],
            scores={n: (winner[n].value if n in winner else None, each.value) for n, each in loser.items()},
            failed=[
                f"{asked[answer.question_key].text} {answer.answer}"
                for score in loser.values()
                for answer in score.answers
                if answer.question_key in asked and asked[answer.question_key].answer != answer.answer
            ],
            margin=self.record.margin,
            parts=parts,
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reasons why a winner won. `scores` has the values of the winner and the loser by each scorer, on 0..100."""

    caption: str
    winner: bytes
    loser: bytes
    scores: Mapping[str, tuple[float | None, float | None]]
    failed: Sequence[str]
    """the questions that the loser failed, with its answers"""
    margin: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """each scorer's part of the margin, below 0 where it prefers the loser; empty where no scorer chose the pair"""

    @property
    def images(self) -> "tuple[Image, Image]":
        """The winner's and the loser's image, decoded."""
        return decode_image(self.winner), decode_image(self.loser)

    def __str__(self) -> str:
        lines = [self.caption, f"margin {self.margin:.1f}"]
        for name, (won, lost) in self.scores.items():
            part = f", {self.parts[name]:+.1f} of the margin" if name in self.parts else ""
            lines.append(f"{name}: winner {_format(won)}, loser {_format(lost)}{part}")
        lines += [f"the loser failed: {question}" for question in self.failed]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        text = "<br>".join(html.escape(line) for line in str(self).splitlines())
        return f"{_show_image(self.winner)} {_show_image(self.loser)}<p>{text}</p>"


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
    def _of(cls, settings: Mapping[str, Any], extend: Callable[[dict[str, Any]], Any] = dict) -> "Model":
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
            questions: the questions on each prompt, for a scorer that asks some.
        """
        from agfsync.scorers import Item

        asked = questions or [()] * len(prompts)
        items = [Item(p, tuple(q), i.convert("RGB")) for i, p, q in zip(images, prompts, asked, strict=True)]
        return list(self._scorer.score(items))

    def __repr__(self) -> str:
        return f"Scorer({self.settings.type!r}, path={self.settings.path!r})"


_SCORED = {"choose": {"weights": {"scorer": 1.0}}}


def _find_folder(run: str | Path | LoadedRun) -> Path:
    return run.path if isinstance(run, LoadedRun) else Path(run)


def _format(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f}"


def _show(row: Any, name: str) -> str:
    value = getattr(getattr(row, "record", row), name)
    if isinstance(value, bytes):
        return _show_image(value)
    return html.escape(f"{value:.2f}" if isinstance(value, float) else str(value))


def _show_image(data: bytes) -> str:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg" if data.startswith(b"\xff\xd8") else "webp"
    return f'<img src="data:image/{kind};base64,{b64encode(data).decode()}" style="max-width: 12em">'


def _build(kind: str, *settings: Any) -> Any:
    """Return what the catalog builds, without the warnings of the libraries that are imported for it."""
    from agfsync.models.pretrained import silence_transformers

    with silence_transformers():
        return catalog.build(kind, *settings)

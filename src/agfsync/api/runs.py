"""A run folder, opened for reading."""

import html
from pathlib import Path
from typing import Any

from agfsync import pipeline
from agfsync.api.models import Model
from agfsync.api.tables import RunCandidate, RunPair, Table
from agfsync.models.artefact import ModelArtefact
from agfsync.pipeline import StageStatus
from agfsync.recipe import Recipe
from agfsync.records import Candidate, Caption, Comparison, Pair, Question, Score
from agfsync.store import Run
from agfsync.study.rounds import list_rounds


class LoadedRun:
    """A run folder, opened for reading: its tables, its models and its report.

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
        """The runs of a recipe with `rounds`, one for each round; the first is this one."""
        return [LoadedRun(folder) for folder in list_rounds(self.path)]

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
        return Model.from_settings(
            {**artefact.base, **settings}, lambda given: artefact.extend_arguments(given, folder)
        )

    def base_model(self, **settings: Any) -> "Model":
        """Load the model before its alignment."""
        return Model.from_settings({**self.recipe.model.model_dump(exclude_defaults=True), **settings})

    def __repr__(self) -> str:
        return f"LoadedRun({str(self.path)!r})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{stage.name}</th><td>{stage.state}</td><td>{stage.units or ''}</td></tr>" for stage in self.status
        )
        return f"<p>{html.escape(str(self.path))}</p><table>{rows}</table>"

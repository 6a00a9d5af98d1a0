"""A made-up run: real images drawn with Pillow, scores and answers as a real run has them, any stage left out."""

import io
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

from agfsync import recipe as config
from agfsync.engine.progress import SilentProgress
from agfsync.recipe.recipe import SHAPES_SCORERS
from agfsync.records import Answer, Candidate, Caption, Comparison, Pair, Question, Score
from agfsync.stages.context import Context
from agfsync.stages.evaluation.comparing import compare_models, summarise_comparisons
from agfsync.store import Run

COLORS = {"red": "#d6453d", "blue": "#2f6fb5", "green": "#3f9a58", "yellow": "#e8bc35", "purple": "#7d55a8"}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 0.11, "large": 0.19}
GROUNDS = {"white": "#f4f4f1", "grey": "#c9ccd0", "cream": "#f3e7cf"}
CATEGORIES = ("One object", "Colours of two objects", "Sizes", "Spatial relations", "Backgrounds")

Scene = dict[str, str]
"""Attribute -> its value: left color, left shape, left size, right ..., background."""


@dataclass(frozen=True)
class World:
    """How a made-up run turned out; `skill` is the share of attributes that a model draws as asked."""

    train: int = 24
    held_out: int = 40
    skill: Mapping[str, float] = field(default_factory=lambda: {"base": 0.62, "aligned": 0.78})
    flattery: float = 0.0
    """chance that the VQA model calls a fault of the aligned model right: reward hacking"""
    clip_drift: float = 0.0
    side: int = 64
    oracle: bool = True
    stages: tuple[str, ...] = ("captions", "questions", "candidates", "scores", "pairs", "training", "evaluation")
    differing: bool = True
    pairs: bool = True
    text: str = ""
    """what stands in place of a caption, to try its escaping"""
    failures: bool = True


class Builder:
    """Writes a made-up run into a folder, table by table."""

    def __init__(self, path: Path, world: World) -> None:
        self.world, self.random = world, random.Random(7)
        judges = {"oracle": {"type": "shapes-oracle"}} if world.oracle else {}
        scorers = {name: settings.model_dump() for name, settings in SHAPES_SCORERS.items()}
        recipe = "name: demo\n" + yaml.safe_dump({"scorers": scorers | judges}, sort_keys=False)
        recipe += "candidates: {per_caption: 4}\nmodel: {sampling: {steps: 15, guidance: 3.0}}\n"
        recipe += "training: {steps: 150, batch: 24, learning_rate: 3.0e-5}\n"
        self.run = Run.create(path, recipe)
        self.recipe = config.check_recipe(dict(yaml.safe_load(recipe)), "made up")
        self.captions = [self._caption(i) for i in range(world.train + world.held_out)]
        self.scenes = {c.key: self._scene(i) for i, c in enumerate(self.captions)}
        self.questions = {c.key: self._questions(c) for c in self.captions}

    def build(self) -> Context:
        for seconds, stage in zip((0.3, 0.2, 141.0, 38.4, 0.1, 187.0, 96.0), self.world.stages, strict=False):
            notes = getattr(self, f"make_{stage}")() or {}
            self.run.finish(stage, f"digest of {stage}", seconds, notes)
        return Context(self.run, self.recipe, SilentProgress())

    # Tables

    def make_captions(self) -> None:
        self._commit("captions", {c.key: [c] for c in self.captions}, Caption)

    def make_questions(self) -> None:
        self._commit("questions", {key: list(asked) for key, asked in self.questions.items()}, Question)

    def make_candidates(self) -> None:
        self.drawn = {c.key: [self._draw(c, i, 0.62) for i in range(4)] for c in self.captions if c.split == "train"}
        self._commit("candidates", {key: [d[0] for d in drawn] for key, drawn in self.drawn.items()}, Candidate)
        if self.world.failures:
            for reason in (
                "broken image: truncated PNG",
                "broken image: truncated PNG",
                "the generator gave no image",
            ):
                self.run.skip("candidates", f"unit {self.random.random()}", reason)

    def make_scores(self) -> None:
        self.scored = {
            key: [score for candidate, scene in drawn for score in self._judge(key, candidate, scene, False)]
            for key, drawn in self.drawn.items()
        }
        self._commit("scores", self.scored, Score)
        for each in (score for scores in self.scored.values() for score in scores if score.reason):
            self.run.skip("scores", each.key, f"no {each.scorer} score: {each.reason}", each.candidate_key)

    def make_pairs(self) -> dict[str, Any]:
        made: dict[str, list[Pair]] = {}
        weights = self.recipe.pairs.weights
        for key, scores in self.scored.items():
            sums: dict[str, float] = {}
            for s in scores:
                sums[s.candidate_key] = sums.get(s.candidate_key, 0) + weights.get(s.scorer, 0) * (s.value or 0)
            best, worst = max(sums, key=sums.__getitem__), min(sums, key=sums.__getitem__)
            pair = Pair(f"pair {key}", key, best, worst, sums[best], sums[worst], sums[best] - sums[worst])
            made[key] = [pair] if self.world.pairs else []
        dropped = {key: {"tie: every candidate has the same weighted sum": 1} for key in list(made)[:3]}
        self.run.commit("pairs", made, Pair.schema, dropped=dropped if self.world.failures else {})
        self.run.select("pairs", made)
        said = {"vqa": {"mean": 24.0, "for": 0.9, "against": 0.0}, "clip": {"mean": -1.0, "for": 0.25, "against": 0.5}}
        return {"pairs": sum(map(len, made.values())), "ties": 3, "contributions": said}

    def make_training(self) -> dict[str, Any]:
        (self.run.path / "training").mkdir()
        noise = self.random.gauss
        lines = []
        for step in range(150):
            way = 1 - math.exp(-step / 50)
            values = {
                "step": step + 1,
                "loss": 0.693 - 0.18 * way + noise(0, 0.03),
                "implicit_accuracy": 0.5 + 0.3 * way + noise(0, 0.05),
                "winner_error_change": -2e-5 * way + noise(0, 4e-6),
                "loser_error_change": 9e-5 * way + noise(0, 8e-6),
                "gradient_norm": 0.4 + 0.5 * way + abs(noise(0, 0.15)),
                "learning_rate": 3e-5 * (1 + math.cos(math.pi * step / 150)) / 2,
                "seconds": 1.2,
            }
            lines.append(json.dumps(values))
        (self.run.path / "training" / "metrics.jsonl").write_text("\n".join(lines))
        return {"steps": 150, "final_loss": 0.513}

    def make_evaluation(self) -> dict[str, Any]:
        held_out = [c for c in self.captions if c.split == "held-out"]
        images: dict[str, list[Candidate]] = {}
        scores: dict[str, list[Score]] = {}
        sides: dict[str, tuple[str, str]] = {}
        for model in ("base", "aligned"):
            for c in held_out:
                candidate, scene = self._draw(c, 0, self.world.skill[model], model)
                images[f"{model} {c.key}"] = [candidate]
                scores[candidate.key] = self._judge(c.key, candidate, scene, model == "aligned")
                sides[c.key] = (*sides.get(c.key, ()), candidate.key)  # type: ignore[assignment]
        self._commit("evaluation_images", images, Candidate)
        self._commit("evaluation_scores", scores, Score)
        every = [s for group in scores.values() for s in group]
        rows = compare_models(held_out, sides, every, self.questions)
        self._commit("evaluation", {row.key: [row] for row in rows}, Comparison)
        return {"held_out": len(held_out)} | summarise_comparisons(rows, 400, 0)

    def _commit(self, table: str, units: Mapping[str, Any], kind: Any) -> None:
        self.run.commit(table, units, kind.schema)
        self.run.select(table, units)

    # Made-up content

    def _caption(self, i: int) -> Caption:
        scene = self._scene(i)
        text = self.world.text or (
            f"a {scene['left size']} {scene['left color']} {scene['left shape']} to the left of a "
            f"{scene['right size']} {scene['right color']} {scene['right shape']}, "
            f"on a {scene['background']} background"
        )
        split = "train" if i < self.world.train else "held-out"
        return Caption(f"caption-{i}", text, CATEGORIES[i % len(CATEGORIES)], split)  # type: ignore[arg-type]

    def _scene(self, i: int) -> Scene:
        chance = random.Random(i)
        scene = {"background": chance.choice(list(GROUNDS))}
        for side in ("left", "right"):
            scene |= {f"{side} color": chance.choice(list(COLORS)), f"{side} shape": chance.choice(SHAPES)}
            scene |= {f"{side} size": chance.choice(list(SIZES))}
        return scene

    def _questions(self, caption: Caption) -> tuple[Question, ...]:
        scene = self.scenes[caption.key]
        kinds = {"color": "color", "shape": "shape", "size": "attribute", "background": "location"}
        return tuple(
            Question(
                f"{caption.key} {name}",
                caption.key,
                f"Is the {name.replace(' ', ' one’s ')} {value}?" if not self.world.text else self.world.text,
                "yes",
                name,
                kinds[name.split()[-1]],  # type: ignore[arg-type]
            )
            for name, value in scene.items()
        )

    def _draw(self, caption: Caption, index: int, skill: float, model: str = "base") -> tuple[Candidate, Scene]:
        """An image in which each attribute is as asked with the chance `skill`, and what it really shows."""
        choices = {"color": list(COLORS), "shape": list(SHAPES), "size": list(SIZES), "background": list(GROUNDS)}
        chance = random.Random(f"{caption.key} {index}")
        scene = {
            name: value if chance.random() < skill else chance.choice(choices[name.split()[-1]])
            for name, value in self.scenes[caption.key].items()
        }
        key = f"{model} {caption.key} {index} {caption.split}"
        return Candidate(key, caption.key, index, 1, model, draw_png(scene, self.world.side)), scene

    def _judge(self, key: str, candidate: Candidate, shown: Scene, aligned: bool) -> list[Score]:
        asked = self.questions[key]
        truth = [shown[q.element] == self.scenes[key][q.element] for q in asked] if self.world.differing else [True] * 7
        flattered = self.world.flattery if aligned else 0.0
        seen = [right or self.random.random() < flattered for right in truth]
        right = sum(truth) / len(truth)
        clip = 24 + 6 * right + self.random.gauss(0, 0.6) + (self.world.clip_drift if aligned else 0)
        values = {"clip": clip, "aesthetic": 54 + self.random.gauss(0, 2.5)}
        scores = [self._score(candidate, "vqa", asked, seen)]
        scores += [Score(f"{candidate.key} {name}", candidate.key, name, value, None) for name, value in values.items()]
        if candidate.caption_key == "caption-3" and self.world.failures:
            scores[2] = Score(scores[2].key, candidate.key, "aesthetic", None, "the image is of one colour")
        return [*scores, self._score(candidate, "oracle", asked, truth)] if self.world.oracle else scores

    def _score(self, candidate: Candidate, name: str, asked: tuple[Question, ...], right: list[bool]) -> Score:
        answers = tuple(
            Answer(q.key, "yes" if yes else "no", 0.9 if yes else 0.1) for q, yes in zip(asked, right, strict=True)
        )
        return Score(f"{candidate.key} {name}", candidate.key, name, 100 * sum(right) / len(right), None, answers)


def draw_png(scene: Scene, side: int) -> bytes:
    """A PNG of the scene, anti-aliased."""
    scale = 4 if side <= 128 else 1
    edge = side * scale
    image = Image.new("RGB", (edge, edge), GROUNDS[scene["background"]])
    draw = ImageDraw.Draw(image)
    for name, x in (("left", 0.28), ("right", 0.72)):
        size, color = SIZES[scene[f"{name} size"]], COLORS[scene[f"{name} color"]]
        box = [edge * (x - size), edge * (0.5 - size), edge * (x + size), edge * (0.5 + size)]
        if scene[f"{name} shape"] == "circle":
            draw.ellipse(box, fill=color)
        elif scene[f"{name} shape"] == "square":
            draw.rectangle(box, fill=color)
        else:
            draw.polygon([(edge * x, box[1]), (box[2], box[3]), (box[0], box[3])], fill=color)
    file = io.BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def made_up(tmp_path: Path) -> Iterator[Any]:
    """Gives a function from a `World`'s settings to the context of such a run."""
    opened: list[Run] = []

    def build(**world: Any) -> Context:
        context = Builder(tmp_path / f"run{len(opened)}", World(**world)).build()
        opened.append(context.run)
        return context

    yield build
    for run in opened:
        run.close()

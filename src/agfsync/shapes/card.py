"""The Shapes world's model card: what its models can do, measured on scenes drawn for it and shown to none of them."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from agfsync.generators.stable_diffusion import StableDiffusion
from agfsync.records import Question, seed_of
from agfsync.scorers import Item, Measurement
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.backbone import Backbone
from agfsync.scorers.vqa import Vqa
from agfsync.shapes.drawing import draw
from agfsync.shapes.grammar import CATEGORIES, describe, invent, questions, write
from agfsync.shapes.oracle import Oracle, see
from agfsync.shapes.queries import Query
from agfsync.shapes.scene import Scene, Spec
from agfsync.shapes.training.aesthetic import rating
from agfsync.shapes.training.generator import DROPPED, SWAPPED
from agfsync.shapes.training.pictures import any_captioned_scene, any_scene
from agfsync.shapes.training.spoiling import spoil
from agfsync.shapes.training.vqa import ask

DRAWINGS = 500
CAPTIONS = 240
STEPS, GUIDANCE = 15, 4.0
"""How the demo's recipe samples."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the card: what was measured, the value as text, what was asked of it."""

    what: str
    value: str
    target: str = ""


def measure(folder: Path) -> list[Figure]:
    """Every figure of the models in `folder`."""
    of_models = (_sizes, _vae, _vqa, _clip, _aesthetic, _generator)
    return [*_oracle(), *(figure for figures in of_models for figure in figures(folder))]


def render(figures: list[Figure]) -> str:
    """The card as Markdown."""
    rows = [f"| {f.what} | {f.value} | {f.target} |" for f in figures]
    return "\n".join([_HEAD, "| measured | value | asked for |", "|---|---|---|", *rows])


_HEAD = f"""# The Shapes world's models

Trained from scratch by `agfsync shapes train` on drawings of this project's own; the judges on right captions, the
generator on right ones first and then on captions of which {SWAPPED:.0%} of the attributes are wrong and {DROPPED:.0%}
are missing. They know nothing of the real world. What follows was measured by `agfsync shapes card` on scenes that it
drew anew.
"""


def _sizes(folder: Path) -> list[Figure]:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [Figure("size of all files", f"{total / 1e6:.1f} MB", "25 MB at most")]


def _drawings(name: str, count: int) -> Iterator[tuple[random.Random, Scene]]:
    for n in range(count):
        rng = random.Random(f"card/{name}/{n}")
        yield rng, any_scene(rng)


def _oracle() -> list[Figure]:
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for rng, scene in _drawings("oracle", DRAWINGS):
        seen = see(draw(scene))
        for query, answer in ask(scene, 10, rng):
            asked[query.element_type] += 1
            right[query.element_type] += query.answer(seen) == answer
    worst = min(asked, key=lambda kind: right[kind] / asked[kind])
    return [
        Figure("oracle: right answers on clean drawings", _share(right.total(), asked.total()), "99 % at least"),
        Figure(f"oracle: worst element type ({worst})", _share(right[worst], asked[worst])),
    ]


def _vae(folder: Path) -> list[Figure]:
    vae = StableDiffusion(str(folder / "generator"))
    scenes = [scene for _, scene in _drawings("vae", 200)]
    images = [draw(scene) for scene in scenes]
    decoded = vae.decode_latents(vae.encode_images(images))
    error = np.mean([(_array(a) - _array(b)) ** 2 for a, b in zip(images, decoded, strict=True)])
    whole = sum(_content(see(image)) == _content(scene) for image, scene in zip(decoded, scenes, strict=True))
    return [
        Figure("VAE: mean squared error of a reconstruction, pixels in 0..1", f"{error:.5f}"),
        Figure("VAE: reconstructions in which the oracle sees the very scene", _share(whole, len(scenes))),
    ]


def _vqa(folder: Path) -> list[Figure]:
    vqa = Vqa(model=str(folder / "vqa"))
    right: Counter[tuple[str, bool]] = Counter()
    asked: Counter[tuple[str, bool]] = Counter()
    drawn = [(scene, ask(scene, 10, rng)) for rng, scene in _drawings("vqa", DRAWINGS)]
    said = vqa.p_yes([draw(scene) for scene, _ in drawn], [[q.text() for q, _ in qa] for _, qa in drawn])
    for (_, qa), p_yes in zip(drawn, said, strict=True):
        for (query, answer), p in zip(qa, p_yes, strict=True):
            asked[query.element_type, answer] += 1
            right[query.element_type, answer] += (p > 0.5) == answer
    lines = []
    for answer, word in ((True, "yes"), (False, "no")):
        counts = [sum(n for (_, a), n in counter.items() if a == answer) for counter in (right, asked)]
        what = f"VQA: right answers on held-out drawings, {word}-questions"
        lines.append(Figure(what, _share(*counts), "95 % at least"))
    kinds = sorted({kind for kind, _ in asked})
    by_kind = ", ".join(f"{k} {_rate(right, k) / _rate(asked, k):.1%}" for k in kinds)
    return [*lines, Figure("VQA: by element type", by_kind)]


def _rate(counts: Counter[tuple[str, bool]], kind: str) -> int:
    return counts[kind, True] + counts[kind, False]


def _clip(folder: Path) -> list[Figure]:
    clip = Backbone(str(folder / "clip"), None, "fp32", "cpu")
    rng = random.Random("card/clip")
    scenes = [any_captioned_scene(rng)[1] for _ in range(100)]
    texts, _ = clip.texts([write(describe(scene, rng), rng) for scene in scenes])
    similarity = clip.images([draw(scene) for scene in scenes]) @ texts.T
    own = torch.arange(len(scenes))
    return [
        Figure("CLIP: picture finds its caption among 100", f"{(similarity.argmax(1) == own).float().mean():.1%}"),
        Figure("CLIP: caption finds its picture among 100", f"{(similarity.argmax(0) == own).float().mean():.1%}"),
    ]


def _aesthetic(folder: Path) -> list[Figure]:
    judge = Aesthetic(model=str(folder / "clip"), head=str(folder / "aesthetic"))
    rng = random.Random("card/aesthetic")
    degrees = [rng.choice((0.0, rng.uniform(0.3, 1))) for _ in range(400)]
    images = [spoil(draw(any_scene(rng)), degree, rng) for degree in degrees]
    words = judge.score([Item("", (), image) for image in images])
    said = [word.value for word in words if isinstance(word, Measurement)]
    whole = [value for value, degree in zip(said, degrees, strict=True) if degree == 0]
    spoilt = [value for value, degree in zip(said, degrees, strict=True) if degree > 0]
    better = np.mean([[a > b for b in spoilt] for a in whole])
    error = np.mean([abs(value / 10 - rating(degree)) for value, degree in zip(said, degrees, strict=True)])
    return [
        Figure("aesthetic: an untouched picture beats a spoilt one", f"{better:.1%}"),
        Figure("aesthetic: mean absolute error, on 0..10", f"{error:.2f}"),
    ]


def _generator(folder: Path) -> list[Figure]:
    model = StableDiffusion(str(folder / "generator"), steps=STEPS, guidance=GUIDANCE, scheduler="dpm++", dtype="bf16")
    rng = random.Random("card/generator")
    specs = [invent(CATEGORIES[n % len(CATEGORIES)], rng) for n in range(CAPTIONS)]
    prompts = [write(spec, rng) for spec in specs]
    images: list[Image.Image] = []
    for start in range(0, CAPTIONS, 48):
        batch = prompts[start : start + 48]
        images += model.draw(batch, [seed_of("card", prompt) for prompt in batch], embedding_noise=0.0)
    words = Oracle().score([Item(p, _asked(s), i) for p, s, i in zip(prompts, specs, images, strict=True)])
    scores = [word.value for word in words if isinstance(word, Measurement)]
    return [
        Figure("base generator: oracle score on held-out captions", f"{np.mean(scores):.1f} of 100", "45 to 85"),
        Figure("base generator: pictures wholly right", f"{np.mean([score == 100 for score in scores]):.1%}"),
    ]


def _asked(spec: Spec) -> tuple[Question, ...]:
    return tuple(_question(query) for query in questions(spec))


def _question(query: Query) -> Question:
    return Question(query.text(), "", query.text(), "yes", "", query.element_type)


def _content(scene: Scene) -> tuple[list[tuple[str, str, str, str]], str]:
    return sorted((t.shape, t.color, t.size, t.material) for t in scene.things), scene.background


def _array(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(image, np.float64) / 255


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%} of {whole}"

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

from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.records import Question, seed_of
from agfsync.scorers import Item, Measurement
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.backbone import Backbone
from agfsync.scorers.vqa import Vqa
from agfsync.shapes.drawing import draw
from agfsync.shapes.grammar import CATEGORIES, describe, foils, invent, questions, write
from agfsync.shapes.oracle import Oracle, see
from agfsync.shapes.queries import Query
from agfsync.shapes.scene import MAX_THINGS, Scene, Spec
from agfsync.shapes.training.aesthetic import rating
from agfsync.shapes.training.generator import DROPPED, SWAPPED
from agfsync.shapes.training.loop import fast_bf16
from agfsync.shapes.training.pictures import any_captioned_scene, any_scene, scene_of
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
    of_models = (_sizes, _vae, _vqa, _clip, _aesthetic)
    figures = [*_oracle(), *(figure for figures in of_models for figure in figures(folder))]
    generated = _generated(folder)
    return [*figures, *_generator(generated), *_judges(folder, generated)]


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
        for query, answer in ask((scene,), scene.things, 10, rng):
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
    vqa = Vqa(path=str(folder / "vqa"))
    right: Counter[tuple[str, bool]] = Counter()
    asked: Counter[tuple[str, bool]] = Counter()
    drawn = [(scene, ask((scene,), scene.things, 10, rng)) for rng, scene in _drawings("vqa", DRAWINGS)]
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
    rng = random.Random("card/aesthetic")
    degrees = [rng.choice((0.0, rng.uniform(0.3, 1))) for _ in range(800)]
    counts = [1 + n % MAX_THINGS for n in range(len(degrees))]
    images = [spoil(draw(scene_of(c, rng)), degree, rng) for c, degree in zip(counts, degrees, strict=True)]
    said = _rated(folder, images)
    whole = [value for value, degree in zip(said, degrees, strict=True) if degree == 0]
    spoilt = [value for value, degree in zip(said, degrees, strict=True) if degree > 0]
    better = np.mean([[a > b for b in spoilt] for a in whole])
    error = np.mean([abs(value / 10 - rating(degree)) for value, degree in zip(said, degrees, strict=True)])
    of_count = {
        n: np.mean([v for v, c, d in zip(said, counts, degrees, strict=True) if c == n and d == 0])
        for n in range(1, MAX_THINGS + 1)
    }
    means = ", ".join(f"{n}: {mean:.1f}" for n, mean in of_count.items())
    return [
        Figure("aesthetic: an untouched picture beats a spoilt one", f"{better:.1%}"),
        Figure("aesthetic: mean absolute error, on 0..10", f"{error:.2f}"),
        Figure("aesthetic: mean score of untouched pictures of 1 to 4 things", means, "within 1.5 points, 1 and 4"),
    ]


def _rated(folder: Path, images: list[Image.Image]) -> list[float]:
    """Return the aesthetic score of each picture, 0..100."""
    words = Aesthetic(path=str(folder / "clip"), head=str(folder / "aesthetic")).score(
        [Item("", (), image) for image in images]
    )
    return [word.value for word in words if isinstance(word, Measurement)]


@dataclass(frozen=True, slots=True)
class _Generated:
    """Captions, in turn of every category, and the base generator's picture of each."""

    prompts: list[str]
    specs: list[Spec]
    images: list[Image.Image]


def _generated(folder: Path) -> _Generated:
    dtype = "bf16" if fast_bf16() else "fp32"
    model = StableDiffusion(str(folder / "generator"), steps=STEPS, guidance=GUIDANCE, scheduler="dpm++", dtype=dtype)
    rng = random.Random("card/generator")
    specs = [invent(CATEGORIES[n % len(CATEGORIES)], rng) for n in range(CAPTIONS)]
    prompts = [write(spec, rng) for spec in specs]
    images: list[Image.Image] = []
    for start in range(0, CAPTIONS, 48):
        batch = prompts[start : start + 48]
        images += model.draw(batch, [seed_of("card", prompt) for prompt in batch], embedding_noise=0.0)
    return _Generated(prompts, specs, images)


def _oracle_scores(generated: _Generated) -> list[float]:
    """Return the oracle's score of each picture on what its caption states, 0..100."""
    triples = zip(generated.prompts, generated.specs, generated.images, strict=True)
    words = Oracle().score([Item(prompt, _asked(spec), image) for prompt, spec, image in triples])
    return [word.value for word in words if isinstance(word, Measurement)]


def _generator(generated: _Generated) -> list[Figure]:
    scores = _oracle_scores(generated)
    return [
        Figure("base generator: oracle score on held-out captions", f"{np.mean(scores):.1f} of 100", "45 to 85"),
        Figure("base generator: pictures wholly right", f"{np.mean([score == 100 for score in scores]):.1%}"),
    ]


def _judges(folder: Path, generated: _Generated) -> list[Figure]:
    """Return how the judges do on the base generator's pictures, which they weren't trained on."""
    seen = [see(image) for image in generated.images]
    clip = Backbone(str(folder / "clip"), None, "fp32", "cpu")
    own = (clip.images(generated.images) * clip.texts(generated.prompts)[0]).sum(dim=1).tolist()
    rated = _rated(folder, generated.images)
    oracle, things = _oracle_scores(generated), [len(scene.things) for scene in seen]
    correlations = [
        Figure(
            f"{name} on generated pictures: correlation with the oracle, and with the number of things",
            f"{np.corrcoef(said, oracle)[0, 1]:+.2f}, {np.corrcoef(said, things)[0, 1]:+.2f}",
        )
        for name, said in (("CLIP", own), ("aesthetic", rated))
    ]
    return [*_agreement(folder, generated, seen), *correlations]


def _agreement(folder: Path, generated: _Generated, seen: list[Scene]) -> list[Figure]:
    """Return how often the VQA model and the oracle give the same answer, on what captions state and what they deny."""
    rng = random.Random("card/foils")
    asked = [questions(spec) + [foil for _, foil in foils(spec, rng)] for spec in generated.specs]
    said = Vqa(path=str(folder / "vqa")).p_yes(generated.images, [[q.text() for q in of_one] for of_one in asked])
    pairs: Counter[tuple[str, bool, bool]] = Counter()
    for queries, scene, p_yes in zip(asked, seen, said, strict=True):
        for query, p in zip(queries, p_yes, strict=True):
            pairs[query.element_type, query.answer(scene), p > 0.5] += 1

    def count(kind: str | None, oracle: bool | None, vqa: bool | None) -> int:
        """Count the answers like these; None stands for any."""
        wanted = (kind, oracle, vqa)
        return sum(n for key, n in pairs.items() if all(w in (None, k) for w, k in zip(wanted, key, strict=True)))

    def agreed(kind: str | None) -> float:
        return (count(kind, True, True) + count(kind, False, False)) / count(kind, None, None)

    kinds = sorted({kind for kind, *_ in pairs})
    what = "VQA: agreement with the oracle on generated pictures"
    return [
        Figure(what, f"{agreed(None):.1%} of {pairs.total()}", "93 % at least"),
        Figure(f"{what}, by element type", ", ".join(f"{kind} {agreed(kind):.1%}" for kind in kinds)),
        Figure("VQA: yes where the oracle says no", _share(count(None, False, True), count(None, False, None))),
        Figure("VQA: no where the oracle says yes", _share(count(None, True, False), count(None, True, None))),
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

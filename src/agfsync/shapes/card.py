"""The Shapes world's model card: the quality of its models, measured on new scenes that no model was trained on."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from agfsync.models.latent_model import LatentModel
from agfsync.models.stable_diffusion import StableDiffusion
from agfsync.models.stable_diffusion_3 import StableDiffusion3
from agfsync.records import Question, derive_seed
from agfsync.scorers import Item, Measurement, Scorer
from agfsync.scorers.aesthetic import Aesthetic
from agfsync.scorers.backbone import Backbone
from agfsync.scorers.vqa import Vqa
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.fidelity import ShapesFidelity
from agfsync.shapes.grammar import (
    SHAPES_CATEGORIES,
    describe_scene,
    invent_spec,
    list_foils,
    list_questions,
    write_caption,
)
from agfsync.shapes.oracle import Oracle, see_scene
from agfsync.shapes.scene import MAX_THINGS, Scene, Spec
from agfsync.shapes.training.aesthetic import rate_degree
from agfsync.shapes.training.asking import ask_questions
from agfsync.shapes.training.fidelity import rate_fidelity
from agfsync.shapes.training.flaws import draw_flawed
from agfsync.shapes.training.flow import NO_T5
from agfsync.shapes.training.generator import DROPPED, SWAPPED
from agfsync.shapes.training.images import sample_captioned_scene, sample_scene, spoil_image
from agfsync.shapes.training.lessons import has_fast_bf16

_DRAWINGS = 500
_CAPTIONS = 240
STEPS, GUIDANCE = 15, 4.0
"""The sampling settings of the demo's recipe."""
_HEAD = f"""# The Shapes world's models

Trained from scratch by `agfsync shapes train` on drawings of this project's own; the judges on right captions, the
generator on right ones first and then on captions of which {SWAPPED:.0%} of the attributes are wrong and {DROPPED:.0%}
are missing. They know nothing of the real world. `agfsync shapes card` measured the figures below on new scenes.
"""


class Figure(NamedTuple):
    """A line of the card: the measured quantity, its value as text, and the target."""

    what: str
    value: str
    target: str = ""


def measure_models(folder: Path) -> list[Figure]:
    """Measure all figures of the models in `folder`."""
    of_models = (_measure_size, _measure_vae, _measure_vqa, _measure_clip, _measure_aesthetic, _measure_fidelity)
    figures = [*_measure_oracle(), *(figure for measure in of_models for figure in measure(folder))]
    generated, flow = (_generate(model) for model in _load_generators(folder))
    drawn = [*_measure_generator("base generator", generated), *_measure_generator("base flow model", flow)]
    return [*figures, *drawn, *_measure_judges(folder, generated)]


def render_card(figures: list[Figure]) -> str:
    """Return the card as Markdown."""
    rows = [f"| {figure.what} | {figure.value} | {figure.target} |" for figure in figures]
    return "\n".join([_HEAD, "| measured | value | asked for |", "|---|---|---|", *rows])


def _measure_size(folder: Path) -> Iterator[Figure]:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    yield Figure("size of all files", f"{total / 1e6:.1f} MB", "40 MB at most")


def _sample_scenes(name: str, count: int) -> Iterator[tuple[random.Random, Scene]]:
    for n in range(count):
        rng = random.Random(f"card/{name}/{n}")
        yield rng, sample_scene(rng)


def _measure_oracle() -> Iterator[Figure]:
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for rng, scene in _sample_scenes("oracle", _DRAWINGS):
        seen = see_scene(draw_scene(scene))
        for query, answer in ask_questions((scene,), scene.things, 10, rng):
            asked[query.element_type] += 1
            right[query.element_type] += query.answer(seen) == answer
    worst = min(asked, key=lambda kind: right[kind] / asked[kind])
    yield Figure("oracle: right answers on clean drawings", _share(right.total(), asked.total()), "99 % at least")
    yield Figure(f"oracle: worst element type ({worst})", _share(right[worst], asked[worst]))


def _measure_vae(folder: Path) -> Iterator[Figure]:
    vae = StableDiffusion(str(folder / "generator"))
    scenes = [scene for _, scene in _sample_scenes("vae", 200)]
    images = [draw_scene(scene) for scene in scenes]
    decoded = vae.decode_latents(vae.encode_images(images))
    error = np.mean([(_to_array(a) - _to_array(b)) ** 2 for a, b in zip(images, decoded, strict=True)])
    whole = sum(_content(see_scene(image)) == _content(scene) for image, scene in zip(decoded, scenes, strict=True))
    yield Figure("VAE: mean squared error of a reconstruction, pixels in 0..1", f"{error:.5f}")
    yield Figure("VAE: reconstructions in which the oracle sees the very scene", _share(whole, len(scenes)))


def _measure_vqa(folder: Path) -> Iterator[Figure]:
    """Measure the VQA model's accuracy on clean drawings, by the true answer and by element type."""
    drawn = [(scene, ask_questions((scene,), scene.things, 10, rng)) for rng, scene in _sample_scenes("vqa", _DRAWINGS)]
    texts = [[query.to_text() for query, _ in asked] for _, asked in drawn]
    p_yes = Vqa(path=str(folder / "vqa")).p_yes([draw_scene(scene) for scene, _ in drawn], texts)
    answers = [
        (query.element_type, answer, (p > 0.5) == answer)
        for (_, asked), row in zip(drawn, p_yes, strict=True)
        for (query, answer), p in zip(asked, row, strict=True)
    ]
    by_answer = {word: [ok for _, answer, ok in answers if answer is (word == "yes")] for word in ("yes", "no")}
    kinds = sorted({kind for kind, *_ in answers})
    by_kind = [f"{kind} {np.mean([ok for k, _, ok in answers if k == kind]):.1%}" for kind in kinds]
    what = "VQA: right answers on held-out drawings, {}-questions"
    for word, ok in by_answer.items():
        yield Figure(what.format(word), _share(sum(ok), len(ok)), "95 % at least")
    yield Figure("VQA: by element type", ", ".join(by_kind))


def _measure_clip(folder: Path) -> Iterator[Figure]:
    clip = Backbone(str(folder / "clip"), None, "fp32", "cpu")
    rng = random.Random("card/clip")
    scenes = [sample_captioned_scene(rng)[1] for _ in range(100)]
    texts, _ = clip.embed_texts([write_caption(describe_scene(scene, rng), rng) for scene in scenes])
    similarity = clip.embed_images([draw_scene(scene) for scene in scenes]) @ texts.T
    own = torch.arange(len(scenes))
    yield Figure("CLIP: image finds its caption among 100", f"{(similarity.argmax(1) == own).float().mean():.1%}")
    yield Figure("CLIP: caption finds its image among 100", f"{(similarity.argmax(0) == own).float().mean():.1%}")


def _measure_aesthetic(folder: Path) -> Iterator[Figure]:
    rng = random.Random("card/aesthetic")
    degrees = np.array([rng.choice((0.0, rng.uniform(0.3, 1))) for _ in range(800)])
    counts = np.array([1 + n % MAX_THINGS for n in range(len(degrees))])
    pairs = zip(counts.tolist(), degrees.tolist(), strict=True)
    images = [spoil_image(draw_scene(sample_scene(rng, count)), degree, rng) for count, degree in pairs]
    values = np.array(_rate_images(folder, images))
    whole = degrees == 0
    better = (values[whole][:, None] > values[~whole]).mean()
    error = np.abs(values / 10 - np.array([rate_degree(degree) for degree in degrees])).mean()
    means = [f"{n}: {values[whole & (counts == n)].mean():.1f}" for n in range(1, MAX_THINGS + 1)]
    what = "aesthetic: mean score of untouched images of 1 to 4 things"
    yield Figure("aesthetic: an untouched image beats a spoilt one", f"{better:.1%}")
    yield Figure("aesthetic: mean absolute error, on 0..10", f"{error:.2f}")
    yield Figure(what, ", ".join(means), "within 1.5 points, 1 and 4")


def _measure_fidelity(folder: Path) -> Iterator[Figure]:
    rng = random.Random("card/fidelity")
    drawings = [draw_flawed(rng) for _ in range(800)]
    true = np.array([rate_fidelity(drawing) for drawing in drawings])
    items = [Item("", (), drawing.image) for drawing in drawings]
    found = np.array(_score(ShapesFidelity(path=str(folder / "fidelity")), items)) / 100
    whole, broken = true == 1, true < 1
    better = (found[whole][:, None] > found[broken]).mean()
    yield Figure("fidelity: a drawing of whole things beats one with a broken thing", f"{better:.1%}")
    yield Figure("fidelity: mean absolute error of the share of whole things", f"{np.abs(found - true).mean():.3f}")


def _rate_images(folder: Path, images: list[Image.Image]) -> list[float]:
    scorer = Aesthetic(path=str(folder / "clip"), head=str(folder / "aesthetic"))
    return _score(scorer, [Item("", (), image) for image in images])


def _score(scorer: Scorer, items: Sequence[Item]) -> list[float]:
    return [result.value for result in scorer.score(items) if isinstance(result, Measurement)]


class _Generated(NamedTuple):
    """Captions of all categories in turn; for each a generator's image, and the oracle's scene and score of it."""

    prompts: list[str]
    specs: list[Spec]
    images: list[Image.Image]
    scenes: list[Scene]
    oracle: list[float]


def _load_generators(folder: Path) -> Iterator[LatentModel]:
    dtype = "bf16" if has_fast_bf16() else "fp32"
    yield StableDiffusion(str(folder / "generator"), steps=STEPS, guidance=GUIDANCE, scheduler="dpm++", dtype=dtype)
    path = str(folder / "flow")
    yield StableDiffusion3(path, steps=STEPS, guidance=GUIDANCE, max_sequence_length=NO_T5, dtype=dtype)


def _generate(model: LatentModel) -> _Generated:
    rng = random.Random("card/generator")
    specs = [invent_spec(SHAPES_CATEGORIES[n % len(SHAPES_CATEGORIES)], rng) for n in range(_CAPTIONS)]
    prompts = [write_caption(spec, rng) for spec in specs]
    images: list[Image.Image] = []
    for start in range(0, _CAPTIONS, 48):
        batch = prompts[start : start + 48]
        images += model.draw(batch, [derive_seed("card", prompt) for prompt in batch], embedding_noise=0.0)
    rows = zip(prompts, specs, images, strict=True)
    oracle = _score(Oracle(), [Item(prompt, _list_stated(spec), image) for prompt, spec, image in rows])
    return _Generated(prompts, specs, images, [see_scene(image) for image in images], oracle)


def _list_stated(spec: Spec) -> tuple[Question, ...]:
    texts = ((query.to_text(), query.element_type) for query in list_questions(spec))
    return tuple(Question(text, "", text, "yes", "", element_type) for text, element_type in texts)


def _measure_generator(name: str, generated: _Generated) -> Iterator[Figure]:
    scores = np.array(generated.oracle)
    yield Figure(f"{name}: oracle score on held-out captions", f"{scores.mean():.1f} of 100", "45 to 85")
    yield Figure(f"{name}: images wholly right", f"{(scores == 100).mean():.1%}")


def _measure_judges(folder: Path, generated: _Generated) -> Iterator[Figure]:
    """Measure the judges on the base generator's images, which they weren't trained on."""
    clip = Backbone(str(folder / "clip"), None, "fp32", "cpu")
    own = (clip.embed_images(generated.images) * clip.embed_texts(generated.prompts)[0]).sum(dim=1).tolist()
    things = [len(scene.things) for scene in generated.scenes]
    yield from _measure_agreement(folder, generated)
    what = "{} on generated images: correlation with the oracle, and with the number of things"
    fidelity = _score(ShapesFidelity(path=str(folder / "fidelity")), [Item("", (), i) for i in generated.images])
    rated = {"CLIP": own, "aesthetic": _rate_images(folder, generated.images), "fidelity": fidelity}
    for name, values in rated.items():
        correlations = [np.corrcoef(values, others)[0, 1] for others in (generated.oracle, things)]
        yield Figure(what.format(name), ", ".join(f"{correlation:+.2f}" for correlation in correlations))


def _measure_agreement(folder: Path, generated: _Generated) -> Iterator[Figure]:
    """Measure how often VQA model and oracle agree on questions that captions answer with yes, and on foils."""
    rng = random.Random("card/foils")
    asked = [list_questions(spec) + [foil for _, foil in list_foils(spec, rng)] for spec in generated.specs]
    texts = [[query.to_text() for query in of_one] for of_one in asked]
    p_yes = Vqa(path=str(folder / "vqa")).p_yes(generated.images, texts)
    answers = [
        (query.element_type, query.answer(scene), p > 0.5)
        for queries, scene, row in zip(asked, generated.scenes, p_yes, strict=True)
        for query, p in zip(queries, row, strict=True)
    ]

    def agree(rows: Iterable[tuple[str, bool, bool]]) -> str:
        return f"{np.mean([oracle == vqa for _, oracle, vqa in rows]):.1%}"

    kinds = sorted({kind for kind, *_ in answers})
    by_kind = [f"{kind} {agree(row for row in answers if row[0] == kind)}" for kind in kinds]
    after_no = [vqa for _, oracle, vqa in answers if not oracle]
    after_yes = [not vqa for _, oracle, vqa in answers if oracle]
    what = "VQA: agreement with the oracle on generated images"
    yield Figure(what, f"{agree(answers)} of {len(answers)}", "93 % at least")
    yield Figure(f"{what}, by element type", ", ".join(by_kind))
    yield Figure("VQA: yes where the oracle says no", _share(sum(after_no), len(after_no)))
    yield Figure("VQA: no where the oracle says yes", _share(sum(after_yes), len(after_yes)))


def _content(scene: Scene) -> tuple[list[str], str]:
    return sorted(str(thing.kind) for thing in scene.things), scene.background


def _to_array(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(image, np.float64) / 255


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%} of {whole}"

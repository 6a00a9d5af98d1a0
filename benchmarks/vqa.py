"""Compare VQA scoring with the common way: one `generate` for each image and question, which opens the file each time.

    python benchmarks/vqa.py [--model embedded:vqa | random | FOLDER | HUB-ID] [--images 24] [--questions 9]

Both ways run in one process, on the same drawings of the Shapes world and the same questions, each once to warm up and
then timed. `random` is an untrained BLIP-2 of the embedded model's architecture.
"""

import argparse
import io
import random
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Blip2ForConditionalGeneration

from agfsync.catalog import model_path
from agfsync.models.pretrained import torch_device
from agfsync.scorers.vqa import Vqa
from agfsync.shapes.drawing import draw_scene
from agfsync.shapes.training.asking import ask_questions
from agfsync.shapes.training.images import sample_scene
from agfsync.shapes.training.tokenizers import build_word_tokenizer
from agfsync.shapes.training.vqa import build_vqa, build_vqa_processor

Asked = list[tuple[bytes, list[str]]]


def drawings(images: int, questions: int) -> Asked:
    """Return PNG files of random scenes, each with its questions."""
    rng = random.Random(0)
    asked: Asked = []
    while len(asked) < images:
        scene = sample_scene(rng)
        texts = [query.to_text() for query, _ in ask_questions((scene,), scene.things, 2 * questions, rng)][:questions]
        if len(texts) == questions:
            file = io.BytesIO()
            draw_scene(scene).save(file, "PNG")
            asked.append((file.getvalue(), texts))
    return asked


def fast(scorer: Vqa, asked: Asked) -> list[str]:
    """Return the answers from the first token's logits, with each image opened and encoded once."""
    images = [Image.open(io.BytesIO(file)) for file, _ in asked]
    p_yes = scorer.p_yes(images, [texts for _, texts in asked])
    return ["yes" if p > 0.5 else "no" for row in p_yes for p in row]


def plain(model: Any, processor: Any, template: str, asked: Asked) -> list[str]:
    """Return the likelier of yes and no as the first token of one `generate` for each image and question.

    A trained model generates that word; an untrained one generates others.
    """
    yes, no = (processor.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no"))
    said = []
    for file, texts in asked:
        for text in texts:
            image = Image.open(io.BytesIO(file))
            inputs = processor(images=image, text=template.format(question=text), return_tensors="pt")
            reply = model.generate(
                **inputs.to(model.device, model.dtype),
                max_new_tokens=2,  # a word and its end
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            logits_V = reply.logits[0][0]
            said.append("yes" if logits_V[yes] > logits_V[no] else "no")
    return said


def timed(work: Callable[[], list[str]]) -> tuple[list[str], float]:
    """Return the result of `work` and its seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:vqa")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--questions", type=int, default=9)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if settings.model == "random":
            tokenizer = build_word_tokenizer()
            build_vqa(tokenizer).save_pretrained(folder)
            build_vqa_processor(tokenizer).save_pretrained(folder)
        compare(folder if settings.model == "random" else model_path(settings.model), settings)


def compare(folder: str, settings: argparse.Namespace) -> None:
    """Run both ways and print their figures."""
    asked = drawings(settings.images, settings.questions)
    scorer = Vqa(path=folder)
    model = Blip2ForConditionalGeneration.from_pretrained(folder, use_safetensors=True).to(torch_device("auto")).eval()
    template = getattr(model.config, "question_template", "Question: {question} Short answer:")
    reader = AutoProcessor.from_pretrained(folder, backend="pil")
    fast(scorer, asked[:1]), plain(model, reader, template, asked[:1])

    answers, fast_seconds = timed(lambda: fast(scorer, asked))
    said, plain_seconds = timed(lambda: plain(model, reader, template, asked))

    count, agreed = len(answers), sum(a == b for a, b in zip(answers, said, strict=True))
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(f"{settings.model}: {parameters:.1f} M parameters on {model.device}, {torch.get_num_threads()} threads")
    print(f"{len(asked)} images, {count} questions")
    print(f"first token, image encoded once  {fast_seconds:8.3f} s  {count / fast_seconds:8.0f} questions/s")
    print(f"generate for each question       {plain_seconds:8.3f} s  {count / plain_seconds:8.0f} questions/s")
    print(f"ratio                            {plain_seconds / fast_seconds:8.1f}")
    print(f"same answer                      {agreed} of {count}, {answers.count('yes')} of them yes")


if __name__ == "__main__":
    main()

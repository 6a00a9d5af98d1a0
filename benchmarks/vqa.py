"""VQA scoring against the common way: one `generate` for each image and question, its file opened anew each time.

    python benchmarks/vqa.py [--model embedded:vqa | random | FOLDER | HUB-ID] [--images 24] [--questions 9]

Both ways run in this one process, on the same drawings of the Shapes world and the same questions, each once to warm up
and then timed. `random` is an untrained BLIP-2 of the embedded model's build.
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
from agfsync.shapes.drawing import draw
from agfsync.shapes.training.pictures import any_scene
from agfsync.shapes.training.tokenizers import word_tokenizer
from agfsync.shapes.training.vqa import ask, build, processor

Asked = list[tuple[bytes, list[str]]]


def drawings(images: int, questions: int) -> Asked:
    """PNG files of random scenes, each with its questions."""
    rng = random.Random(0)
    asked: Asked = []
    while len(asked) < images:
        scene = any_scene(rng)
        texts = [query.text() for query, _ in ask(scene, 2 * questions, rng)][:questions]
        if len(texts) == questions:
            file = io.BytesIO()
            draw(scene).save(file, "PNG")
            asked.append((file.getvalue(), texts))
    return asked


def fast(scorer: Vqa, asked: Asked) -> list[str]:
    """Each image opened and encoded once, its answers read off the first token's logits."""
    pictures = [Image.open(io.BytesIO(file)) for file, _ in asked]
    p_yes = scorer.p_yes(pictures, [texts for _, texts in asked])
    return ["yes" if p > 0.5 else "no" for row in p_yes for p in row]


def plain(model: Any, processor: Any, template: str, asked: Asked) -> list[str]:
    """One `generate` for each image and question; the likelier of yes and no as its first token.

    That is what it says where it says either: an untrained model says other words.
    """
    yes, no = (processor.tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no"))
    said = []
    for file, texts in asked:
        for text in texts:
            picture = Image.open(io.BytesIO(file))
            inputs = processor(images=picture, text=template.format(question=text), return_tensors="pt")
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
    """What `work` says, and its seconds."""
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
            tokenizer = word_tokenizer()
            build(tokenizer).save_pretrained(folder)
            processor(tokenizer).save_pretrained(folder)
        compare(folder if settings.model == "random" else model_path(settings.model), settings)


def compare(folder: str, settings: argparse.Namespace) -> None:
    """Runs both ways and prints their figures."""
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

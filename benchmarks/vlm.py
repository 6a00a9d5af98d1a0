"""Compare the scorer vlm with the common way: one `generate` for each image and question.

    python benchmarks/vlm.py [--model random | FOLDER | HUB-ID] [--images 4] [--questions 9]

Both ways run in one process, on the same images and questions, each once to warm up and then timed. `random` is an
untrained model of the architecture of SmolVLM (Idefics3), smaller, that reads 9 tiles of an image.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from agfsync.scorers.vlm import TEMPLATE, Vlm

MARKS = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
WORDS = "<pad> <unk> yes no is there a red blue green circle star square left right of the above below ? . : Answer"
MESSAGE = (
    "{% for m in messages %}User: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\nAssistant:{% endfor %}"
)
Asked = list[tuple[Image.Image, list[str]]]


def make_asked(images: int, questions: int) -> Asked:
    """Return images of noise at 512 pixels, each with its questions of 6 to 10 words."""
    rng, words = random.Random(0), WORDS.split()[7:19]
    torch.manual_seed(0)
    return [
        (
            Image.fromarray(torch.randint(0, 255, (512, 512, 3), dtype=torch.uint8).numpy()),
            [f"is there a {' '.join(rng.choices(words, k=rng.randint(3, 7)))}?" for _ in range(questions)],
        )
        for _ in range(images)
    ]


def save_random(folder: Path) -> None:
    """Save an untrained model with its processor."""
    vocabulary = {word: n for n, word in enumerate([*WORDS.split(), *MARKS, *TILES])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in (*MARKS, *TILES)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<end_of_utterance>"
    )
    text = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 6}
    vision = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = Idefics3Config(
        text_config=text | {"num_key_value_heads": 2, "vocab_size": len(vocabulary), "model_type": "llama"},
        vision_config=vision | {"image_size": 256, "patch_size": 16},
        image_token_id=vocabulary["<image>"],
        scale_factor=2,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config.eos_token_id = vocabulary["<end_of_utterance>"]
    model.save_pretrained(folder)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 768}, max_image_size={"longest_edge": 256})
    Idefics3Processor(images, tokenizer, image_seq_len=64, chat_template=MESSAGE).save_pretrained(folder)


def plain(scorer: Vlm, asked: Asked) -> list[str]:
    """Return the likelier of yes and no as the first token of one `generate` for each image and question."""
    reader = scorer._reader
    said = []
    for image, questions in asked:
        for question in questions:
            reader._processor.image_processor.preprocess = reader._preprocess
            inputs = reader._process_prompt([image, TEMPLATE.replace("{}", question)])
            reply: Any = reader._model.generate(
                **{name: reader._place(value) for name, value in inputs.items()},
                max_new_tokens=1,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            logits_V = reply.logits[0][0]
            said.append("yes" if logits_V[scorer._yes].max() > logits_V[scorer._no].max() else "no")
    return said


def fast(scorer: Vlm, asked: Asked) -> list[str]:
    """Return the answers of the scorer, which reads each image once."""
    p_yes = scorer.p_yes([image for image, _ in asked], [questions for _, questions in asked])
    return ["yes" if p > 0.5 else "no" for row in p_yes for p in row]


def timed(work: Callable[[], list[str]]) -> tuple[list[str], float, float]:
    """Return the result of `work`, its seconds and the processor's."""
    start, busy = time.perf_counter(), time.process_time()
    return work(), time.perf_counter() - start, time.process_time() - busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--questions", type=int, default=9)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if settings.model == "random":
            save_random(Path(folder))
        compare(Vlm(path=folder if settings.model == "random" else settings.model), settings)


def compare(scorer: Vlm, settings: argparse.Namespace) -> None:
    """Run both ways and print their figures."""
    asked, model = make_asked(settings.images, settings.questions), scorer._reader._model
    fast(scorer, asked[:1]), plain(scorer, [(asked[0][0], asked[0][1][:1])])
    answers, seconds, busy = timed(lambda: fast(scorer, asked))
    said, plain_seconds, plain_busy = timed(lambda: plain(scorer, asked))
    count, agreed = len(answers), sum(a == b for a, b in zip(answers, said, strict=True))
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    print(f"{settings.model}: {parameters:.1f} M parameters on {model.device}, {torch.get_num_threads()} threads")
    print(f"{len(asked)} images, {count} questions")
    print(f"image read once            {seconds:8.2f} s  {busy:8.2f} s of the processor")
    print(f"generate for each question {plain_seconds:8.2f} s  {plain_busy:8.2f} s of the processor")
    print(f"ratio                      {plain_seconds / seconds:8.1f}    {plain_busy / busy:8.1f}")
    print(f"same answer                {agreed} of {count}, {answers.count('yes')} of them yes")


if __name__ == "__main__":
    main()

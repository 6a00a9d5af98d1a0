"""An image read once says what plain processing and one forward for each question say."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_vlm import FAMILIES, save_vlm
from transformers import AutoModelForImageTextToText, ProcessorMixin
from transformers.utils import is_num2words_available

from agfsync.errors import ModelError
from agfsync.models.pretrained import load_processor
from agfsync.records import Question
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers import vlm as module
from agfsync.scorers.vlm import SHOWS, TEMPLATE, Vlm, VqaScore, write_prompt

SIZES = ((32, 32), (64, 40), (48, 96), (20, 20))
"""Of the images: some are one tile, some several."""


@pytest.fixture(scope="module")
def vlms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vlms")
    for family in FAMILIES:
        save_vlm(root / family, family)
    return root


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, vlms: Path) -> Path:
    return vlms / str(request.param)


@pytest.fixture
def four_items() -> list[Item]:
    """Four images of different sizes with 1 to 9 questions each, of varied length."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for n, (width, height) in enumerate(SIZES):
        noise = torch.randint(0, 255, (height, width, 3), generator=generator, dtype=torch.uint8)
        words = ("red", "blue", "circle", "star", "square", "two", "green", "left", "there")
        texts = [f"is there a {word} {'left of the star ' * (k % 3)}?" for k, word in enumerate(words[: 1 + 3 * n])]
        asked = tuple(Question(f"{n}.{k}", f"{n}", text, "yes", "star", "object") for k, text in enumerate(texts))
        found.append(Item(f"a {words[n]} star in the green circle", asked, Image.fromarray(noise.numpy())))
    return found


class Plain:
    """A model and its processor, asked one text at a time."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.processor: Any = load_processor(str(folder), None)

    @torch.inference_mode()
    def logits(self, image: Image.Image, text: str, begun: str = "") -> torch.Tensor:
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        prompt = ProcessorMixin.apply_chat_template(self.processor, messages, add_generation_prompt=True)
        inputs = self.processor(images=[image], text=[f"{prompt} {begun}"], return_tensors="pt")
        logits_TV: torch.Tensor = self.model(**inputs).logits[0]
        return logits_TV.double()

    def p_yes(self, image: Image.Image, question: str) -> float:
        last_V = self.logits(image, TEMPLATE.format(question))[-1]
        vocabulary = self.processor.tokenizer.convert_tokens_to_ids
        yes, no = (float(last_V[vocabulary(list(words))].max()) for words in (("yes", "Yes"), ("no", "No")))
        return 1 / (1 + float(torch.tensor(no - yes).exp()))


def test_every_question_agrees_with_a_plain_forward(folder: Path, four_items: Sequence[Item]) -> None:
    scorer, plain = Vlm(path=str(folder), device="cpu"), Plain(folder)
    results = scorer.score(four_items)
    said = [a.p_yes for result in results if isinstance(result, Measurement) for a in result.answers]
    expected = [plain.p_yes(item.image, question.text) for item in four_items for question in item.questions]
    assert len(said) == sum(len(item.questions) for item in four_items)
    assert said == pytest.approx(expected, abs=1e-4)
    assert max(said) - min(said) > 0.05, "nothing is compared if all answers are the same"
    assert scorer._reader._keeps_images


def test_choices_and_words_agree_with_plain_forwards(folder: Path, four_items: Sequence[Item]) -> None:
    scorer, plain = Vlm(path=str(folder), device="cpu", template="{} word"), Plain(folder)
    choices, image = ("red star", "circle", "two blue square"), four_items[1].image
    asked = (
        Question("0", "c", "is there a", "circle", "", "object", (), choices),
        Question("1", "c", "is the star", "two blue square", "", "object", (), choices),
        Question("2", "c", "two of", "red star", "", "object"),
        Question("3", "c", "is it", "no", "", "object"),
    )
    (result,) = scorer.score([Item("a star", asked, image)])
    assert isinstance(result, Measurement)

    def log(text: str, reply: str) -> float:
        ids = plain.processor.tokenizer.encode(reply, add_special_tokens=False)
        rows = plain.logits(image, text, reply).log_softmax(-1)[-len(ids) - 1 : -1]
        return sum(float(row[token]) for row, token in zip(rows, ids, strict=True))

    for question, answer in zip(asked[:2], result.answers, strict=False):
        text = f"{question.text}\nAnswer with one of these: {', '.join(choices)}."
        logs = torch.tensor([log(text, each) for each in choices])
        place = choices.index(question.answer)
        assert answer.answer == choices[int(logs.argmax())]
        assert answer.p_yes == pytest.approx(float(logs.softmax(0)[place]), abs=1e-4)
        assert answer.p_expected == pytest.approx(float(logs[place].exp()), rel=1e-2)
    assert result.answers[2].p_yes == pytest.approx(math.exp(log("two of word", "red star")), rel=1e-2)
    both = sum(math.exp(log("is it word", each)) for each in ("no", "No"))
    assert result.answers[3].p_expected == pytest.approx(both, rel=1e-2)


def test_an_image_is_encoded_once_for_all_its_questions(folder: Path, four_items: Sequence[Item]) -> None:
    scorer = Vlm(path=str(folder), device="cpu")
    scorer.score(four_items)
    seen: list[bool] = []
    forward = scorer._reader._model.forward
    scorer._reader._model.forward = lambda **inputs: seen.append("pixel_values" in inputs) or forward(**inputs)
    scorer.score([*four_items, Item("nothing to ask", (), four_items[0].image)])
    assert seen.count(True) == len(four_items)
    assert seen.count(False) == sum(len(item.questions) > 1 for item in four_items)


def test_parts_of_the_questions_leave_the_answers_alone(
    folder: Path, four_items: Sequence[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Vlm(path=str(folder), device="cpu")
    images = [item.image for item in four_items]
    questions = [[question.text for question in item.questions] for item in four_items]
    whole = scorer.p_yes(images, questions)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 2)
    for a, b in zip(whole, scorer.p_yes(images, questions), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_vqascore_is_that_of_a_plain_forward(folder: Path, four_items: Sequence[Item]) -> None:
    plain = Plain(folder)
    yes, end = plain.processor.tokenizer.convert_tokens_to_ids(["Yes", "<end>"])
    expected = []
    for item in four_items:
        before, after = plain.logits(item.image, SHOWS.format(item.prompt), "Yes").log_softmax(-1)[-2:]
        expected.append(100 * float(((before[yes] + after[end]) / 2).exp()))
    results = VqaScore(path=str(folder), device="cpu").score(four_items)
    assert [result.value for result in results] == pytest.approx(expected, abs=1e-3)


def test_a_decoder_that_looks_ahead_is_read_without_what_was_kept(
    vlms: Path, four_items: Sequence[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_are_alike", lambda *_: False)
    scorer, plain = Vlm(path=str(vlms / "qwen2_5_vl"), device="cpu"), Plain(vlms / "qwen2_5_vl")
    (result,) = scorer.score(four_items[1:2])
    assert isinstance(result, Measurement)
    expected = [plain.p_yes(four_items[1].image, question.text) for question in four_items[1].questions]
    assert [answer.p_yes for answer in result.answers] == pytest.approx(expected, abs=1e-4)
    assert scorer._reader._keeps_images is False


def test_a_model_that_can_think_is_told_not_to(vlms: Path, tmp_path: Path) -> None:
    copy = tmp_path / "thinker"
    shutil.copytree(vlms / "internvl", copy)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking is not false %}<think>{% endif %}")
    assert write_prompt(load_processor(str(copy), None), ["a star"]).endswith("assistant :")


def test_a_template_that_puts_the_image_last_is_read_text_by_text(
    vlms: Path, four_items: Sequence[Item], tmp_path: Path
) -> None:
    copy = tmp_path / "last"
    shutil.copytree(vlms / "internvl", copy)
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text().replace("m['content'] %}{% if", "m['content'] | reverse %}{% if"))
    scorer, plain = Vlm(path=str(copy), device="cpu"), Plain(copy)
    expected = [plain.p_yes(four_items[3].image, question.text) for question in four_items[3].questions]
    assert scorer.p_yes([four_items[3].image], [[q.text for q in four_items[3].questions]])[0] == pytest.approx(
        expected, abs=1e-4
    )


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_answers_nearly_the_same(dtype: str, folder: Path, four_items: Sequence[Item]) -> None:
    questions = [[question.text for question in item.questions] for item in four_items]
    images = [item.image for item in four_items]
    full = Vlm(path=str(folder), device="cpu").p_yes(images, questions)
    half = Vlm(path=str(folder), dtype=dtype, device="cpu").p_yes(images, questions)
    for a, b in zip(full, half, strict=True):
        assert a == pytest.approx(b, abs=0.15)


def test_a_model_that_says_no_number_leaves_the_item_unscored(vlms: Path, four_items: Sequence[Item]) -> None:
    nothing = Unscored("the model's answer is not a number")
    for kind in (Vlm, VqaScore):
        scorer = kind(path=str(vlms / "idefics3"), device="cpu")
        torch.nn.init.constant_(scorer._reader._model.lm_head.weight, float("nan"))
        assert scorer.score(four_items[:1]) == [nothing]


def test_a_model_without_a_chat_template_is_refused(vlms: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bare"
    shutil.copytree(vlms / "internvl", copy)
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        Vlm(path=str(copy), device="cpu")


def test_a_package_that_a_processor_lacks_is_one_line(vlms: Path, tmp_path: Path) -> None:
    """SmolVLM's, whose model is Idefics3's."""
    if is_num2words_available():
        pytest.skip("num2words is installed")
    copy = shutil.copytree(vlms / "idefics3", tmp_path / "smol")
    for file in copy.glob("*config.json"):
        file.write_text(file.read_text().replace("idefics3", "smolvlm").replace("Idefics3", "SmolVLM"))
    with pytest.raises(ModelError, match=r"smol needs the package num2words: pip install num2words$"):
        Vlm(path=str(copy), device="cpu")

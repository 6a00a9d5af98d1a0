"""The fast path says what the model's own `generate` says."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, Blip2ForConditionalGeneration, BlipForQuestionAnswering

from agfsync.errors import ModelError
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers import vqa as module
from agfsync.scorers.vqa import Vqa

KINDS = {"t5": Blip2ForConditionalGeneration, "opt": Blip2ForConditionalGeneration, "blip": BlipForQuestionAnswering}
TEMPLATES = {"t5": "Question: {} Short answer:", "opt": "Question: {} Short answer:", "blip": "{}"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _generated(folder: Path, kind: str, items: list[Item]) -> list[tuple[str, float]]:
    """Answer and P(yes) of every question by one plain `generate` each, all words but yes and no forbidden."""
    model: Any = KINDS[kind].from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    yes, no = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    others = [token for token in range(32) if token not in (yes, no)]
    said = []
    for item in items:
        for question in item.questions:
            text = TEMPLATES[kind].format(question.text)
            inputs = processor(images=item.image, text=text, return_tensors="pt")
            output = model.generate(
                **inputs,
                max_new_tokens=1,
                min_new_tokens=1,
                do_sample=False,
                suppress_tokens=others,
                output_logits=True,
                return_dict_in_generate=True,
            )
            logits = output.logits[0][0]
            word = processor.tokenizer.decode(output.sequences[0, -1])
            said.append((word.strip(), float(logits[[yes, no]].softmax(0)[0])))
    return said


def test_every_answer_agrees_with_generate(kind: str, folders: Path, items: list[Item]) -> None:
    results = Vqa(path=str(folders / kind), device="cpu").score(items)
    answers = [answer for result in results if isinstance(result, Measurement) for answer in result.answers]
    plain = _generated(folders / kind, kind, items)
    assert [answer.answer for answer in answers] == [word for word, _ in plain]
    assert [answer.p_yes for answer in answers] == pytest.approx([p for _, p in plain], abs=1e-5)
    assert {"yes", "no"} == {answer.answer for answer in answers}


def test_the_value_is_the_share_of_answers_as_expected(folders: Path, items: list[Item]) -> None:
    for item, result in zip(items, Vqa(path=str(folders / "t5"), device="cpu").score(items), strict=True):
        assert isinstance(result, Measurement)
        assert [answer.question_key for answer in result.answers] == [question.key for question in item.questions]
        right = [a.answer == q.answer for a, q in zip(result.answers, item.questions, strict=True)]
        assert result.value == 100 * sum(right) / len(right)
        assert all((answer.answer == "yes") == (answer.p_yes > 0.5) for answer in result.answers)


def test_chunks_and_padding_leave_the_answers_alone(
    kind: str, folders: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Vqa(path=str(folders / kind), device="cpu")
    images = [item.image for item in items]
    questions = [[question.text for question in item.questions] for item in items]
    whole = scorer.p_yes(images, questions)
    monkeypatch.setattr(module, "QUESTIONS_AT_ONCE", 1)
    single = scorer.p_yes(images, questions)
    for a, b in zip(whole, single, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_an_image_is_encoded_once_for_all_its_questions(folders: Path, items: list[Item]) -> None:
    scorer = Vqa(path=str(folders / "t5"), device="cpu")
    seen: list[int] = []
    encode = scorer._reader.encode
    scorer._reader.encode = lambda pixels: seen.append(len(pixels)) or encode(pixels)
    scorer.score([*items, Item("nothing to ask", (), items[0].image)])
    assert sum(seen) == len(items)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_answers_nearly_the_same(dtype: str, folders: Path, items: list[Item]) -> None:
    questions = [[question.text for question in item.questions] for item in items]
    images = [item.image for item in items]
    full = Vqa(path=str(folders / "t5"), device="cpu").p_yes(images, questions)
    half = Vqa(path=str(folders / "t5"), dtype=dtype, device="cpu").p_yes(images, questions)
    for a, b in zip(full, half, strict=True):
        assert a == pytest.approx(b, abs=0.1)


def test_a_model_that_says_no_number_leaves_the_item_unscored(folders: Path, items: list[Item]) -> None:
    scorer = Vqa(path=str(folders / "t5"), device="cpu")
    scorer._reader.logits = lambda rows, ids, mask, begun: torch.full((len(ids), 1, 32), math.nan)
    assert scorer.score(items[:1]) == [Unscored("the model's answer is not a number")]


def test_the_template_is_the_models_own(folders: Path, items: list[Item], tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(folders / "t5", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"question_template": "{question}"}))
    questions = [[question.text for question in item.questions] for item in items]
    bare = Vqa(path=str(folder), device="cpu")
    templated = Vqa(path=str(folders / "t5"), device="cpu")
    by_hand = [[f"Question: {text} Short answer:" for text in texts] for texts in questions]
    images = [item.image for item in items]
    for a, b in zip(bare.p_yes(images, by_hand), templated.p_yes(images, questions), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize("template", ["Question: {} Choices:['yes','no'] Answer:", '{"ask": {question}}'])
def test_a_template_of_ones_own_takes_its_place(folders: Path, items: list[Item], kind: str, template: str) -> None:
    """The first is the authors' own."""
    texts = [[question.text for question in item.questions] for item in items]
    put = [[template.replace("{question}", text).replace("{}", text) for text in some] for some in texts]
    images = [item.image for item in items]
    by_hand = Vqa(path=str(folders / kind), template="{}", device="cpu").p_yes(images, put)
    own = Vqa(path=str(folders / kind), template=template, device="cpu").p_yes(images, texts)
    for a, b in zip(by_hand, own, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    assert own != Vqa(path=str(folders / kind), device="cpu").p_yes(images, texts)


def test_another_kind_of_model_is_refused(folders: Path) -> None:
    with pytest.raises(ModelError, match="is a clip model: a vqa scorer takes blip-2"):
        Vqa(path=str(folders / "clip"))

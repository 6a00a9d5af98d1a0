"""An answer's probability is that of its tokens, by plain forwards of the whole model and by hand."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoProcessor, Blip2ForConditionalGeneration, BlipForQuestionAnswering

from agfsync.records import Answer, Question
from agfsync.scorers import Item, Measurement, Unscored
from agfsync.scorers.answering import AnswerTokens, Speller, answer_questions, name_number, put_question
from agfsync.scorers.vqa import TIFA_CHOICES, Vqa

KINDS = {"t5": Blip2ForConditionalGeneration, "opt": Blip2ForConditionalGeneration, "blip": BlipForQuestionAnswering}
CHOICES = ("red star", "red circle", "two", "blue square of the left")
WORDS = ("<unk>", "red", "Red", " red", "star", "two", "2", "yes", "no", "3")


class Words:
    """A tokenizer of words, with and without a space before them."""

    unk_token_id = 0

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if text in WORDS:
            return [WORDS.index(text)]
        return [WORDS.index(word) if word in WORDS else 0 for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(WORDS[token] for token in tokens)


def asked(answer: str, *choices: str) -> Question:
    return Question(f"{answer}?", "c", "What?", answer, "", "other", (), choices)


def logits(**shares: float) -> Tensor:
    """Logits with these probabilities; a word after a space is written with a bar before it."""
    row = torch.full((len(WORDS),), -math.inf)
    for word, share in shares.items():
        row[WORDS.index(word.replace("_", " "))] = math.log(share)
    return row


def answer(question: Question, first_V: Tensor, *replies: Tensor, p_yes: float = 0.5) -> Answer | Unscored:
    def read(begun: Sequence[tuple[int, AnswerTokens]]) -> Iterator[Tensor]:
        return (torch.stack([first_V, *replies]) for _ in begun)

    (found,) = answer_questions([question], [p_yes], first_V[None], Speller(Words()), read)
    return found


def test_the_spellings_of_an_answer_are_summed() -> None:
    first_V = logits(red=0.3, Red=0.2, _red=0.1, star=0.4)
    # The likeliest token isn't red, though red is likelier in all its spellings.
    assert answer(asked("red"), first_V) == Answer("red?", "star", pytest.approx(0.6), pytest.approx(0.6))
    assert answer(asked("red", "red", "star"), first_V) == Answer("red?", "red", pytest.approx(0.6), pytest.approx(0.6))
    assert answer(asked("star", "red", "star"), first_V).answer == "red"  # type: ignore[union-attr]


def test_a_number_is_a_word_or_digits() -> None:
    found = answer(asked("two"), logits(two=0.5, **{"2": 0.25}, red=0.25))
    assert found == Answer("two?", "two", pytest.approx(0.75), pytest.approx(0.75))
    assert name_number("Ten") == ("Ten", "10") and name_number("11") == ("11",)


def test_several_tokens_are_multiplied_and_normalised_over_the_choices() -> None:
    first_V, second_V = logits(red=0.5, two=0.5), logits(star=0.25, two=0.75)
    found = answer(asked("red star", "red star", "two"), first_V, second_V)
    assert found == Answer("red star?", "two", pytest.approx(0.125 / 0.625), pytest.approx(0.125))
    # Alone it is right only if the greedy reply begins with all of it.
    assert answer(asked("red star"), logits(red=0.6, two=0.4), second_V).answer == "red"  # type: ignore[union-attr]
    assert answer(asked("red star"), logits(red=0.6, two=0.4), logits(star=0.9, two=0.1)).answer == "red star"  # type: ignore[union-attr]


def test_yes_and_no_are_told_by_p_yes_and_the_expected_one_is_weighed_among_all_words() -> None:
    first_V = logits(yes=0.2, no=0.3, red=0.5)
    assert answer(asked("no"), first_V, p_yes=0.4) == Answer("no?", "no", 0.4, pytest.approx(0.3))
    assert answer(asked("yes", "yes", "no"), first_V, p_yes=0.4) == Answer("yes?", "no", 0.4, pytest.approx(0.2))


def test_a_word_that_the_vocabulary_lacks_has_no_probability() -> None:
    first_V = logits(red=0.5, two=0.5)
    assert answer(asked("two", "two", "heron"), first_V) == Answer("two?", "two", 1.0, pytest.approx(0.5))
    assert answer(asked("heron"), first_V) == Unscored("the model's vocabulary has no answer to: What?")


def test_the_choices_stand_in_the_template() -> None:
    put = put_question(asked("a", "a", "b"), "Q {} of {choices}", "{}")
    assert (put, put_question(asked("a"), "Q {} of {choices}", "Q {question}")) == ("Q What? of a, b", "Q What?")


def _force(folder: Path, kind: str, item: Item, text: str, tokens: Sequence[int]) -> float:
    """Log-probability of a reply that `generate` is forced to give."""
    model: Any = KINDS[kind].from_pretrained(folder).eval()
    inputs = AutoProcessor.from_pretrained(folder, backend="pil")(images=item.image, text=text, return_tensors="pt")
    left = iter(tokens)
    output = model.generate(
        **inputs,
        max_new_tokens=len(tokens),
        min_new_tokens=len(tokens),
        do_sample=False,
        prefix_allowed_tokens_fn=lambda *_: [next(left)],
        output_logits=True,
        return_dict_in_generate=True,
    )
    return sum(float(row.double().log_softmax(-1)[0, token]) for row, token in zip(output.logits, tokens, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_choices_are_as_likely_as_generate_finds_them(kind: str, folders: Path, items: list[Item]) -> None:
    questions = tuple(
        Question(f"{n}", "c", text, answer, "", "object", (), CHOICES)
        for n, (text, answer) in enumerate((("is there a star of the left?", "two"), ("the square is?", "red circle")))
    )
    scorer = Vqa(path=str(folders / kind), device="cpu", choices_template="{} {choices}")
    (result,) = scorer.score([Item("a star", questions, items[0].image)])
    assert isinstance(result, Measurement)
    tokenizer = scorer._tokenizer
    for question, said in zip(questions, result.answers, strict=True):
        text = f"{question.text} {', '.join(CHOICES)}"
        spelt = [tokenizer.encode(choice, add_special_tokens=False) for choice in CHOICES]
        logs = torch.tensor([_force(folders / kind, kind, items[0], text, tokens) for tokens in spelt])
        expected = CHOICES.index(question.answer)
        assert said.answer == CHOICES[int(logs.argmax())]
        assert said.p_yes == pytest.approx(float(logs.softmax(0)[expected]), abs=1e-5)
        assert said.p_expected == pytest.approx(float(logs[expected].exp()), rel=1e-3)


def test_tifas_template_is_blip2s(folders: Path) -> None:
    assert Vqa(path=str(folders / "t5"), device="cpu")._put(asked("a", "a", "b")) == TIFA_CHOICES.format(
        "What?", choices="a, b"
    )
    assert Vqa(path=str(folders / "blip"), device="cpu")._put(asked("a", "a", "b")) == "What?"
    assert Vqa(path=str(folders / "t5"), device="cpu")._put(asked("no", "yes", "no")) == "Question: What? Short answer:"

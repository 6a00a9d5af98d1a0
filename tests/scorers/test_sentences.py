"""TIFA's way: the model replies freely, and the nearest choice stands for a reply that is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoProcessor,
    BertConfig,
    BertModel,
    Blip2ForConditionalGeneration,
    BlipForQuestionAnswering,
    PreTrainedTokenizerFast,
)

from agfsync.errors import ModelError
from agfsync.records import Question
from agfsync.scorers import Item, Measurement
from agfsync.scorers import vqa as module
from agfsync.scorers.sentences import SentenceModel
from agfsync.scorers.vqa import Vqa

CHOICES = ("red star", "blue circle", "two", "the left square")
WORDS = ("<pad>", "<unk>", "red", "blue", "green", "star", "circle", "square", "two", "the", "left", "there")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sentences")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=len(WORDS), **sizes))
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(weight.numel()))
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return str(folder)


@torch.inference_mode()
def embed(folder: str, text: str) -> torch.Tensor:
    """The mean of the tokens of one text alone, without any padding."""
    ids = [WORDS.index(word) if word in WORDS else 1 for word in text.split()]
    states: torch.Tensor = BertModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state
    return states[0].mean(0)


def test_the_nearest_choice_is_that_of_the_largest_cosine(sentences: str) -> None:
    model = SentenceModel(sentences, device="cpu")
    for said in ("green circle", "there", "red square the left", "blue"):
        cosines = [torch.cosine_similarity(embed(sentences, said), embed(sentences, each), dim=0) for each in CHOICES]
        assert model.choose(said, CHOICES) == CHOICES[int(torch.stack(cosines).argmax())]
    assert {model.choose(each, CHOICES) for each in CHOICES} == set(CHOICES)
    assert model.choose("red star", ("red star ", "red star")) == "red star"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["blip", "t5", "opt"])
def test_the_free_reply_is_that_of_generate(kind: str, folders: Path, sentences: str, items: list[Item]) -> None:
    texts = ("is there a star of the left ?", "the square is ?", "two ?")
    asked = tuple(Question(text, "c", text, "two", "", "object", (), CHOICES) for text in texts)
    yes_no = Question("q", "c", "is it ?", "yes", "", "object")
    scorer = Vqa(path=str(folders / kind), device="cpu", choices_template="{}{choices}", nearest=sentences)
    scorer._choices_template = "{}"  # a tiny vocabulary has no room for the choices
    images = [item.image for item in items[::2]]
    results = scorer.score([Item("a star", (*asked, yes_no), image) for image in images])
    replies = [[_generate(folders / kind, kind, image, text) for text in texts] for image in images]
    assert len({reply for of in replies for reply in of}) > 1, "nothing is compared if all replies are the same"
    sentence_model = SentenceModel(sentences, device="cpu")
    for result, of in zip(results, replies, strict=True):
        assert isinstance(result, Measurement)
        assert [answer.answer for answer in result.answers[:3]] == [sentence_model.choose(each, CHOICES) for each in of]
        assert (result.answers[3].answer == "yes") == (result.answers[3].p_yes > 0.5)


def _generate(folder: Path, kind: str, image: Image.Image, text: str) -> str:
    model: Any = (BlipForQuestionAnswering if kind == "blip" else Blip2ForConditionalGeneration).from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=image, text=text, return_tensors="pt")
    beams = 1 if kind == "blip" else module.BEAMS
    said = model.eval().generate(**inputs, max_new_tokens=module._LONGEST_REPLY, do_sample=False, num_beams=beams)
    reply: str = processor.batch_decode(said, skip_special_tokens=True)[0]
    return reply.strip().removeprefix(text).strip()


def test_a_sentence_model_that_is_not_there_is_one_line(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model at .*none: there is no such folder") as caught:
        Vqa(path=str(folders / "blip"), device="cpu", nearest=str(tmp_path / "none"))
    assert "\n" not in str(caught.value)

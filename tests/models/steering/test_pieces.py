import pytest

from agfsync import catalog
from agfsync.errors import ModelError
from agfsync.models.pretrained import load_tokenizer
from agfsync.models.steering.pieces import PromptPieces, split_prompt


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return load_tokenizer(f"{catalog.model_path('embedded:generator')}/tokenizer", None)


def texts(prompt: str, pieces: PromptPieces, found: tuple[int, ...]) -> list[str]:
    return [prompt[slice(*pieces.spans[piece])] for piece in found]


def test_words_are_found_by_their_characters(tokenizer: object) -> None:
    prompt = 'A tiny red star, above "two" striped hearts.'
    pieces = split_prompt(tokenizer, prompt)
    words = [(0, 1), (2, 6), (7, 10), (11, 15), (17, 22), (24, 27), (29, 36), (37, 43)]
    found = pieces.match_words(words)
    assert ["".join(texts(prompt, pieces, each)) for each in found] == [prompt[a:b] for a, b in words]
    # 0 is the first special token; quotes and commas have pieces of their own
    assert found[0] == (1,) and found[4] == (6,) and found[5] == (8,)


def test_a_repeated_word_has_its_own_pieces_each_time(tokenizer: object) -> None:
    prompt = "a red star and a red cross"
    found = split_prompt(tokenizer, prompt).match_words([(2, 5), (17, 20)])
    assert found == [(2,), (6,)]


def test_a_piece_across_words_belongs_to_the_one_that_has_more_of_it() -> None:
    """spaCy splits "can't" into "ca" and "n't", the tokenizer into "can" and "'t"."""
    pieces = PromptPieces([0, 1, 2, 3], {1: (0, 3), 2: (3, 5)}, (1, 2))
    assert pieces.match_words([(0, 2), (2, 5)]) == [(1,), (2,)]


def test_truncated_words_and_phrases_have_no_pieces(tokenizer: object) -> None:
    prompt = " ".join(["star"] * 37) + " a red cross"
    assert tokenizer.model_max_length == 40  # type: ignore[attr-defined]
    pieces = split_prompt(tokenizer, prompt)
    start = prompt.index("a red")
    words = [(start, start + 1), (start + 2, start + 5), (start + 6, start + 11)]
    assert len(pieces.spans) == 40 and len(pieces.kept) == 38
    assert pieces.match_words(words) == [(38,), (), ()]
    assert pieces.match_phrase((start, len(prompt))) == () and pieces.match_phrase((0, 9)) == (1, 2)


def test_a_word_that_is_cut_within_is_left_out() -> None:
    pieces = PromptPieces([0, 1, 2, 3], {1: (0, 3), 2: (3, 5), 3: (5, 7)}, (1, 2))
    assert pieces.match_words([(0, 3), (3, 7)]) == [(1,), ()]


def test_a_phrase_that_begins_within_a_piece_is_left_out() -> None:
    pieces = PromptPieces([0, 1, 2], {1: (0, 6), 2: (7, 9)}, (1, 2))
    assert pieces.match_phrase((2, 9)) == () and pieces.match_phrase((0, 9)) == (1, 2)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(ModelError, match="no character offsets"):
        split_prompt(object(), "a red star")

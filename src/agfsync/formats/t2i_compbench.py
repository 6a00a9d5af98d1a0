"""T2I-CompBench (arXiv:2307.06350): a text file of prompts for each of its categories.

Prompts on colours, shapes and textures are evaluated by BLIP-VQA: each noun phrase is a question, such as "a green
bench?". The phrases are spaCy's noun chunks and need the extra `syntax`; without it the prompts have no questions.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agfsync.errors import RecipeError
from agfsync.formats import LeftOut, Prompt, SourceQuestion
from agfsync.formats.reading import format_errors, open_text
from agfsync.formats.rows import collect_questions
from agfsync.language.spacy_syntax import SpacyParser
from agfsync.records import ElementType, one_line

CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
_ASKED: Mapping[str, ElementType] = {"color": "color", "shape": "shape", "texture": "material"}
"""Categories with questions -> the element type of the questions."""
_NO_THINGS = ("top", "the side", "the left", "the right")
"""Noun phrases of places, which the benchmark's code leaves out."""
_MOST = 8
"""Largest number of a prompt's phrases that the benchmark's code asks about."""
_UNPARSED = "noun phrases need the extra syntax: pip install 'agfsync[syntax]'"


class T2ICompBench:
    """A file such as `color_val.txt`, or a folder with such files."""

    title = "T2I-CompBench"

    def recognises(self, path: Path) -> bool:
        """Return True for a text file named CATEGORY_val.txt or CATEGORY_train.txt, or a folder with the former."""
        return bool(_find_files(path))

    def prompts(self, path: Path, split: str = "") -> Iterator[Prompt | LeftOut]:
        """Yield the prompts of each category; in a folder only the validation files are read."""
        for category, file in _find_files(path).items():
            with format_errors(file), open_text(file) as lines:
                for text in filter(None, map(one_line, lines)):
                    yield Prompt(text, category, *_ask_phrases(text, category))


def _find_files(path: Path) -> dict[str, Path]:
    """Return the files at `path` by category."""
    if path.is_dir():
        named = {category: path / f"{category}_val.txt" for category in CATEGORIES}
    else:
        named = {each: path for each in CATEGORIES if path.name in (f"{each}_val.txt", f"{each}_train.txt")}
    return {category: file for category, file in named.items() if file.is_file()}


def _ask_phrases(prompt: str, category: str) -> tuple[tuple[SourceQuestion, ...], Mapping[str, int]]:
    if category not in _ASKED:
        return (), {}
    parser = _load_parser()
    return ((), {_UNPARSED: 1}) if parser is None else ask_phrases(parser.list_chunks(prompt), _ASKED[category])


def ask_phrases(
    chunks: Iterable[str], element_type: ElementType
) -> tuple[tuple[SourceQuestion, ...], Mapping[str, int]]:
    """Return the benchmark's questions on a prompt's noun chunks, in the form of `collect_questions`."""
    things = [chunk for chunk in chunks if chunk not in _NO_THINGS][:_MOST]
    return collect_questions(SourceQuestion(f"{each}?", "yes", each, element_type) for each in things)


@cache
def _load_parser() -> Any:
    """Return the parser for noun phrases; None if the extra isn't installed."""
    try:
        return SpacyParser()
    except RecipeError:
        return None

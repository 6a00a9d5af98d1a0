"""The records that stages exchange, each with the Arrow schema of its table.

A record's key is a digest of its inputs: the same work has the same key on every machine, so that finished work is
recognised even if other settings have changed.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from inspect import get_annotations
from pathlib import Path
from sys import intern
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

import pyarrow as pa

Split = str
"""train, held-out, or the name of an evaluation set that has its own source"""
AnswerWord = Literal["yes", "no"]
"""An answer to a yes/no question."""
YES_NO: tuple[AnswerWord, ...] = ("yes", "no")
ElementType = Literal[
    "object",
    "human",
    "animal",
    "food",
    "activity",
    "attribute",
    "counting",
    "color",
    "material",
    "spatial",
    "location",
    "shape",
    "other",
]
"""The paper's thirteen element types."""


NO_CHARACTER = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def digest(*parts: Any) -> str:
    """Return a digest of `parts` (any JSON values): 16 hex digits, the same on every machine."""
    return hashlib.blake2b(_PLAIN.encode(parts).encode(), digest_size=8).hexdigest()


def digest_lists(name: str, *lists: Iterable[str]) -> str:
    """Return `digest(name, [*list], ...)` without holding the lists in memory."""
    hashed = hashlib.blake2b(b"[" + _PLAIN.encode(name).encode(), digest_size=8)
    for texts in lists:
        hashed.update(b",[")
        for place, text in enumerate(texts):
            hashed.update((b"," if place else b"") + _PLAIN.encode(text).encode())
        hashed.update(b"]")
    hashed.update(b"]")
    return hashed.hexdigest()


_PLAIN = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
"""Created once, since a run computes a key for each image and each score."""


def one_line(text: str) -> str:
    """Return `text` on one line: each run of white space, control characters and surrogates becomes one space.

    Unpaired surrogates come from JSON escapes, and can't be encoded as UTF-8.
    """
    return NO_CHARACTER.sub(" ", text).strip()


def digest_file(path: Path) -> str:
    """Return the digest of the content of the file at `path`: 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def derive_seed(*parts: Any) -> int:
    """Return a seed in 0..2^63-1 derived from `parts`, independent of batches, workers and order."""
    return int(digest("seed", *parts), 16) >> 1


def asks_yes_no(answer: str, choices: Iterable[str]) -> bool:
    """Return True if a question with this expected answer and these choices is a yes/no question."""
    return answer in YES_NO and set(choices) <= {*YES_NO}


def make_question_key(caption_key: str, text: str, answer: str, choices: Sequence[str] = ()) -> str:
    """Return a question's key, which depends on the expected answer, and on `choices` unless they are yes and no."""
    return digest("question", caption_key, text, answer, *([] if set(choices) <= {*YES_NO} else [list(choices)]))


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""The type of an image column in Hugging Face datasets."""
ImageFile = Annotated[bytes, IMAGE]
SmallInt = Annotated[int, pa.int32()]
_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@dataclass(frozen=True, slots=True)
class Record:
    """The base of the records, each a row of a Parquet table. The schema is derived from the annotations."""

    schema: ClassVar[pa.Schema]

    def __init_subclass__(cls) -> None:
        cls.schema = pa.schema(get_columns(cls))

    def row(self) -> dict[str, Any]:
        """Return this record as a row of its schema."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the record of `row`. Unknown columns are ignored, and lists become tuples."""
        values: dict[str, Any] = {name: row[name] for name in cls.schema.names}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def get_columns(kind: type) -> dict[str, pa.DataType]:
    """Return the Arrow type of each annotated field of a class, by name."""
    return {name: find_arrow_type(each) for name, each in get_annotations(kind).items()}


def find_arrow_type(annotation: Any) -> pa.DataType:
    """Return the Arrow type for an annotation: a list for a tuple, a struct for a dataclass.

    >>> find_arrow_type(tuple[float, ...]), find_arrow_type(str | None)
    (ListType(list<item: double>), DataType(string))
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return arguments[1]
    if origin is tuple:
        return pa.list_(find_arrow_type(arguments[0]))
    if origin in (UnionType, Literal):
        return pa.string() if origin is Literal else find_arrow_type(arguments[0])
    return _ARROW_TYPES[annotation] if annotation in _ARROW_TYPES else pa.struct(get_columns(annotation))


@dataclass(frozen=True, slots=True)
class Caption(Record):
    """A prompt to draw. `split` separates the evaluation's captions from those that pairs are made of.

    A polished caption has its `original` text, and in `changed` a short description of the difference; both are empty
    for other captions.
    """

    key: str
    text: str
    category: str
    split: Split
    original: str = ""
    changed: str = ""


@dataclass(frozen=True, slots=True)
class Question(Record):
    """An atomic question that the caption answers. `answer`, a short word, is the answer for a faithful image.

    `parents` are the texts of the questions that must have their expected answers for this one to make sense. `choices`
    are the answers that a judge chooses from; if they are empty, yes and no if `answer` is one of them, else any
    answer. `label` is a benchmark's own name for questions of this kind, such as "animal/human".
    """

    key: str
    caption_key: str
    text: str
    answer: str
    element: str
    element_type: ElementType
    parents: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    label: str = ""

    @property
    def is_yes_no(self) -> bool:
        """True if a judge answers with yes or no."""
        return asks_yes_no(self.answer, self.choices)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the question of `row`. Rows of older runs have no choices and no label."""
        lists: dict[str, Any] = {name: tuple(row.get(name) or ()) for name in ("parents", "choices")}
        # A run has many questions and few distinct words: interning keeps each word once.
        words: dict[str, Any] = {name: intern(row.get(name) or "") for name in cls.schema.names if name not in lists}
        return cls(**words, **lists)


@dataclass(frozen=True, slots=True)
class Candidate(Record):
    """One image of a caption (Eq. 1). `image` is an encoded PNG, WebP or JPEG file; `seed` is the seed of its noise.

    An image of a pair set has no seed, and its `generator` is the name of its source.
    """

    key: str
    caption_key: str
    index: SmallInt
    seed: int | None
    generator: str
    image: ImageFile

    def row(self) -> dict[str, Any]:
        """Return this candidate as a row of its schema."""
        return asdict(self) | {"image": {"bytes": self.image, "path": None}}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the candidate of `row`."""
        return cls(**{name: row[name] for name in cls.schema.names} | {"image": row["image"]["bytes"]})


@dataclass(frozen=True, slots=True)
class Answer:
    """A VQA model's answer to one question: the hard answer, and probabilities in 0..1.

    `p_yes` is P(yes), normalised over yes and no; for other questions it is P(expected answer), normalised over the
    choices if there are any. `p_expected` is P(expected answer) over all possible answers of the model; None if the
    judge doesn't give it.
    """

    question_key: str
    answer: str
    p_yes: float
    p_expected: float | None = None

    def compute_p_right(self, question: Question) -> float:
        """Return the probability of the expected answer to `question`, derived from `p_yes`."""
        return 1 - self.p_yes if question.is_yes_no and question.answer == "no" else self.p_yes


@dataclass(frozen=True, slots=True)
class Score(Record):
    """One scorer's score of one candidate: a value in 0..100, or the reason for its absence. Never both, never NaN."""

    key: str
    candidate_key: str
    scorer: str
    value: float | None
    reason: str | None
    answers: tuple[Answer, ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the score of `row`."""
        plain = {name: row[name] for name in cls.schema.names}
        return cls(**plain | {"answers": tuple(Answer(**a) for a in row["answers"])})


@dataclass(frozen=True, slots=True)
class Annotation(Record):
    """An annotator's judgement of a caption's candidates in one aspect, shown in one order; or the reason for none.

    `shown` are the keys of the candidates in the order shown; a key may occur twice. `scores` (1..5), `ranks` (from 1,
    equal ranks are ties) and `reasons` are in the same order, and empty if there is no judgement. `replies` are the raw
    texts, including those that could not be parsed. `refused` is True if the model declined to judge.
    """

    key: str
    caption_key: str
    annotator: str
    aspect: str
    order: SmallInt
    shown: tuple[str, ...]
    scores: tuple[float, ...]
    ranks: tuple[SmallInt, ...]
    reasons: tuple[str, ...]
    replies: tuple[str, ...]
    reason: str | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Pair(Record):
    """A winner and a loser among a caption's candidates (Eq. 6, 7), with their total scores; `margin` is above 0.

    The scale of the totals depends on the recipe's choice; by default they are the weighted sums (Eq. 5). A pair set
    only states which of two images is preferred: its totals are the labels 1 and 0. `aspect` is the single judge or
    aspect that chose the pair; empty if the pair was chosen by all of them.
    """

    key: str
    caption_key: str
    winner_key: str
    loser_key: str
    winner_score: float
    loser_score: float
    margin: float
    aspect: str = ""


@dataclass(frozen=True, slots=True)
class Comparison(Record):
    """One judge's values in 0..100 for the base and the aligned model on one caption of an evaluation set, same seed.

    `element_type` is set if the values are those of the caption's questions of one type; empty for the whole image.
    """

    key: str
    set: str
    caption_key: str
    category: str
    judge: str
    element_type: str
    base: float
    aligned: float


@dataclass(frozen=True, slots=True)
class Vote(Record):
    """A pairwise judge's vote on the two images of one caption of an evaluation set, shown in one order.

    `first` is the model of the first image, base or aligned. `choice` is base, aligned or tie, or None with the
    `reason` for a missing vote. `explanation` is the judge's own reason, `reply` its full reply.
    """

    key: str
    set: str
    caption_key: str
    ask: str
    first: str
    choice: str | None
    explanation: str = ""
    reply: str = ""
    reason: str | None = None


def add_huggingface_metadata(schema: pa.Schema) -> pa.Schema:
    """Return `schema` with the metadata that lets Hugging Face datasets decode its image column."""
    if IMAGE not in schema.types:
        return schema
    features = {field.name: _describe_feature(field.type) for field in schema}
    return schema.with_metadata(
        {**(schema.metadata or {}), "huggingface": json.dumps({"info": {"features": features}})}
    )


def _describe_feature(kind: pa.DataType) -> dict[str, str]:
    return {"_type": "Image"} if kind == IMAGE else {"dtype": str(kind), "_type": "Value"}

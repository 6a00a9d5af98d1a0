"""The records that stages exchange, each with the Arrow schema of its table.

A record's key is a digest of its inputs, so that the same work has the same key on every machine, and finished work is
found again whatever else changed.
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
"""train, held-out, or the name of an evaluation set with a source of its own"""
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
    """Return 16 hex digits that name `parts` (anything JSON can hold), the same on every machine."""
    return hashlib.blake2b(_PLAIN.encode(parts).encode(), digest_size=8).hexdigest()


def digest_lists(name: str, *lists: Iterable[str]) -> str:
    """Return `digest(name, [*list], ...)` of lists that are longer than memory."""
    hashed = hashlib.blake2b(b"[" + _PLAIN.encode(name).encode(), digest_size=8)
    for texts in lists:
        hashed.update(b",[")
        for place, text in enumerate(texts):
            hashed.update((b"," if place else b"") + _PLAIN.encode(text).encode())
        hashed.update(b"]")
    hashed.update(b"]")
    return hashed.hexdigest()


_PLAIN = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))
"""Made once: a run has as many keys as images and scores."""


def one_line(text: str) -> str:
    """Return `text` on one line: white space, control characters and halves of characters become single spaces.

    Such halves come out of JSON's escapes and of no keyboard, and no file can hold them.
    """
    return NO_CHARACTER.sub(" ", text).strip()


def digest_file(path: Path) -> str:
    """Return 16 hex digits that name the content of the file at `path`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def derive_seed(*parts: Any) -> int:
    """Return a seed in 0..2^63-1 derived from `parts`, so that it depends on no batch, worker or order."""
    return int(digest("seed", *parts), 16) >> 1


def asks_yes_no(answer: str, choices: Iterable[str]) -> bool:
    """Return True if a question with this expected answer and these choices is answered by yes or no."""
    return answer in YES_NO and set(choices) <= {*YES_NO}


def make_question_key(caption_key: str, text: str, answer: str, choices: Sequence[str] = ()) -> str:
    """Return a question's key: another expected answer makes another question, and so do other choices than yes/no."""
    return digest("question", caption_key, text, answer, *([] if set(choices) <= {*YES_NO} else [list(choices)]))


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How Hugging Face datasets store an image column."""
ImageFile = Annotated[bytes, IMAGE]
SmallInt = Annotated[int, pa.int32()]
_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@dataclass(frozen=True, slots=True)
class Record:
    """The base of the records: a row of a Parquet table, whose schema follows from the annotations."""

    schema: ClassVar[pa.Schema]

    def __init_subclass__(cls) -> None:
        cls.schema = pa.schema(get_columns(cls))

    def row(self) -> dict[str, Any]:
        """Return this record as the row that its schema describes."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the record of `row`; unknown columns are left out, and lists become tuples."""
        values: dict[str, Any] = {name: row[name] for name in cls.schema.names}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def get_columns(kind: type) -> dict[str, pa.DataType]:
    """Return the name and the Arrow type of each annotated field of a class."""
    return {name: find_arrow_type(each) for name, each in get_annotations(kind).items()}


def find_arrow_type(annotation: Any) -> pa.DataType:
    """Return the Arrow type of a field: that of its annotation, a list for a tuple, or a struct for a dataclass.

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
    """A prompt to draw. `split` keeps the evaluation's captions apart from those that make pairs.

    A polished one has its `original`, and in `changed` a few words on the difference; both are empty otherwise.
    """

    key: str
    text: str
    category: str
    split: Split
    original: str = ""
    changed: str = ""


@dataclass(frozen=True, slots=True)
class Question(Record):
    """An atomic question whose answer the caption states. `answer` is the answer of a faithful image: a short word.

    `parents` are the texts of the caption's questions without whose expected answers this one makes no sense. `choices`
    are the answers that a judge chooses from; empty: yes and no if `answer` is one of them, else any answer. `label` is
    the name that a benchmark's file has for questions of this kind, such as "animal/human".
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
        """True if a judge is to say yes or no."""
        return asks_yes_no(self.answer, self.choices)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the question of `row`, which has no choices and no label in runs of before."""
        lists: dict[str, Any] = {name: tuple(row.get(name) or ()) for name in ("parents", "choices")}
        # A run has as many as candidates, of few different words: each word is kept once.
        words: dict[str, Any] = {name: intern(row.get(name) or "") for name in cls.schema.names if name not in lists}
        return cls(**words, **lists)


@dataclass(frozen=True, slots=True)
class Candidate(Record):
    """One image of a caption (Eq. 1). `image` is an encoded PNG, WebP or JPEG file; `seed` made its noise.

    An image of a pair set has no seed, and `generator` names its source.
    """

    key: str
    caption_key: str
    index: SmallInt
    seed: int | None
    generator: str
    image: ImageFile

    def row(self) -> dict[str, Any]:
        """Return this candidate as the row that its schema describes."""
        return asdict(self) | {"image": {"bytes": self.image, "path": None}}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the candidate of `row`."""
        return cls(**{name: row[name] for name in cls.schema.names} | {"image": row["image"]["bytes"]})


@dataclass(frozen=True, slots=True)
class Answer:
    """A VQA model's answer to one question: the hard answer, and its probability in 0..1.

    `p_yes` is P(yes) against no; of a question that isn't a yes/no question P(expected answer), among its choices if it
    has any. `p_expected` is P(expected answer) among all that the model could say; None if the judge doesn't know.
    """

    question_key: str
    answer: str
    p_yes: float
    p_expected: float | None = None

    def compute_p_right(self, question: Question) -> float:
        """Return the probability of the expected answer to `question` against its alternatives, by `p_yes`."""
        return 1 - self.p_yes if question.is_yes_no and question.answer == "no" else self.p_yes


@dataclass(frozen=True, slots=True)
class Score(Record):
    """One scorer's score of one candidate: a value on 0..100, or the reason why there is none; never both or NaN."""

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
    """An annotator's reply on a caption's candidates by one aspect, shown in one order; or the reason for none.

    Scores are in 1..5, ranks from 1, equal ranks are ties; they and the reasons follow `shown`, the candidates' keys in
    the order shown, of which one may be there twice. All three are empty where there is no judgement. `replies` are
    the raw texts, those that could not be read among them. `refused`: the model declined to judge.
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
    """A winner and a loser of a caption's candidates (Eq. 6, 7) with their total scores; `margin` is above 0.

    The total is on the scale of the recipe's choice: by default the weighted sum (Eq. 5). A pair set only says which of
    two images is preferred: its totals are the labels 1 and 0. `aspect` is the judge or aspect that alone chose the
    pair; empty if all together did.
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
    """Base and aligned model on one caption of an evaluation set by one judge, same seed; values on 0..100.

    `element_type` is set where the row speaks of the caption's questions of one type, empty where of the whole image.
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
    """A pairwise judge's vote on the two images of a caption of an evaluation set, shown in one order.

    `first` is the model whose image was shown first, base or aligned; `choice` is base, aligned or tie, or None with
    the `reason` why there is none. `explanation` is the judge's own reason, `reply` its whole reply.
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
    """Return `schema` with the metadata by which Hugging Face datasets read its image column as images."""
    if IMAGE not in schema.types:
        return schema
    features = {field.name: _describe_feature(field.type) for field in schema}
    return schema.with_metadata(
        {**(schema.metadata or {}), "huggingface": json.dumps({"info": {"features": features}})}
    )


def _describe_feature(kind: pa.DataType) -> dict[str, str]:
    return {"_type": "Image"} if kind == IMAGE else {"dtype": str(kind), "_type": "Value"}

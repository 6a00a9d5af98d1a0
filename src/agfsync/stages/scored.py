"""The candidates of each caption with their scores, in the order of drawing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agfsync.choices import CandidateScores
from agfsync.records import derive_seed
from agfsync.stages.annotating import read_contradictions
from agfsync.store import Run
from agfsync.store.streams import group_by_column, join_in_order


@dataclass(frozen=True, slots=True)
class ScoredCaption:
    """A caption's candidates in order of index, with their values and the keys of the scores that hold those."""

    caption_key: str
    values: Mapping[str, CandidateScores]
    score_keys: Sequence[str]
    ties: Mapping[str, Collection[frozenset[str]]] = field(default_factory=dict)
    """score -> the couples of candidates on which its annotator contradicts itself"""


def is_in_share(caption_key: str, share: float) -> bool:
    """Return True if a caption is in the `share` of the captions, in 0..1, that give pairs, by its key alone.

    >>> [is_in_share("a caption", share) for share in (0.01, 0.5, 1.0)]
    [False, False, True]
    """
    return derive_seed("share", caption_key) < share * 2**63


def read_scored_captions(
    run: Run, scorers: Collection[str], share: float = 1.0, *, ties: bool = False
) -> Iterator[ScoredCaption]:
    """Yield every caption in the share with its candidates, whichever generators drew them, and scores by `scorers`.

    With `ties` it has the couples on which annotators contradict themselves.
    """
    columns = ["key", "candidate_key", "scorer", "value"]
    words = group_by_column("candidate_key", run.rows("scores", columns))
    candidates = run.rows("candidates", ["key", "caption_key"])
    judged = ({**row, "words": said or ()} for row, said in join_in_order(candidates, lambda row: row["key"], words))
    captions = group_by_column("caption_key", judged)
    contradicted = read_contradictions(run) if ties else ()
    for (caption, rows), tied in join_in_order(captions, lambda each: each[0], contradicted):
        if not is_in_share(caption, share):
            continue
        words_of = {row["key"]: [word for word in row["words"] if word["scorer"] in scorers] for row in rows}
        yield ScoredCaption(
            caption,
            {key: {word["scorer"]: word["value"] for word in of} for key, of in words_of.items()},
            [word["key"] for of in words_of.values() for word in of],
            {name: couples for name, couples in (tied or {}).items() if couples and name in scorers},
        )

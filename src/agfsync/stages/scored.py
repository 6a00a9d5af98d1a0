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
    """A caption's candidates in order of index: their values, and the keys of the scores with these values."""

    caption_key: str
    values: Mapping[str, CandidateScores]
    score_keys: Sequence[str]
    ties: Mapping[str, Collection[frozenset[str]]] = field(default_factory=dict)
    """score -> the couples of candidates on which its annotator contradicts itself"""


def is_in_share(caption_key: str, share: float) -> bool:
    """Return True if a caption is in the `share` (0..1) of the captions that give pairs; its key alone decides.

    >>> [is_in_share("a caption", share) for share in (0.01, 0.5, 1.0)]
    [False, False, True]
    """
    return derive_seed("share", caption_key) < share * 2**63


def read_scored_captions(
    run: Run, scorers: Collection[str], share: float = 1.0, *, ties: bool = False
) -> Iterator[ScoredCaption]:
    """Yield every caption in the share with the candidates of all generators and their scores by `scorers`.

    With `ties`, it also has the couples of images on which annotators contradict themselves.
    """
    columns = ["key", "candidate_key", "scorer", "value"]
    scores = group_by_column("candidate_key", run.rows("scores", columns))
    candidates = run.rows("candidates", ["key", "caption_key"])
    joined = join_in_order(candidates, lambda row: row["key"], scores)
    captions = group_by_column("caption_key", ({**row, "scores": of or ()} for row, of in joined))
    contradictions = read_contradictions(run) if ties else ()
    for (caption, rows), tied in join_in_order(captions, lambda group: group[0], contradictions):
        if not is_in_share(caption, share):
            continue
        scores_of = {row["key"]: [score for score in row["scores"] if score["scorer"] in scorers] for row in rows}
        yield ScoredCaption(
            caption,
            {key: {score["scorer"]: score["value"] for score in of} for key, of in scores_of.items()},
            [score["key"] for of in scores_of.values() for score in of],
            {name: couples for name, couples in (tied or {}).items() if couples and name in scorers},
        )

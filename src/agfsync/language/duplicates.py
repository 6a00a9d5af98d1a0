"""When two captions are nearly the same: MinHash over their character n-grams."""

from functools import cache
from typing import TYPE_CHECKING

from agfsync.language.text import normalised

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

SHINGLE = 5
"""characters: a bent word or another preposition changes few of them"""
PERMUTATIONS = 128
"""an estimate's standard error is at most 0.045"""


class Neighbours:
    """Captions, and whether a new one is nearly one of them.

    Args:
        similarity: of the sets of n-grams (Jaccard, 0..1) from which on two captions are nearly the same. At 1 only
            equal ones are, which the caller sees by itself.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._sketches: dict[str, MinHash] = {}
        self._index: MinHashLSH | None = _index(similarity) if similarity < 1 else None

    def near(self, text: str) -> bool:
        """Whether `text` is nearly one of those added."""
        if self._index is None:
            return False
        sketch = _sketch(text)
        # The index finds what is likely near: the sketches decide.
        return any(self._sketches[key].jaccard(sketch) >= self._similarity for key in self._index.query(sketch))

    def add(self, text: str) -> None:
        """Let later ones differ from `text`."""
        plain = normalised(text)
        if self._index is not None and plain not in self._sketches:
            self._sketches[plain] = _sketch(text)
            self._index.insert(plain, self._sketches[plain])


def _index(similarity: float) -> "MinHashLSH":
    from datasketch import MinHashLSH

    return MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, params=_bands(similarity))


@cache
def _bands(similarity: float) -> tuple[int, int]:
    """Bands and their rows for an index at `similarity`: searching for the best takes longer than all the rest."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS)
    return index.b, index.r


def _sketch(text: str) -> "MinHash":
    from datasketch import MinHash

    plain = normalised(text)
    sketch = MinHash(num_perm=PERMUTATIONS)
    count = max(1, len(plain) - SHINGLE + 1)
    sketch.update_batch([plain[start : start + SHINGLE].encode(errors="surrogatepass") for start in range(count)])
    return sketch

"""Print the digests of a run's images, scores, pairs and trained weights, to compare two versions of the program.

    python benchmarks/digests.py RUN

They depend neither on the names of keys nor on the order of rows or parts: two runs with the same digests hold the
same images, scores, pairs and weights to the last bit.
"""

import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import safe_open


def rows(run: Path, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table, from all its parts."""
    return [row for part in sorted((run / table).rglob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def digest(things: Iterable[object]) -> str:
    """Return a digest of `things`, whatever their order."""
    return sha256(repr(sorted(map(repr, things))).encode()).hexdigest()[:16]


def main(run: Path) -> None:
    captions = {row["key"]: row["text"] for row in rows(run, "captions")}
    images = {}
    for table in ("candidates", "evaluation_images"):
        found = rows(run, table)
        images |= {row["key"]: sha256(row["image"]["bytes"]).hexdigest() for row in found}
        print(table, len(found), digest((captions[r["caption_key"]], r["seed"], images[r["key"]]) for r in found))
    for table in ("scores", "evaluation_scores"):
        found = rows(run, table)
        print(table, len(found), digest((images[r["candidate_key"]], r["scorer"], r["value"]) for r in found))
    found = rows(run, "pairs")
    print("pairs", len(found), digest((images[r["winner_key"]], images[r["loser_key"]], r["margin"]) for r in found))
    weights = []
    for file in sorted((run / "model").rglob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            weights += [(name, sha256(tensors.get_tensor(name).tobytes()).hexdigest()) for name in tensors.keys()]  # noqa: SIM118
    print("weights", len(weights), digest(weights))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

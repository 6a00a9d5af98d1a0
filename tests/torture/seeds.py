"""The demo's candidates drawn in other batches, in another order, by several workers: how far do they differ?"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.torture.forks import at_once, command
from tests.torture.rows import Row

BATCHES = (8, 1, 3)
"""The first is what the others are held against: all of a caption's images together."""
WORKERS = (2, 4)


def attack(folder: Path, captions: int, jobs: int) -> list[Row]:
    """Runs of the demo up to its pairs, of so many captions; nothing of them is lost where their keys are the same."""
    ways: list[tuple[str, Callable[[], None], list[str]]] = [
        (f"batches of {size}", lambda s=size: _draw_by(s), []) for size in BATCHES
    ]
    ways.append((f"batches of {BATCHES[0]}, last first", _draw_backwards, []))
    ways += [(f"{count} workers", lambda: None, [f"engine.workers={count}"]) for count in WORKERS]
    found = at_once(
        [
            lambda w=way, n=n, s=settings: _drawn(folder / f"seeds-{n}", captions, w, s)
            for n, (_, way, settings) in enumerate(ways)
        ],
        jobs,
    )
    return [_row(name, found[0], other) for (name, _, _), other in zip(ways[1:], found[1:], strict=True)]


def _row(name: str, first: dict[str, Any], other: dict[str, Any]) -> Row:
    images = first["images"]
    faults = () if images.keys() == other["images"].keys() else ("other images were drawn",)
    apart = [_apart(images[key], other["images"][key]) for key in images if key in other["images"]]
    flips = sum(first["pairs"].get(key) != other["pairs"].get(key) for key in first["pairs"] | other["pairs"])
    told = (
        f"{sum(map(bool, apart))} of {len(apart)} images differ in a pixel, by {max(apart)} of 255 at most;"
        f" {flips} of {len(first['pairs'])} pairs have another winner or loser"
    )
    return Row(f"seeds: {name}", len(apart), len(faults), told, faults)


def _apart(one: str, two: str) -> int:
    """The largest difference of a pixel's channel; the images are raw, in hex."""
    return max(abs(a - b) for a, b in zip(bytes.fromhex(one), bytes.fromhex(two), strict=True))


def _drawn(run: Path, captions: int, way: Callable[[], None], settings: Sequence[str]) -> dict[str, Any]:
    """The images by key, and by caption the keys of winner and loser."""
    few = [f"captions.count={captions}", "captions.held_out=0", *settings]
    arguments = ["run", "shapes", "--out", str(run), "--until", "pairs"]
    ended = command([*arguments, *(word for each in few for word in ("--set", each))], way)
    if ended.code:
        raise RuntimeError(f"the demo's pairs failed: {ended.said[-500:]}")
    from agfsync.files.images import decode_image
    from agfsync.records import Candidate, Pair
    from agfsync.store import Run

    with Run.open(run) as opened:
        images = {
            c.key: decode_image(c.image).convert("RGB").tobytes().hex() for c in opened.read("candidates", Candidate)
        }
        pairs = {pair.caption_key: [pair.winner_key, pair.loser_key] for pair in opened.read("pairs", Pair)}
    return {"images": images, "pairs": pairs}


def _draw_by(size: int) -> None:
    from agfsync.models.latent_diffusion import LatentDiffusion

    draw = LatentDiffusion.draw

    def some(self: Any, prompts: Sequence[str], seeds: Sequence[int], noise: float) -> Sequence[Any]:
        firsts = range(0, len(seeds), size)
        return [each for n in firsts for each in draw(self, prompts[n : n + size], seeds[n : n + size], noise)]

    LatentDiffusion.draw = some  # type: ignore[method-assign]


def _draw_backwards() -> None:
    from agfsync.models.latent_diffusion import LatentDiffusion

    draw = LatentDiffusion.draw

    def backwards(self: Any, prompts: Sequence[str], seeds: Sequence[int], noise: float) -> Sequence[Any]:
        return list(draw(self, prompts[::-1], seeds[::-1], noise))[::-1]

    LatentDiffusion.draw = backwards  # type: ignore[method-assign]

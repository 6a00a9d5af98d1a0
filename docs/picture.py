"""Draw the README's picture: `python docs/picture.py RUN OUT.png` puts the base model's images above the aligned one's.

Of each category it takes the first held-out caption, in the run's order, on which the oracle scores the two
differently. So losses are shown as well as gains, and nobody selects.
"""

import io
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from agfsync.pipeline import read_recipe
from agfsync.stages.report.evidence import gather_evidence, read_images
from agfsync.store import Run

SIDE, GAP, TEXT = 180, 14, 92
INK, PAPER, SOFT, EDGE = (34, 34, 34), (255, 255, 255), (110, 110, 110), (220, 220, 220)


def main(path: Path, out: Path) -> None:
    with Run.open(path) as run:
        evidence = gather_evidence(run, read_recipe(run))
        oracle = {c.caption_key: c for c in evidence.comparisons if c.judge == "oracle" and not c.element_type}
        differing = [key for key in evidence.captions if key in oracle and oracle[key].base != oracle[key].aligned]
        first = {evidence.captions[key].category: key for key in reversed(differing)}
        sides = {key: evidence.drawn[key] for key in differing if key in first.values()}
        wanted = {key for side in sides.values() for key in (side.base, side.aligned)}
        images = read_images(run, "evaluation_images", wanted)
    sheet = Image.new("RGB", (GAP + len(sides) * (SIDE + GAP), TEXT + 2 * (SIDE + 30) + GAP), PAPER)
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(12)
    for column, (key, side) in enumerate(sides.items()):
        left = GAP + column * (SIDE + GAP)
        pen.multiline_text((left, 8), textwrap.fill(evidence.captions[key].text, 26), INK, font)
        rows = (("base", side.base, oracle[key].base), ("aligned", side.aligned, oracle[key].aligned))
        for row, (model, image_key, score) in enumerate(rows):
            top = TEXT + row * (SIDE + 30)
            image = Image.open(io.BytesIO(images[image_key])).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(image, (left, top))
            pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=EDGE)
            pen.text((left, top + SIDE + 5), f"{model}: oracle {score:.0f}", SOFT, small)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

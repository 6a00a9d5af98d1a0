"""The README's picture: `python docs/picture.py RUN OUT.png` puts base over aligned model, same caption, same seed.

The captions are the first COUNT held-out ones, in the order of the run, that the oracle scores differently on the two:
losses as well as gains, so that nobody has chosen.
"""

import io
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from agfsync.records import Candidate, Caption, Comparison
from agfsync.store import Run

COUNT, SIDE, GAP, TEXT = 7, 160, 12, 92
INK, PAPER, SOFT = (34, 34, 34), (255, 255, 255), (110, 110, 110)


def main(path: Path, out: Path) -> None:
    with Run.open(path, writing=False) as run:
        captions = {caption.key: caption for caption in run.read("captions", Caption)}
        oracle = {
            c.caption_key: c for c in run.read("evaluation", Comparison) if c.judge == "oracle" and not c.element_type
        }
        images = {(c.caption_key, c.generator): c.image for c in run.read("evaluation_images", Candidate)}
    differing = [key for key in captions if key in oracle and oracle[key].base != oracle[key].aligned]
    keys = differing[:COUNT]
    sheet = Image.new("RGB", (GAP + len(keys) * (SIDE + GAP), TEXT + 2 * (SIDE + 30) + GAP), PAPER)
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(12)
    for column, key in enumerate(keys):
        left = GAP + column * (SIDE + GAP)
        pen.multiline_text((left, 8), textwrap.fill(captions[key].text, 24), INK, font)
        for row, (model, score) in enumerate((("base", oracle[key].base), ("aligned", oracle[key].aligned))):
            top = TEXT + row * (SIDE + 30)
            picture = Image.open(io.BytesIO(images[key, model])).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top))
            pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=(220, 220, 220))
            pen.text((left, top + SIDE + 5), f"{model}: oracle {score:.0f}", SOFT, small)
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Score a folder of images, each with its file name as the prompt."""

from pathlib import Path

from PIL import Image

import agfsync

folder = Path("images")
folder.mkdir(exist_ok=True)
model = agfsync.Model("stable-diffusion", path="embedded:generator", sampling={"steps": 4})
for prompt, image in zip(prompts := ["a red heart", "a blue star"], model.draw(prompts, seeds=[0, 1]), strict=True):
    image.save(folder / f"{prompt}.png")

files = sorted(folder.glob("*.png"))
scorer = agfsync.Scorer("clip", path="embedded:clip")
for file, score in zip(files, scorer.score([Image.open(f) for f in files], [f.stem for f in files]), strict=True):
    print(f"{file.name}: {score}")

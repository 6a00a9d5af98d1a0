"""PickScore: a CLIP-H fine-tuned on human choices between two images (Kirstain et al., 2023).

Pick-a-Pic, arXiv 2305.01569; weights yuvalkirstain/PickScore_v1, in transformers' layout.

The paper's score is the cosine similarity times the model's learned scale, which CLIP caps at 100. At the cap it is
equal to this project's CLIP score; it always gives the same order of images. So the scorer is `Clip` with another
`path`: the whole model or, if that lacks a tokenizer and an image processor, the CLIP-H that it was fine-tuned from,
laion/CLIP-ViT-H-14-laion2B-s32B-b79K, with PickScore's own as `weights`.
"""

from agfsync.scorers.clip import Clip

PickScore = Clip

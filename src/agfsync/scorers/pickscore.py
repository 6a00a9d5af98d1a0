"""PickScore: a CLIP-H tuned on the choices that people made between two images (Kirstain et al., 2023).

Pick-a-Pic, arXiv 2305.01569; weights yuvalkirstain/PickScore_v1, in transformers' layout.

The paper's score is the cosine times the model's learned scale, which CLIP caps at 100: the same number then as this
project's CLIP score, and in any case the same order of images. So the scorer is CLIP's, with another model: the whole
of it; or, where that lacks a tokenizer and an image processor, the CLIP-H that it was tuned from,
laion/CLIP-ViT-H-14-laion2B-s32B-b79K, with PickScore's own as `weights`.
"""

from agfsync.scorers.clip import Clip

PickScore = Clip

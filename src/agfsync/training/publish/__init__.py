"""The files next to the trained weights: the model card, and a LoRA in the layout of kohya's scripts."""

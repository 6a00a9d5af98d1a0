"""What is written beside trained weights: the model card and the layout of kohya's scripts."""

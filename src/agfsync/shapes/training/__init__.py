"""Trains the Shapes world's small models from scratch; one file a model, one loop for all."""

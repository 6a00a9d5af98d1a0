"""Reading and writing files: atomic writes and locks, tensors, images and their metadata."""

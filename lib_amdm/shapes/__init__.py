"""A small world of drawings, checkpoints trained on it, a benchmark and a demo."""

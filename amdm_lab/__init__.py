"""The laboratory: evidence on the method, the demo, and what trained the bundled checkpoints."""

"""A user's own pair of checkpoints on the user's prompts, as one page."""

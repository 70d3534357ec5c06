"""What is co-run beside the main model: its weights, its texts, and the pool that keeps both between pictures."""

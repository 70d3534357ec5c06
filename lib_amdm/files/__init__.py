"""All that reads the bytes of strangers: checkpoints, adapters, LoRAs, pictures."""

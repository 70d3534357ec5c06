"""Everything that reads untrusted files: checkpoints, adapters, LoRAs, pictures."""

"""What a mixed step asks of a GPU, measured on the machine at hand with random weights of the published sizes."""

"""The cost of a mixed step on a GPU, measured on the machine at hand with random weights of the published sizes."""

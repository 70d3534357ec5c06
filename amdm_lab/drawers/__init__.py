"""The ways to draw an order: a WebUI by its API, or the studio."""

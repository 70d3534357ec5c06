"""The method: torch alone."""

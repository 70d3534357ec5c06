"""The WebUI user's side: panel, infotext, X/Y/Z axes, API, settings page."""

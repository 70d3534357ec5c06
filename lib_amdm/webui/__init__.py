"""What a WebUI user touches: panel, infotext, X/Y/Z axes, API, settings page."""

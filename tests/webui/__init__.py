"""Tests on a real WebUI. They are skipped where no WebUI is installed; see conftest.py for the variables."""

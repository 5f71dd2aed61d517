"""The unified Python API."""

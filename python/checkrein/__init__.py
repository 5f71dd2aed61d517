"""Checkrein: runtime control of AI agents."""

from checkrein._native import __version__

__all__ = ["__version__"]

"""Checkrein: runtime control of AI agents."""

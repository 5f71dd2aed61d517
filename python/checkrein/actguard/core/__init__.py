"""Runs and budgets: who is running, and what is left to spend."""

"""Counts what calls of provider SDKs use, and holds before they are made."""

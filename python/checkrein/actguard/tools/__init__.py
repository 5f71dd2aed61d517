"""The guards of tools."""

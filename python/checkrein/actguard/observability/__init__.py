"""How events come about."""

"""The demo: a misbehaving agent and what its tools are allowed to do. No key, no network."""

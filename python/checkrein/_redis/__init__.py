"""Drop-in stores on the user's own `redis-py` client: one Lua script per operation, one round trip each.

Nothing here imports `redis`: the client is used through its methods, and told apart by them.
"""

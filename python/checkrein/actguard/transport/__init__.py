"""How the gateway is asked: urllib, bounded in time, never redirected."""

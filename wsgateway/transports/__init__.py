"""Carries the bytes of one client, on the gateway's own server or plain ASGI. Does not know what a message means."""

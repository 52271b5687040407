"""Ports for servers in processes of their own, which cannot be handed an open socket."""

import random
import socket


def free_port() -> int:
    """A port that no socket has, nor gets before a server binds it: those that the system gives out are higher."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port

"""What the system knows of a TCP connection. Reads nothing from it."""

import socket
import sys
from typing import Any

TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None

BYTES_ACKED = slice(120, 128)
"""Where `tcpi_bytes_acked` stands in Linux's `struct tcp_info`."""


def acknowledged(sock: Any) -> int:
    """Bytes that the other side of `sock` has taken, where the system tells, else 0."""
    if TCP_INFO is None:
        return 0
    try:
        return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 128)[BYTES_ACKED], sys.byteorder)
    except OSError:  # a Unix socket
        return 0

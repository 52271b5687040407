"""The state of a TCP connection, as the operating system reports it. Does not read or write."""

import socket
import sys
from typing import Any

TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None

BYTES_ACKED = slice(120, 128)
"""The place of `tcpi_bytes_acked` in Linux's `struct tcp_info`, to which the kernel only appends.

`SIOCOUTQ` does not replace it. Under TLS, encrypted bytes also wait in a buffer between the kernel's queue and the
transport's own. A slow client empties that buffer while the other two stay equally full, so only the count of
acknowledged bytes shows that it reads.
"""


def acknowledged(sock: Any) -> int:
    """Return how many bytes the other side of `sock` has acknowledged; 0 if the system does not count them."""
    if TCP_INFO is None:
        return 0
    try:
        return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 128)[BYTES_ACKED], sys.byteorder)
    except (OSError, ValueError):  # a Unix socket, or one that was closed
        return 0


def unread(transport: Any) -> int:
    """Return a number of bytes that becomes smaller whenever the client receives some of what was written."""
    size: int = transport.get_write_buffer_size()
    return size - acknowledged(transport.get_extra_info("socket"))

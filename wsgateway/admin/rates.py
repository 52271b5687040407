"""Messages per second of the connections that a page shows. Knows no pages."""

import time
from typing import Any

from wsgateway.cluster.questions import ConnectionInfo
from wsgateway.gateway.shapes import fields_of

MAX_CONNECTIONS = 10_000
"""Connections whose counts are remembered, from when they were last shown."""


class MessageRates:
    """Computes the rates of a connection since it was last shown."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[float, int, int]] = {}
        """For each connection: when it was shown, messages in, and messages out."""

    def row_of(self, info: ConnectionInfo) -> dict[str, Any]:
        """Return what a page shows of a connection, and remember its counts for the next time."""
        now, received, sent = time.monotonic(), info.messages_in, info.messages_out
        clock, before_in, before_out = self._shown.get(info.id, (now - info.age, 0, 0))
        seconds = max(now - clock, 0.001)
        if seconds >= 1:
            self._shown.pop(info.id, None)
            self._shown[info.id] = (now, received, sent)
            if len(self._shown) > MAX_CONNECTIONS:
                del self._shown[next(iter(self._shown))]
        return {
            **fields_of(info),
            "in_rate": (received - before_in) / max(seconds, 1),
            "out_rate": (sent - before_out) / max(seconds, 1),
            "expires_in": None if info.expires_at is None else max(0, round(info.expires_at - time.time())),
        }

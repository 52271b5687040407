"""Messages per second of the connections that a page shows. Knows no pages."""

import time
from typing import Any

MAX_CONNECTIONS = 10_000
"""Connections whose counts are remembered, from when they were last shown."""


class MessageRates:
    """Computes the rates of a connection since it was last shown."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[float, int, int]] = {}
        """For each connection: when it was shown, messages in, and messages out."""

    def shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return `row` of a connection with its rates, and remember its counts for the next time."""
        now, received, sent = time.monotonic(), row["messages_in"], row["messages_out"]
        clock, before_in, before_out = self._shown.get(row["id"], (now - row["age"], 0, 0))
        seconds = max(now - clock, 0.001)
        if seconds >= 1:
            self._shown.pop(row["id"], None)
            self._shown[row["id"]] = (now, received, sent)
            if len(self._shown) > MAX_CONNECTIONS:
                del self._shown[next(iter(self._shown))]
        return {
            **row,
            "in_rate": (received - before_in) / max(seconds, 1),
            "out_rate": (sent - before_out) / max(seconds, 1),
        }

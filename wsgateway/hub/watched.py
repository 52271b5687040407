"""A connection in development mode, which notices that a call was not awaited."""

from collections.abc import Coroutine
from typing import Any

from wsgateway.hub.connection import Connection
from wsgateway.hub.unawaited import WatchedCoroutine, marked
from wsgateway.logs import GatewayLog
from wsgateway.messages import Subscribed


class WatchedConnection(Connection):
    """A connection in development mode. It logs a warning for each `send` or `close` that is not awaited."""

    __slots__ = ("_log",)

    def __init__(self, *args: Any, log: GatewayLog, **options: Any) -> None:
        super().__init__(*args, **options)
        self._log = log

    @marked
    def send(self, message: object, *, name: str = "") -> Coroutine[Any, Any, bool]:
        return WatchedCoroutine(super().send(message, name=name), self._log, what="conn.send", conn=self.id, depth=2)

    @marked
    def request(self, message: object, name: str = "", timeout: float = 10.0) -> Coroutine[Any, Any, Any]:
        coroutine = super().request(message, name, timeout)
        return WatchedCoroutine(coroutine, self._log, what="conn.request", conn=self.id, depth=2)

    @marked
    def close(self, code: int = 1000, reason: str = "") -> Coroutine[Any, Any, None]:
        return WatchedCoroutine(super().close(code, reason), self._log, what="conn.close", conn=self.id, depth=2)

    @marked
    def subscribe(
        self, channel: str, *, info: object = None, since: str | None = None
    ) -> Coroutine[Any, Any, Subscribed]:
        coroutine = super().subscribe(channel, info=info, since=since)
        return WatchedCoroutine(coroutine, self._log, what="conn.subscribe", conn=self.id, depth=2)

    @marked
    def refresh(self, token: str) -> Coroutine[Any, Any, bool]:
        return WatchedCoroutine(super().refresh(token), self._log, what="conn.refresh", conn=self.id, depth=2)

    @marked
    def unsubscribe(self, channel: str, code: int = 2000, reason: str = "") -> Coroutine[Any, Any, bool]:
        coroutine = super().unsubscribe(channel, code, reason)
        return WatchedCoroutine(coroutine, self._log, what="conn.unsubscribe", conn=self.id, depth=2)

"""The event that a hook is called with. Knows nothing of when a hook is called."""

from collections.abc import Iterable
from typing import Any, Protocol

from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Connections
from wsgateway.messages import Sent
from wsgateway.text import short


class EventGateway(Protocol):
    """The gateway as a hook finds it at `event.gateway`.

    This is a Protocol although only `Gateway` implements it, because the module of `Gateway` imports this one.
    """

    @property
    def id(self) -> str: ...

    @property
    def connections(self) -> Connections: ...

    async def send(
        self,
        message: object,
        *,
        connections: Iterable[Connection | str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Sent: ...

    def send_from_thread(
        self,
        message: object,
        *,
        connections: Iterable[Connection | str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Sent: ...

    async def stop(self) -> None: ...

    async def restart(self) -> None: ...


class Event:
    """The argument of every hook, which may change it.

    `conn` is None if the event belongs to no connection, such as a message from `/send`. `message` is `""` on open and
    close. `connections` is None (every connection) until a hook sets it. `data` has the other keys of the request to
    `/send`. `code` and `reason` are set on close. `on_handshake` sets `subprotocol` to one of `conn.subprotocols`.
    """

    __slots__ = ("code", "conn", "connections", "data", "gateway", "message", "reason", "subprotocol")

    def __init__(
        self,
        gateway: EventGateway,
        conn: Connection | None = None,
        *,
        message: Any = "",
        connections: Iterable[Connection | str] | None = None,
        data: dict[str, Any] | None = None,
        code: int | None = None,
        reason: str = "",
    ) -> None:
        self.gateway = gateway
        self.conn = conn
        self.message = message
        self.connections = connections
        self.data: dict[str, Any] = {} if data is None else data
        self.code = code
        self.reason = reason
        self.subprotocol: str | None = None

    def __repr__(self) -> str:
        """Show what a hook can use. Only the names of `data` are shown, because its values may be secrets."""
        parts = [f"gateway={self.gateway.id!r}", f"conn={self.conn if self.conn is None else self.conn.id!r}"]
        if self.code is None:
            parts.append(f"message={short(self.message)}")
        else:
            parts += [f"code={self.code}", f"reason={short(self.reason)}"]
        if self.connections is not None:
            parts.append(f"connections={_shown_recipients(self.connections)}")
        if self.data:
            parts.append(f"data={short(list(self.data))}")
        if self.subprotocol is not None:
            parts.append(f"subprotocol={short(self.subprotocol)}")
        return f"<Event {' '.join(parts)}>"


class MessageEvent(Event):
    """The event of `on_message`. Made for each message, so `__init__` has no defaults, which CPython calls faster."""

    __slots__ = ()

    def __init__(
        self,
        gateway: EventGateway,
        conn: Connection | None,
        message: Any,
        connections: Iterable[Connection | str] | None,
        data: dict[str, Any],
    ) -> None:
        self.gateway = gateway
        self.conn = conn
        self.message = message
        self.connections = connections
        self.data = data
        self.code = None
        self.reason = ""
        self.subprotocol = None


def _shown_recipients(connections: object) -> str:
    if isinstance(connections, (list, tuple)):
        return short([item.id if isinstance(item, Connection) else item for item in connections[:10]])
    return short(connections)

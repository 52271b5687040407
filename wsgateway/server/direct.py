"""Answers a usual handshake without uvicorn's WebSocket protocol, which is made only for an application that needs it.

Relies on undocumented attributes of uvicorn. Knows nothing of the application that is served.
"""

import asyncio
import logging
from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string
from websockets.utils import accept_key

from wsgateway.config.addresses import REMOTE_END
from wsgateway.config.settings import Settings
from wsgateway.hub.loops import eager_task
from wsgateway.server.attributes import NEEDED_DIRECT_HTTP, NEEDED_DIRECT_WEBSOCKET, missing_of, warn_once
from wsgateway.server.guards import GuardedHttp
from wsgateway.server.takeover import UvicornTakeover, take_socket
from wsgateway.server.websocket import WebSocketProtocol, header_text
from wsgateway.transports.takeover import EXTENSION, Timers, Wire, WireUser

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"
)
"""The beginning of the response to a handshake, the same as uvicorn's."""

_logger = logging.getLogger("uvicorn.error")


def can_be_direct(http: GuardedHttp, protocol: WebSocketProtocol) -> bool:
    """Return whether uvicorn's `http` and `protocol`, after a handshake, have what another one needs, or warn once."""
    missing = missing_of(http, NEEDED_DIRECT_HTTP) + missing_of(protocol, NEEDED_DIRECT_WEBSOCKET)
    if missing:
        warn_once(", ".join(missing), "HTTP or WebSocket", "handshakes take longer")
    return not missing


class DirectHandshake:
    """The `receive` and `send` of an application for one handshake in the usual form, and its `Takeover`.

    The application begins while the request is being read. If it holds, accepts, and takes over before its first wait,
    uvicorn's protocol is never made. In every other case, the protocol is made as soon as the application needs it, at
    the latest when it waits, and has the connection from then on.
    """

    __slots__ = (
        "_accept",
        "_early",
        "_error",
        "_http",
        "_is_connect_received",
        "_is_held",
        "_is_taken",
        "_key",
        "_protocol",
        "_result",
        "_scope",
        "_takeover",
        "_task",
    )

    _task: asyncio.Task[None]

    def __init__(self, http: GuardedHttp, key: str, early: bytes) -> None:
        """`http` has parsed the request, whose key is `key`. The client has sent `early` behind it."""
        self._http: Any = http
        self._key = key
        self._early = early
        self._scope: Any = _scope_of(http, self)
        self._is_connect_received = False
        self._is_held = False
        self._is_taken = False
        self._accept: Any = None  # the message of the application that has to be answered with 101
        self._protocol: WebSocketProtocol | None = None
        self._takeover: UvicornTakeover | None = None
        self._result: object = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Run the application up to its first wait. Never raise what it raises."""
        tasks: set[asyncio.Task[None]] = self._http.tasks
        self._task = eager_task(self._run(), self._http.loop)
        if not self._is_taken:
            self._ensure_protocol()
        elif not self._task.done():
            tasks.add(self._task)
            self._task.add_done_callback(tasks.discard)

    async def _run(self) -> None:
        try:
            self._result = await self._http.app(self._scope, self.receive, self.send)
        except BaseException as exc:  # also `SystemExit` and `CancelledError`, the same as uvicorn
            self._error = exc
            if self._is_taken:
                _logger.error("Exception in ASGI application\n", exc_info=exc)

    async def _wait(self, *_: object) -> object:
        """Wait for the application, which uvicorn's protocol would otherwise call, and return its result."""
        try:
            await self._task
            if self._error is not None:
                raise self._error
            return self._result
        finally:
            self._forget()

    def _forget(self) -> None:
        """Free the objects that refer to this one, without the garbage collector."""
        self._http = self._scope = self._protocol = self._takeover = self._error = None

    def _ensure_protocol(self) -> WebSocketProtocol:
        """Return uvicorn's protocol, which has the connection from now on."""
        if self._protocol is None:
            http = self._http
            protocol = self._protocol = WebSocketProtocol(
                config=http.config, server_state=http.server_state, app_state=http.app_state
            )
            protocol.app = self._wait
            protocol.upgraded(http, http.url.decode("ascii"), http.headers, self._early)
            protocol.scope = self._scope
            if self._is_connect_received:
                protocol.queue.get_nowait()
            self._takeover = UvicornTakeover(protocol)
            if self._is_held:
                self._takeover.hold(compression=False)
            if self._accept is not None:
                eager_task(protocol.send(self._accept), http.loop)
        return self._protocol

    # Called by the application

    async def receive(self) -> Any:
        if self._is_taken:
            await asyncio.get_running_loop().create_future()  # nothing more arrives here
        if self._protocol is None and not self._is_connect_received:
            self._is_connect_received = True
            return {"type": "websocket.connect"}
        return await self._ensure_protocol().receive()

    async def send(self, message: Any) -> None:
        if self._is_taken:
            raise RuntimeError(f"Unexpected ASGI message '{message['type']}', after the socket was taken over.")
        if self._protocol is None and self._is_held and self._accept is None and _is_plain_accept(message):
            self._accept = message
        else:
            await self._ensure_protocol().send(message)

    # Called by the gateway

    def hold(self, *, compression: bool) -> None:
        self._is_held = True
        if compression and any(name == b"sec-websocket-extensions" for name, _ in self._http.headers):
            self._ensure_protocol()
        if self._takeover is not None:
            self._takeover.hold(compression=compression)

    def release(self) -> None:
        self._is_held = False
        if self._takeover is not None:
            self._takeover.release()

    def take_over(self, user: WireUser, settings: Settings, timers: Timers) -> Wire | None:
        if self._takeover is not None:
            return self._takeover.take_over(user, settings, timers)
        http, scope = self._http, self._scope
        self._is_taken = True
        self._forget()
        if _logger.isEnabledFor(logging.INFO):
            client, path = get_client_addr(scope), get_path_with_query_string(scope)
            _logger.info('%s - "WebSocket %s" [accepted]', client, path)
        if not http.transport.is_closing():
            response = _response(self._key, http.server_state.default_headers, self._accept.get("subprotocol"))
            http.transport.write(response)
        if http.transport.is_closing():  # also if the client has disconnected before that write
            return None
        http.connections.discard(http)
        del http.parser  # it refers to `http`, which is then freed without the garbage collector
        return take_socket(http.transport, user, settings, timers, connections=http.connections, early=self._early)


def _scope_of(http: Any, takeover: DirectHandshake) -> dict[str, Any]:
    """Return the scope that uvicorn makes for the request that `http` has parsed."""
    target: bytes = http.url
    raw_path, _, query_string = target.partition(b"?")
    path, root_path = raw_path.decode("ascii"), http.root_path
    subprotocols = [
        token.strip()
        for name, value in http.headers
        if name == b"sec-websocket-protocol"
        for token in header_text(value).split(",")
    ]
    return {
        "type": "websocket",
        "asgi": {"version": http.asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if http.scheme == "https" else "ws",
        "server": http.server,
        "client": http.client,
        "root_path": root_path,
        "path": root_path + (unquote(path) if "%" in path else path),
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query_string,
        "headers": http.headers,
        "subprotocols": subprotocols,
        "state": http.app_state.copy(),
        "extensions": {"websocket.http.response": {}, REMOTE_END: http.remote_end, EXTENSION: takeover},
    }


def _is_plain_accept(message: Any) -> bool:
    """Return whether `message` accepts, with nothing that websockets would have to check."""
    subprotocol = message.get("subprotocol") or ""
    is_accept = message["type"] == "websocket.accept" and not message.get("headers")
    return is_accept and subprotocol.isascii() and subprotocol.isprintable()


def _response(key: str, default_headers: list[tuple[bytes, bytes]], subprotocol: str | None) -> bytes:
    lines = [_SWITCHING % accept_key(key).encode()]
    lines += [b"%b: %b\r\n" % (name.lower(), value) for name, value in default_headers]
    if subprotocol:
        lines.append(b"Sec-WebSocket-Protocol: %b\r\n" % subprotocol.encode())
    lines.append(b"\r\n")
    return b"".join(lines)

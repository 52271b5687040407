"""A client for a gateway: `send` pushes over HTTP, for a task queue, a management command, or a cron job; `connect`
opens a WebSocket. Both connect only to the host in the URL: they use no proxy and follow no redirect."""

import json
import ssl
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from socket import SHUT_RDWR, socket
from typing import Any, Literal, NamedTuple, TypedDict, Unpack, cast
from urllib.parse import quote, urlsplit
from uuid import UUID

import anyio.to_thread
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Origin, Subprotocol

from wsgateway.encoding import ENCODER, to_json
from wsgateway.exceptions import SendError
from wsgateway.messages import Sent
from wsgateway.text import cut, did_you_mean, mask_url

__all__ = [
    "ClientConnection",
    "SendOptions",
    "Subprotocol",
    "asend",
    "connect",
    "handshake",
    "request",
    "send",
    "websocket_url",
]

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer that are read. A page of 1,000 connections has fewer than a million."""

MAX_PROBLEM = 65536
"""Bytes that are read of an answer whose status is not 2xx."""

MAX_REASON = 1000
"""Bytes that `handshake` returns of the body of a refusal."""


class SendOptions(TypedDict, total=False):
    """The keyword arguments of `send` and `asend` that choose the recipients and describe the message."""

    channel: str
    user: str | int | UUID
    connections: Iterable[str] | None
    name: str
    key: str
    tags: Mapping[str, str] | None
    ttl: float | None
    idempotency_key: str


def send(
    url: str,
    message: object,
    *,
    id: str | None = None,  # noqa: A002  the field's name in the body
    data: dict[str, Any] | None = None,
    api_key: str | None = None,
    timeout: float = 10.0,
    **options: Unpack[SendOptions],
) -> Sent:
    """Post `message` to the gateway whose `/send` is at `url`, such as `http://localhost:10125/send`.

    `id` names the gateway if the process has several. The recipients are the subscribers of `channel`, the connections
    of `user`, the `connections` with these ids, or, without any of these, every connection. The listener finds `data`
    in `event.data`. `name` is the name of an event. `key`, `tags`, `ttl` (in seconds), and `idempotency_key` apply to a
    publication to `channel`. `timeout` is in seconds, for the whole request.

    Raise `SendError` for any answer except a gateway's 200, also for a redirect, and `OSError` if the server does not
    answer. Raise `ValueError` if `url` is not an HTTP URL, if `message`, `data`, or an option cannot be sent as JSON,
    for an empty channel or user, and for more than one kind of recipients.
    """
    body: dict[str, object] = {**_data_of(data), "message": message, **_fields_of(options)}
    if id is not None:
        body["id"] = id
    answer = request("POST", url, body, token=api_key, timeout=timeout)
    try:
        return Sent(**{name: answer[name] for name in Sent._fields if name in answer})
    except TypeError:
        raise _not_a_gateway(200, "its fields are not those of a gateway") from None


def _data_of(data: dict[str, Any] | None) -> dict[str, Any]:
    """Return `data`. Raise `ValueError` for a key that would choose the recipients."""
    for name in ("channel", "user"):
        if data is not None and name in data:
            raise ValueError(f"data: {name!r} would choose the recipients; pass it as {name}=…, or use another key")
    return data or {}


def _fields_of(options: SendOptions) -> dict[str, object]:
    """Return `options` as fields of the body. Raise `ValueError`, and `TypeError` for an unknown option."""
    given = cast(dict[str, Any], options)
    unknown = sorted(given.keys() - SendOptions.__annotations__.keys())
    if unknown:
        hint = did_you_mean(unknown[0], SendOptions.__annotations__)
        raise TypeError(f"send has no argument {unknown[0]!r}{hint}")
    fields = {name: value for name, value in given.items() if value is not None or name in ("channel", "user")}
    if isinstance(fields.get("user"), (int, UUID)) and not isinstance(fields["user"], bool):
        fields["user"] = str(fields["user"])  # as `conn.user_id` is
    for name in ("channel", "user"):
        if name in fields and (not isinstance(fields[name], str) or not fields[name]):
            advice = "leave it out to send to every connection"
            raise ValueError(f"{name} is {fields[name]!r}, use text that is not empty, or {advice}")
    recipients = [name for name in ("channel", "user", "connections") if name in fields]
    if len(recipients) > 1:
        raise ValueError(f"{' and '.join(recipients)} are given, choose one of them")
    of_channel = [name for name in ("key", "tags", "ttl", "idempotency_key") if name in fields]
    if of_channel and "channel" not in fields:
        raise ValueError(  # without a channel, they would be data
            f"{', '.join(of_channel)}: only a message to a channel has that; give a channel, or leave it out"
        )
    if "connections" in fields:
        if isinstance(fields["connections"], (str, bytes)):
            raise ValueError(f"connections: {fields['connections']!r} is a single str; give a list of connection ids")
        fields["connections"] = list(fields["connections"])
    return fields


async def asend(
    url: str,
    message: object,
    *,
    id: str | None = None,  # noqa: A002  the field's name in the body
    data: dict[str, Any] | None = None,
    api_key: str | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109  passed to the blocking call, which has no cancellation
    **options: Unpack[SendOptions],
) -> Sent:
    """Call `send` in a thread, for `async` code."""

    def call() -> Sent:
        return send(url, message, id=id, data=data, api_key=api_key, timeout=timeout, **options)

    return await anyio.to_thread.run_sync(call)


def request(
    method: str,
    url: str,
    body: object = None,
    *,
    token: str | None = None,
    host: str | None = None,
    timeout: float = 10.0,
) -> Any:
    """Send a request with `body` as JSON, and return the JSON of the answer, None if it has no body.

    `host` replaces the `Host` of `url`. `timeout` is in seconds, for the whole request.

    Raise `SendError` for a status other than 2xx and for an answer that is not JSON, `ValueError` if `body` is not a
    JSON value, `url` is not an HTTP URL, or `token` cannot be sent, and `OSError` if the server does not answer.
    """
    target = _parse(url)
    headers = {"content-type": "application/json", "user-agent": "wsgateway"} | ({"host": host} if host else {})
    if token is not None:
        if not token.isprintable():
            raise ValueError("the key contains a line break or a control character, which cannot be sent in a header")
        headers["authorization"] = "Bearer " + token.encode().decode("latin-1")  # UTF-8, as the gateway compares it
    status, location, answer = _exchange(target, method, None if body is None else _encode(body), headers, timeout)
    if 200 <= status <= 299:
        try:
            return json.loads(answer) if answer else None
        except (ValueError, RecursionError):
            raise _not_a_gateway(status, "it is not JSON") from None
    if 300 <= status <= 399:
        target_url = mask_url(location.replace(token, "…") if token else location)
        detail = (
            f"the server points to {cut(target_url, 200)!r}; redirects are not followed, give that URL if it is yours"
        )
        raise SendError(status, {"title": "Redirect", "detail": detail})
    raise SendError(status, _problem_of(answer))


class connect(websockets_connect):  # noqa: N801  as in websockets, where it is called like a function
    """`websockets.connect`, but connects only to the host in `uri`.

    A redirect raises `InvalidStatus`, because following it could send the headers to another host. Proxies in the
    environment are not used; pass the URL of one as `proxy`, or True for the one in the environment.
    """

    def __init__(self, uri: str, *, proxy: str | Literal[True] | None = None, **options: Any) -> None:
        if not uri.isprintable() or " " in uri:
            raise InvalidURI(uri, "it contains a space or a control character")
        super().__init__(uri, proxy=proxy, **options)

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def handshake(url: str, *, origin: str | None = None, timeout: float = 10.0) -> tuple[int, str]:  # noqa: ASYNC109
    """Make a WebSocket handshake at `url`, close the connection, and return the status and text of the answer.

    The text is empty for 101. `origin` is the origin of a page; a client other than a browser sends none. `timeout` is
    in seconds. Raise `ValueError` if `url` is not an HTTP or WebSocket URL, `OSError` if the server does not answer.
    """
    try:
        connecting = connect(websocket_url(url), origin=Origin(origin) if origin else None, open_timeout=timeout)
    except (InvalidURI, ValueError):
        raise ValueError(
            f"{mask_url(url)!r} is not a URL of a gateway; one looks like http://localhost:10125"
        ) from None
    try:
        async with connecting:
            return 101, ""
    except InvalidStatus as exc:
        return exc.response.status_code, (exc.response.body or b"")[:MAX_REASON].decode(errors="replace")
    except InvalidHandshake as exc:
        return 200, str(exc)  # the answer does not complete the handshake


def websocket_url(url: str) -> str:
    """Return `url` with `ws` for `http` and `wss` for `https`."""
    scheme, slashes, rest = url.partition("://")
    return {"http": "ws", "https": "wss"}.get(scheme.lower(), scheme) + slashes + rest


# HTTP


class _Target(NamedTuple):
    """The parts of a URL. `path` includes the query string."""

    is_secure: bool
    host: str
    port: int
    path: str


_PATH_CHARACTERS = "/%:@!$&'()*+,;=~"
"""Characters of a path that are not percent-encoded."""


def _parse(url: str) -> _Target:
    """Return the parts of an HTTP URL. Raise `ValueError` for any other, and for one with a user or a password."""
    shown = str(url)
    shown = cut(mask_url(shown) if "@" in shown else shown.partition("?")[0], 200)
    error = ValueError(f"{shown!r} is not an HTTP URL; one looks like http://localhost:10125/send")
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        raise error
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host = host if ":" in host else host.encode("idna").decode()
    except ValueError:  # also UnicodeError
        raise error from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise error
    if "@" in parts.netloc:
        raise ValueError(f"{shown!r} contains a user or a password, which are not sent; is it the key?")
    query = quote(parts.query, safe=_PATH_CHARACTERS + "?")
    path = quote(parts.path or "/", safe=_PATH_CHARACTERS) + (f"?{query}" if query else "")
    is_secure = parts.scheme == "https"
    return _Target(is_secure, host, port or (443 if is_secure else 80), path)


def _exchange(
    target: _Target, method: str, body: bytes | None, headers: dict[str, str], timeout: float
) -> tuple[int, str, bytes]:
    """Return status, `Location`, and body of the answer. Raise `OSError`, or `SendError` if the body is too large.

    `Connection: close` is not sent, because a gateway on this host takes it for a sign of a proxy.
    """
    connection = HTTPConnection(target.host, target.port, timeout=timeout)
    connection.default_port = 443 if target.is_secure else 80  # `Host` omits this port
    deadline = _Deadline(timeout)
    try:
        connection.connect()
        deadline.guard(connection.sock)
        if target.is_secure:
            context = ssl.create_default_context()
            secure = context.wrap_socket(connection.sock, server_hostname=target.host, do_handshake_on_connect=False)
            connection.sock = secure
            deadline.guard(secure)
            secure.do_handshake()
        connection.request(method, target.path, body, headers)
        response = connection.getresponse()
        limit = MAX_ANSWER if 200 <= response.status <= 299 else MAX_PROBLEM
        answer = response.read(limit + 1)
    except HTTPException as exc:
        if deadline.is_past:
            raise TimeoutError(f"no complete answer within {timeout:g} s") from exc
        raise ConnectionError(f"the answer is not HTTP or was cut off ({type(exc).__name__})") from exc
    finally:
        deadline.cancel()
        connection.close()
    if deadline.is_past:
        raise TimeoutError(f"no complete answer within {timeout:g} s")
    if response.length and len(answer) <= limit:
        raise ConnectionError("the answer was cut off")
    if len(answer) > MAX_ANSWER:
        raise _not_a_gateway(response.status, f"it is larger than {MAX_ANSWER} bytes")
    return response.status, response.headers.get("location", ""), answer


class _Deadline:
    """Shuts a socket down after a number of seconds. The socket's own timeout starts again with each byte."""

    def __init__(self, seconds: float) -> None:
        self.is_past = False
        self._socket: socket | None = None
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    def guard(self, guarded: socket) -> None:
        self._socket = guarded
        if self.is_past:
            self._shut_down()

    def cancel(self) -> None:
        self._timer.cancel()

    def _shut_down(self) -> None:
        self.is_past = True
        if self._socket is not None:
            with suppress(OSError):
                socket.shutdown(self._socket, SHUT_RDWR)  # also of a TLS socket, without a close_notify


def _encode(body: object) -> bytes:
    """Return the JSON of `body`, with the types that `gateway.send` accepts. Raise `MessageError`."""
    try:
        return ENCODER.encode(body).encode()
    except (TypeError, ValueError, RecursionError):
        return to_json(body).encode()


def _not_a_gateway(status: int, reason: str) -> SendError:
    return SendError(status, {"title": "Not a gateway", "detail": f"the answer is not that of a gateway: {reason}"})


def _problem_of(body: bytes) -> dict[str, object]:
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        problem = None
    if isinstance(problem, dict):
        return problem
    text = body[:200].decode(errors="replace")
    if text.lstrip()[:1] == "<":
        return {"title": "Not a gateway", "detail": "the answer is a page of HTML; check the path, such as /live/send"}
    return {"detail": text}

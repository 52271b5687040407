"""A client for a gateway: `send` pushes over HTTP, for a task queue, a management command or a cron job; `connect`
opens a WebSocket."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from typing import Any

import anyio.to_thread
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.typing import Origin

from wsgateway.exceptions import SendError
from wsgateway.hub import Sent

__all__ = ["ClientConnection", "asend", "connect", "handshake", "request", "send"]


def send(
    url: str,
    message: object,
    *,
    id: str | None = None,  # noqa: A002  the field's name in the body
    connections: Iterable[str] | None = None,
    data: dict[str, Any] | None = None,
    api_key: str | None = None,
    timeout: float = 10.0,
) -> Sent:
    """Post `message` to the gateway whose `/send` is at `url`, as `http://localhost:10125/send`.

    `id` names another gateway of that process, `connections` the connections that are to receive it (everybody),
    `data` what the listener finds in `event.data`; `timeout` is in seconds. Raises `SendError` for an answer other
    than 200, `ValueError` if `message` is no JSON value, and `OSError` if nobody answers.
    """
    body: dict[str, object] = {**(data or {}), "message": message}
    if id is not None:
        body["id"] = id
    if connections is not None:
        body["connections"] = list(connections)
    answer = request("POST", url, body, token=api_key, timeout=timeout)
    return Sent(**{name: answer[name] for name in Sent._fields if name in answer})


async def asend(
    url: str,
    message: object,
    *,
    id: str | None = None,  # noqa: A002  the field's name in the body
    connections: Iterable[str] | None = None,
    data: dict[str, Any] | None = None,
    api_key: str | None = None,
    timeout: float = 10.0,  # noqa: ASYNC109  passed to the blocking call, which has no cancellation
) -> Sent:
    """`send` for `async` code."""

    def call() -> Sent:
        return send(url, message, id=id, connections=connections, data=data, api_key=api_key, timeout=timeout)

    return await anyio.to_thread.run_sync(call)


def request(method: str, url: str, body: object = None, *, token: str | None = None, timeout: float = 10.0) -> Any:
    """The JSON that `url` answers to a request with `body` as JSON; None for an answer without a body.

    Raises `SendError` for a status of 400 and above, `ValueError` if `body` is no JSON value or `url` no HTTP
    address, and `OSError` if nobody answers.
    """
    headers = {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = "Bearer " + token.encode().decode("latin-1")  # UTF-8, as the gateway compares it
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no HTTP address; one looks like http://localhost:10125/send")
    data = None if body is None else json.dumps(body, allow_nan=False).encode()
    asked = urllib.request.Request(url, data, headers, method=method)  # noqa: S310  checked above
    try:
        with urllib.request.urlopen(asked, timeout=timeout) as response:  # noqa: S310
            answer = response.read()
    except urllib.error.HTTPError as exc:
        with exc:
            raise SendError(exc.code, _problem(exc.read())) from None
    return json.loads(answer) if answer else None


async def handshake(url: str, *, origin: str | None = None, timeout: float = 10.0) -> tuple[int, str]:  # noqa: ASYNC109
    """Shake hands at `url`, as a page of `origin` or as no browser, and leave: the answer's status, and what it says.

    101 and nothing if a WebSocket was opened. `timeout` is in seconds. Raises `OSError` if nobody answers.
    """
    asked = "ws" + url.removeprefix("http")
    try:
        async with connect(asked, origin=Origin(origin) if origin else None, open_timeout=timeout, proxy=None):
            return 101, ""
    except InvalidStatus as exc:
        return exc.response.status_code, (exc.response.body or b"")[:1000].decode(errors="replace")
    except InvalidHandshake as exc:
        return 200, str(exc)  # an answer that is none to a handshake


def _problem(body: bytes) -> dict[str, object]:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"detail": body[:200].decode(errors="replace")}

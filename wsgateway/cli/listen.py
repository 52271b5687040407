"""The command `wsgateway listen`: prints messages of a WebSocket or of channels, and sends lines of standard input.

With channels, it speaks `wsgateway.v1`.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from wsgateway import client
from wsgateway.cli.terminal import complain, read_lines, safe_for
from wsgateway.frames import Position
from wsgateway.hub.channels import LOST
from wsgateway.protocols.v1 import SUBPROTOCOL
from wsgateway.text import cut, escape_controls, mask_url

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 5.6.2

MAX_SENTENCE = 500
"""Characters of the answer to a refused handshake that are printed."""


def positions_of(channels: Sequence[str], since: Sequence[str]) -> dict[str, str | None]:
    """Return the channels to subscribe to, each with the position in `since`, None without one. Raise `ValueError`."""
    positions: dict[str, str | None] = dict.fromkeys(channels)
    if "" in positions:
        raise ValueError("--channel is empty; give the name of a channel")
    for text in since:
        channel, at, position = text.rpartition("@")
        if not at and len(positions) == 1:
            channel = channels[0]
        if Position.parse(position) is None:
            raise ValueError(
                f"--since {text!r} is not a position; one looks like k3Jd9aQx:7, as this command prints it"
            )
        if channel not in positions:
            raise ValueError(f"--since {text!r} names no --channel; write --channel room:1 --since room:1@k3Jd9aQx:7")
        positions[channel] = position
    return positions


def headers_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the headers in `words`, each NAME:VALUE. Raise `ValueError`, without the value, which may be a secret."""
    headers = [(name, value.strip()) for name, _, value in (word.partition(":") for word in words)]
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not value or not value.isascii() or not value.isprintable():
            raise ValueError(f"--header {cut(name, 40)!r} is not a header; write it like --header 'cookie: session=…'")
    return headers


def run(url: str, channels: Mapping[str, str | None], headers: Sequence[tuple[str, str]] = ()) -> int:
    """Listen at `url` until the connection is closed or Ctrl-C is pressed, and return the exit code.

    `channels` are those to subscribe to, each with the position to continue from, or None. `headers` are sent with the
    handshake.
    """
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_listen(client.websocket_url(url), channels, headers))
    return 0


async def _listen(url: str, channels: Mapping[str, str | None], headers: Sequence[tuple[str, str]]) -> int:
    shown = mask_url(url)
    try:
        subprotocols = [client.Subprotocol(SUBPROTOCOL)] if channels else None
        connecting = client.connect(url, subprotocols=subprotocols, additional_headers=headers)
    except (InvalidURI, ValueError):
        complain(f"{shown!r} is not a WebSocket URL; one looks like ws://localhost:10125/ws")
        return 2
    try:
        socket = await connecting
    except (InvalidHandshake, OSError) as exc:
        advice = "; is the gateway running?" if isinstance(exc, ConnectionRefusedError) else ""
        complain(f"cannot connect to {shown}: {_reason_of(exc)}{advice}")
        return 1
    if channels and socket.subprotocol != SUBPROTOCOL:
        await socket.close()
        complain(f"{shown} does not accept {SUBPROTOCOL}, which --channel requires: add v1 to protocols of the gateway")
        return 1
    _report(f"connected to {shown}; every line that you type is sent, Ctrl-C ends")
    listening = _ChannelListening(socket, channels) if channels else _Listening(socket)
    sending = asyncio.create_task(_send_lines(listening))
    try:
        await listening.begin()
        async for message in socket:
            if not await listening.receive(message):
                break
    except ConnectionClosed:
        pass
    finally:
        sending.cancel()
        await socket.close()
    _report(f"closed with {socket.close_code} {socket.close_reason or ''}")
    return listening.exit_code


def _report(text: str) -> None:
    """Print a line that is not a message, to standard error."""
    print(escape_controls(text), file=sys.stderr, flush=True)


class _Listening:
    """Prints messages as they arrive."""

    exit_code = 0

    def __init__(self, socket: client.ClientConnection) -> None:
        self._socket = socket

    async def begin(self) -> None:
        """Send the requests to subscribe, if there are any."""

    async def receive(self, message: str | bytes) -> bool:
        """Print a message that has arrived. Return False if no more are expected."""
        if isinstance(message, bytes):
            message = f"binary, {len(message)} bytes: {message.hex()}"
        self._print(message)
        return True

    def _print(self, text: str) -> None:
        print(safe_for(sys.stdout, text) + "\n", end="", flush=True)  # one write, for a reader that reads lines

    async def send(self, line: str) -> None:
        await self._socket.send(line)


class _ChannelListening(_Listening):
    """Subscribes to channels, and prints publications with their positions."""

    def __init__(self, socket: client.ClientConnection, channels: Mapping[str, str | None]) -> None:
        super().__init__(socket)
        self._channels = channels
        self._subscribed_to: set[str] = set()
        self._refused: set[str] = set()

    async def begin(self) -> None:
        for channel, since in self._channels.items():
            await self._command({"subscribe": channel} | ({} if since is None else {"since": since}))

    async def receive(self, message: str | bytes) -> bool:
        try:
            received = json.loads(message)
        except (ValueError, RecursionError):
            received = None
        if not isinstance(received, dict):
            return await super().receive(message)
        if "message" in received or "base64" in received:
            self._print(_line_of(received))
        elif "subscribed" in received:
            self._subscribed(received)
        elif "refused" in received:
            return self._was_refused(received)
        elif "unsubscribed" in received:
            code, reason = received.get("code"), received.get("reason", "")
            _report(f"unsubscribed from {received['unsubscribed']} with {code} {reason}".rstrip())
            if code in range(LOST, 3000):
                await self._command({"subscribe": received["unsubscribed"]})
        elif "joined" in received or "left" in received:
            what = "joined" if "joined" in received else "left"
            member = received[what] if isinstance(received[what], dict) else {}
            _report(f"{member.get('user') or member.get('id')} {what} {received.get('channel')}")
        return True

    async def send(self, line: str) -> None:
        target = {"channel": next(iter(self._channels))} if len(self._channels) == 1 else {}
        await self._command({"message": line, **target})

    async def _command(self, command: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(command))

    def _subscribed(self, received: dict[str, Any]) -> None:
        channel, at = str(received["subscribed"]), received.get("at")
        self._subscribed_to.add(channel)
        since = self._channels.get(channel)
        _report(f"subscribed to {channel}" + (f" at {at}" if at else ""))
        if since is not None and not received.get("recovered"):
            _report(f"the publications to {channel} since {since} cannot be recovered; some messages are missing")
        if "reply" in received:
            self._print(f"[{channel}] reply: {json.dumps(received['reply'], ensure_ascii=False)}")

    def _was_refused(self, received: dict[str, Any]) -> bool:
        """Print a refusal. Return False if every channel was refused."""
        channel = str(received["refused"] or "")
        complain(f"refused{f' {channel}' if channel else ''}: {received.get('status')} {received.get('reason', '')}")
        if channel in self._channels and channel not in self._subscribed_to:  # else a message to it was refused
            self._refused.add(channel)
        if len(self._refused) < len(self._channels):
            return True
        self.exit_code = 1
        return False


def _line_of(received: dict[str, Any]) -> str:
    """Return the line for a message: its channel and position, and the text, or JSON if it is not text."""
    message = received["message"] if "message" in received else f"base64 {received['base64']}"
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    if "channel" not in received:
        return text
    at = f" {received['at']}" if "at" in received else ""
    return f"[{received['channel']}{at}] {text}"


def _reason_of(error: Exception) -> str:
    """Return why the connection failed. A redirect is not followed, so its target is named."""
    if isinstance(error, InvalidStatus):
        response = error.response
        status, target = response.status_code, response.headers.get("location", "")
        if target and 300 <= status <= 399:
            return f"the server answers {status} and redirects to {mask_url(target)}; give that URL if it is yours"
        if response.body and response.headers.get("content-type", "").startswith("text/plain"):
            sentence = " ".join(response.body.decode(errors="replace").split())
            return f"the server answers {status}: {cut(sentence, MAX_SENTENCE)}"
    return os.strerror(error.errno) if isinstance(error, ConnectionRefusedError) and error.errno else str(error)


async def _send_lines(listening: _Listening) -> None:
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        for line in read_lines():
            try:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            except RuntimeError:
                return  # the event loop is closed

    threading.Thread(target=read, daemon=True).start()  # a daemon, because a read of a terminal cannot be cancelled
    with contextlib.suppress(ConnectionClosed):
        while True:
            await listening.send(await lines.get())

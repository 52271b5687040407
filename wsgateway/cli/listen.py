"""The command `wsgateway listen`: prints what a WebSocket receives, and sends the lines of standard input."""

import asyncio
import contextlib
import sys
import threading

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from wsgateway import client
from wsgateway.cli.terminal import complain, read_lines, safe_for
from wsgateway.text import escape_controls, mask_url


def run(url: str) -> int:
    """Listen at `url` until the connection is closed or Ctrl-C is pressed, and return the exit code."""
    with contextlib.suppress(KeyboardInterrupt):
        return asyncio.run(_listen(client.websocket_url(url)))
    return 0


async def _listen(url: str) -> int:
    shown = mask_url(url)
    try:
        connecting = client.connect(url)
    except (InvalidURI, ValueError):
        complain(f"{shown!r} is not a WebSocket URL; one looks like ws://localhost:10125/ws")
        return 2
    try:
        socket = await connecting
    except (InvalidHandshake, OSError) as exc:
        complain(f"cannot connect to {shown}: {_reason_of(exc)}")
        return 1
    print(escape_controls(f"connected to {shown}; every line that you type is sent, Ctrl-C ends"), file=sys.stderr)
    sending = asyncio.create_task(_send_lines(socket))
    try:
        async for message in socket:
            if isinstance(message, bytes):
                message = f"binary, {len(message)} bytes: {message.hex()}"
            print(safe_for(sys.stdout, message) + "\n", end="", flush=True)  # one write, for a reader that reads lines
    except ConnectionClosed:
        pass
    finally:
        sending.cancel()
        await socket.close()
    print(f"closed with {socket.close_code} {escape_controls(socket.close_reason or '')}", file=sys.stderr)
    return 0


def _reason_of(error: Exception) -> str:
    """Return why the connection failed. A redirect is not followed, so its target is named."""
    if isinstance(error, InvalidStatus):
        status, target = error.response.status_code, error.response.headers.get("location", "")
        if target and 300 <= status <= 399:
            return f"the server answers {status} and redirects to {mask_url(target)}; give that URL if it is yours"
    return str(error)


async def _send_lines(socket: client.ClientConnection) -> None:
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
            await socket.send(await lines.get())

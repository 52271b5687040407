"""A load generator for features that wsfan lacks: TLS and compression.

Prints one line of JSON. The first connection publishes, and all clients count the frames that arrive. Only the server's
CPU is measured, so the speed of Python does not matter.
"""

import argparse
import asyncio
import json
import ssl
import time
from pathlib import Path


class Fan:
    """The totals of all clients."""

    def __init__(self) -> None:
        self.frames = 0
        self.bytes = 0


class Client(asyncio.Protocol):
    def __init__(self, fan: Fan, request: bytes) -> None:
        self.fan = fan
        self.request = request
        self.buffer = b""
        self.open = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # it is one
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open.done():
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.open.set_exception(RuntimeError(head.decode("latin-1")))
                return
            self.buffer = rest
            self.open.set_result(None)
        at = 0
        while len(self.buffer) - at >= 2:
            size, start = self.buffer[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(self.buffer[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(self.buffer[at + 2 : at + 10], "big"), at + 10
            if len(self.buffer) < start + size:
                break
            if self.buffer[at] & 0x0F < 3:
                self.fan.frames += 1
                self.fan.bytes += size
            at = start + size
        self.buffer = self.buffer[at:]

    def send(self, text: bytes) -> None:
        size = len(text)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self.transport.write(b"\x81" + length + b"\0\0\0\0" + text)  # a mask of zeros leaves the payload as it is


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that the threads of a process have used."""
    counters = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(counter.read_text().split()[0]) for counter in counters) / 1e9


async def run(options: argparse.Namespace) -> dict[str, float]:
    fan = Fan()
    loop = asyncio.get_running_loop()
    trusted = ssl.create_default_context(cafile=options.tls) if options.tls else None
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if options.deflate else ""
    request = (
        f"GET {options.path} HTTP/1.1\r\nHost: localhost:{options.port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Version: 13\r\n{offer}\r\n"
    ).encode()
    clients = []
    for _ in range(options.conns):
        _, client = await loop.create_connection(
            lambda: Client(fan, request),
            "127.0.0.1",
            options.port,
            ssl=trusted,
            server_hostname="localhost" if trusted else None,
        )
        await client.open
        clients.append(client)
    words = "the price of the thing has changed again: "
    text = (words * (options.size // len(words) + 1))[: options.size].encode()
    before = cpu_of(options.pid)
    for number in range(options.messages):
        clients[0].send(text)
        while fan.frames < (number + 1 - options.window) * options.conns:
            await asyncio.sleep(0)
    expected = options.messages * options.conns
    deadline = time.monotonic() + 60
    while fan.frames < expected and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    used = cpu_of(options.pid) - before
    for client in clients:
        client.transport.abort()
    return {
        "lost": expected - fan.frames,
        "server_cpu_us_per_delivery": round(used * 1e6 / max(1, fan.frames), 2),
        "bytes_per_message": round(fan.bytes / max(1, fan.frames)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="the server")
    parser.add_argument("--path", default="/")
    parser.add_argument("--conns", type=int, default=200)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024, help="bytes of a message, 65,535 at most")
    parser.add_argument("--window", type=int, default=4, help="messages on their way at the same time")
    parser.add_argument("--deflate", action="store_true", help="offer permessage-deflate")
    parser.add_argument("--tls", help="the certificate to trust, to connect over TLS")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()

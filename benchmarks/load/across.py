"""Clients of one node that receive what another one publishes. Prints what was measured as one line of JSON.

Both nodes run `node_listener.py`. Every client must receive every publication once and in order.
"""

import argparse
import asyncio
import json
import re
import statistics
import time
from typing import Any

import uvloop
from fan import cpu_of
from websockets.asyncio.client import connect

PUBLICATION = re.compile(rb"T=(\d{19}) (\d{9}) ")
TIMEOUT = 60.0


class Receiver(asyncio.Protocol):
    """A client that notes the number, the time of publishing, and the time of arrival of each publication."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._left = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.numbers: list[int] = []
        self.milliseconds: list[float] = []
        self.last = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # it is one
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        data, end = self._left + data, 0
        if not self.opened.done():
            head, separator, _ = data.partition(b"\r\n\r\n")
            if separator and head.startswith(b"HTTP/1.1 101"):
                self.opened.set_result(None)
            elif separator:
                self.opened.set_exception(RuntimeError(head.decode("latin-1")))
        for publication in PUBLICATION.finditer(data):
            self.numbers.append(int(publication[2]))
            self.milliseconds.append((now - int(publication[1])) / 1e6)
            self.last, end = now, publication.end()
        self._left = data[max(end, len(data) - 256) :]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(RuntimeError("the handshake was not answered"))

    def clear(self) -> None:
        self.numbers, self.milliseconds = [], []


async def connected(port: int, path: str) -> Receiver:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    _, receiver = await asyncio.get_running_loop().create_connection(lambda: Receiver(request), "127.0.0.1", port)
    await receiver.opened
    return receiver


async def publish(options: argparse.Namespace, receivers: list[Receiver], messages: int) -> dict[str, Any]:
    """Let the other node publish, wait until all have arrived, and return what the other node has measured."""
    for receiver in receivers:
        receiver.clear()
    command = {"do": "publish", "channel": options.channel, "messages": messages, "in_flight": options.in_flight}
    async with asyncio.timeout(TIMEOUT), connect(f"ws://127.0.0.1:{options.publisher}/ws", compression=None) as control:
        await control.send(json.dumps(command | {"pause": options.pause}))
        answer: dict[str, Any] = json.loads(await control.recv())
    deadline = time.monotonic() + TIMEOUT
    while any(len(receiver.numbers) < messages for receiver in receivers) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)  # a receiver is asked, and reports nothing itself
    return answer


async def run(options: argparse.Namespace) -> dict[str, float]:
    receivers = [await connected(options.port, options.path) for _ in range(options.clients)]
    await publish(options, receivers, max(options.in_flight, options.messages // 10))  # warms up
    pids = {"receiver": options.pid, "broker": options.broker_pid}
    before = {name: cpu_of(pid) for name, pid in pids.items() if pid}
    published = await publish(options, receivers, options.messages)
    await asyncio.sleep(0.1)  # in which a publication could arrive twice
    used = {f"{name}_us": (cpu_of(pids[name]) - cpu) * 1e6 / options.messages for name, cpu in before.items()}
    for receiver in receivers:
        receiver.transport.abort()
    wrong = sum(receiver.numbers != list(range(options.messages)) for receiver in receivers)
    milliseconds = [each for receiver in receivers for each in receiver.milliseconds]
    seconds = (max(receiver.last for receiver in receivers) - published["began"]) / 1e9
    return {
        "wrong": wrong,
        "published_per_s": options.messages / published["seconds"],
        "received_per_s": options.messages / seconds,
        "publisher_us": published["cpu"] * 1e6 / options.messages,
        "stored_p50": published["p50"],
        "p50": statistics.median(milliseconds) if milliseconds else 0.0,
        **used,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="the node with the clients")
    parser.add_argument("--pid", type=int, required=True, help="its process")
    parser.add_argument("--path", default="/ws?channel=kept", help="where its clients connect")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--publisher", type=int, required=True, help="the port of the node that publishes")
    parser.add_argument("--broker-pid", type=int, default=0, help="whose CPU is counted, too")
    parser.add_argument("--channel", default="kept")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--pause", type=float, help="seconds after each publication")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()

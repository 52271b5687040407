"""Other libraries under the profile of `wifi.py`: their servers, and clients that count what they lose."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from contenders import SERVERS, free_port, wait_until_it_listens
from scenarios import brokers
from scenarios.clients import RETRY
from scenarios.wires import PATIENCE, WebSocketWire, until
from wifi import CHANNELS, PAUSE, WORKERS, Away, Profile, Report, Server, rolling

BENCH = Path(__file__).parent.parent / ".venv-bench" / "bin" / "python"

APPS = {
    "socketio": ("socketio", "python_socketio_wifi:app"),
    "channels": ("channels_redis", "django_channels_wifi:app"),
}
"""For each peer, the package that it requires, and its application."""


def python_for(peer: str) -> str:
    """Return the Python that has the peer's package."""
    if find_spec(APPS[peer][0]) is not None:
        return sys.executable
    python = os.environ.get("PEER_PYTHON") or str(BENCH)
    if not Path(python).exists():
        sys.exit(f"{APPS[peer][0]} is not installed: run `make bench` once, or name a Python with it in PEER_PYTHON")
    return python


@contextmanager
def serving(peer: str) -> Iterator[tuple[Server, str]]:
    """Run a peer in three workers, and once more in a process that publishes only. Yield it, and the latter's URL."""
    with TemporaryDirectory(prefix="wifi") as folder, brokers.running("redis", Path(folder)) as broker:
        environment = {**os.environ, "BROKER": broker.url}
        started: list[tuple[subprocess.Popen[str], int]] = []
        try:
            for workers in (WORKERS, 1):
                port = free_port()
                command = [python_for(peer), "-m", "uvicorn", APPS[peer][1], "--port", str(port)]
                command += ["--log-level", "critical", *(["--workers", str(workers)] if workers > 1 else [])]
                process = subprocess.Popen(command, cwd=SERVERS, env=environment, text=True, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL)  # fmt: skip
                started.append((process, port))
                wait_until_it_listens(port, process)  # type: ignore[arg-type]
            (process, port), (_, publishing) = started
            yield Server(process, f"http://127.0.0.1:{port}", signal.SIGHUP), f"http://127.0.0.1:{publishing}"
        finally:
            for process, _ in started:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


class PeerClient:
    """A client of a peer in one channel, which it enters again after each reconnect. Its messages are numbers."""

    def __init__(self, peer: str, url: str, channel: str, rng: random.Random) -> None:
        self.peer = peer
        self.channel = channel
        self.last = self.received = self.lost = self.doubled = 0
        self.first = 0
        self.is_ready = False
        self.wire: WebSocketWire | None = None
        self._url = url
        self._rng = rng
        self._is_gone = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.acknowledged: asyncio.Event = asyncio.Event()

    async def join(self) -> None:
        self.come_back()
        await until(lambda: self.is_ready, f"a client does not enter {self.channel}")

    def leave(self) -> None:
        self._is_gone, self.is_ready = True, False
        if self.wire is not None:
            self.wire.abort()

    def come_back(self) -> None:
        self._is_gone = False
        if self.wire is None or not self.wire.is_open:
            task = asyncio.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        parts = urlsplit(self._url)
        path = "/socket.io/?EIO=4&transport=websocket" if self.peer == "socketio" else f"/ws/{self.channel}/"
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        wire = WebSocketWire(head.encode(), self._text, lambda code, reason: self._ended())
        try:
            async with asyncio.timeout(PATIENCE):
                self.wire = wire
                await asyncio.get_running_loop().create_connection(lambda: wire, parts.hostname, parts.port)
                await wire.opened
        except (OSError, TimeoutError):
            wire.abort()
            self._ended()

    def _ended(self) -> None:
        self.is_ready = False
        if not self._is_gone:
            asyncio.get_running_loop().call_later(RETRY * (0.1 + self._rng.random()), self._again)

    def _again(self) -> None:
        if not self._is_gone:
            self.come_back()

    def _text(self, text: str) -> None:
        assert self.wire is not None
        if self.peer == "socketio":
            self._event(text)
        elif text == "ready":
            self.is_ready = True
        elif text == "done":
            self.acknowledged.set()
        else:
            self._number(int(text))

    def _event(self, text: str) -> None:
        """Handle a packet of Engine.IO 4 and Socket.IO 5."""
        assert self.wire is not None
        if text.startswith("0"):
            self.wire.send("40")
        elif text == "2":
            self.wire.send("3")
        elif text.startswith("40"):
            self.wire.send(f'421["join",{json.dumps(self.channel)}]')
        elif text.startswith("431"):
            self.is_ready = True
        elif text.startswith("432"):
            self.acknowledged.set()
        elif text.startswith("42"):
            self._number(json.loads(text[2:])[1])

    def _number(self, number: int) -> None:
        self.received += 1
        if self.last == 0:
            self.first = number
        elif number <= self.last:
            self.doubled += 1
            return
        else:
            self.lost += number - self.last - 1
        self.last = number

    async def publish(self, channel: str, number: int) -> None:
        """Publish, and wait for the acknowledgement."""
        assert self.wire is not None
        self.acknowledged.clear()
        values = json.dumps([channel, number])
        self.wire.send(f'422["publish",{values}]' if self.peer == "socketio" else values)
        await asyncio.wait_for(self.acknowledged.wait(), PATIENCE)


async def run(peer: str, profile: Profile, server: Server, publishing_at: str) -> Report:
    """Run the profile against a peer."""
    rng = random.Random(profile.seed)
    clients = [PeerClient(peer, server.url, f"room-{number % CHANNELS}", rng) for number in range(profile.clients)]
    publisher = PeerClient(peer, publishing_at, "publisher", rng)
    await publisher.join()
    for start in range(0, len(clients), 50):
        await asyncio.gather(*[client.join() for client in clients[start : start + 50]])
    before = server.memory()
    over, published = asyncio.Event(), [0] * CHANNELS

    async def publish() -> None:
        number, begun = 0, time.monotonic()
        while not over.is_set():
            place = number % CHANNELS
            published[place] += 1
            await publisher.publish(f"room-{place}", published[place])
            number += 1
            # until the next message is due
            await asyncio.sleep(max(0.0, begun + number * PAUSE / CHANNELS - time.monotonic()))

    publishing = asyncio.create_task(publish())
    away = Away(clients, rng)  # type: ignore[arg-type]  # both kinds of clients leave and come back
    async with rolling(server, profile.roll):
        await asyncio.sleep(profile.minutes * 60)  # the length of the run
    await away.stop(clients)  # type: ignore[arg-type]
    over.set()
    await publishing
    await until(lambda: all(client.is_ready for client in clients), "clients do not return", seconds=60)
    for place in range(CHANNELS):
        published[place] += 1
        await publisher.publish(f"room-{place}", published[place])
    await asyncio.sleep(3)  # what arrives later than this is lost
    received, lost = sum(client.received for client in clients), sum(client.lost for client in clients)
    lost += sum(published[int(c.channel.rpartition("-")[2])] - c.last for c in clients)
    doubled = sum(client.doubled for client in clients)
    figures = (
        f"{sum(published)} published, {received} delivered, {away.cuts} times away, {server.rolls} rolls, "
        f"{lost} lost ({100 * lost / (received + lost):.1f} %), {doubled} doubled; "
        f"MiB {sum(before):.0f} before, {sum(server.memory()):.0f} after"
    )
    for client in [*clients, publisher]:
        client.leave()
    return Report(figures, [])

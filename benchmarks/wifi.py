"""`make soak ARGS="--wifi"`: clients on a bad network, and workers that are replaced, for ten minutes.

2,000 clients of three processes are each away for 2 s about every 15 s, while messages go to 20 channels, and all
workers are replaced once a minute. Every client has to receive every message once and in order, or to be notified.
With `--peer`, another library serves the same clients, and its lost and doubled messages are counted.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from scenarios import brokers
from scenarios.clients import Client
from scenarios.views import Ledger
from scenarios.wires import until

CHANNELS = 20
WORKERS = 3

EVERY = (10.0, 20.0)
"""Seconds that a client is connected."""

AWAY = 2.0
"""Seconds that a client is away."""

ROLL = 60.0
"""Seconds between two replacements of the workers."""

PAUSE = 1.0
"""Seconds between two messages of a channel."""

LISTENER = Path(__file__).parent / "scenarios" / "listener.py"
SETTINGS = '[channels."room:*"]\nhistory = 1000\n'


@dataclass(frozen=True)
class Profile:
    """The size of a run."""

    clients: int
    minutes: float
    seed: int
    roll: float = ROLL


@dataclass
class Report:
    """What happened. `wrong` is empty unless something was lost or doubled without a notification."""

    figures: str
    wrong: list[str]


class Server:
    """The processes that serve the clients."""

    def __init__(self, process: "subprocess.Popen[str]", url: str, roll_signal: int) -> None:
        self.process = process
        self.url = url
        self.rolls = 0
        self._roll_signal = roll_signal

    def roll(self) -> None:
        """Begin to replace the workers, one after the other."""
        self.rolls += 1
        self.process.send_signal(self._roll_signal)

    def memory(self) -> list[float]:
        """Return the MiB of each process: the first one is the parent."""
        return [_memory(pid) for pid in (self.process.pid, *_children(self.process.pid))]


def _memory(pid: int) -> float:
    with suppress(OSError, IndexError):  # it may end meanwhile
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
    return 0.0


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextmanager
def gateway(kind: str) -> Iterator[Server]:
    """Run `wsgateway serve` with three workers over the broker `kind`, on the first core."""
    with TemporaryDirectory(prefix="wifi") as folder, ExitStack() as stack:
        broker = stack.enter_context(brokers.running(kind, Path(folder)))
        (Path(folder) / "wsgateway.toml").write_text(SETTINGS)
        command = [*_pinned(), sys.executable, "-m", "wsgateway", "serve", "--port", "0", "--no-admin-enabled"]
        command += ["--workers", str(WORKERS), "--broker", broker.url, "--log-file", ""]
        command += ["--listener", f"{LISTENER}:Listener"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WSGATEWAY_")}
        with (Path(folder) / "stderr").open("w+") as stderr:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
            assert process.stdout is not None
            with process:
                try:
                    first = process.stdout.readline().strip()
                    if not first.rpartition(":")[2].isdigit():
                        raise RuntimeError(f"the gateway does not start: {Path(stderr.name).read_text()}")
                    yield Server(process, first.rpartition(" ")[2], signal.SIGUSR2)
                finally:
                    process.terminate()
                    try:
                        process.wait(60)
                    except subprocess.TimeoutExpired:
                        process.kill()


def _pinned() -> list[str]:
    """Return the beginning of a command that runs on the first core, while the load uses the last one."""
    return ["taskset", "-c", "0"] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []


class Caller:
    """Publishes by `POST /send` over one connection, again with the same `idempotency_key` until it is answered."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self._ledger = ledger
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.published = self.repeated = 0

    async def publish(self, channel: str) -> None:
        text = self._ledger.next_text(channel, "s")
        body = {"message": text, "channel": channel, "idempotency_key": text}
        for attempt in range(100):
            try:
                status, answer = await asyncio.wait_for(self._post(json.dumps(body).encode()), 10)
            except (OSError, EOFError, ValueError, TimeoutError):
                self.close()
                status = 0
            if status == 200:
                self._ledger.published(channel, answer["at"], text)
                self.published += 1
                self.repeated += attempt > 0
                return
            if status not in (0, 503):
                raise RuntimeError(f"/send is answered with {status}: {answer}")
            await asyncio.sleep(0.05)  # workers are replaced, which a caller is not told
        raise RuntimeError("/send is unavailable")

    async def _post(self, body: bytes) -> tuple[int, dict[str, str]]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = f"POST /send HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        answer = json.loads(await reader.readexactly(int(headers["content-length"])))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Away:
    """Cuts each client from time to time, and connects it again 2 s later."""

    def __init__(self, clients: list[Client], rng: random.Random) -> None:
        self.cuts = 0
        self._rng = rng
        self._tasks = [asyncio.create_task(self._run(client, rng.uniform(0, EVERY[1]))) for client in clients]

    async def _run(self, client: Client, first: float) -> None:
        await asyncio.sleep(first)  # clients begin at different moments
        while True:
            client.leave()
            self.cuts += 1
            await asyncio.sleep(AWAY)  # how long a client is away
            client.come_back()
            await asyncio.sleep(self._rng.uniform(*EVERY))  # how long a client is connected

    async def stop(self, clients: list[Client]) -> None:
        """Let every client stay connected from now on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for client in clients:
            client.come_back()


async def publish(caller: Caller, is_over: asyncio.Event) -> None:
    """Publish to every channel in turn, once in `PAUSE` seconds each."""
    number, begun = 0, time.monotonic()
    while not is_over.is_set():
        await caller.publish(f"room:{number % CHANNELS}")
        number += 1
        # until the next message is due
        await asyncio.sleep(max(0.0, begun + number * PAUSE / CHANNELS - time.monotonic()))


@asynccontextmanager
async def rolling(server: Server, every: float) -> AsyncIterator[None]:
    """Replace the workers from time to time."""

    async def roll() -> None:
        while True:
            await asyncio.sleep(every)  # the time between two rolls
            server.roll()

    task = asyncio.create_task(roll())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def run(profile: Profile, server: Server) -> Report:
    """Run the profile against a gateway."""
    rng, ledger = random.Random(profile.seed), Ledger()
    clients = [
        Client(ledger, lambda: server.url, f"room:{number % CHANNELS}", name=f"client {number}", stays=True, rng=rng)
        for number in range(profile.clients)
    ]
    for start in range(0, len(clients), 100):
        await asyncio.gather(*[client.join() for client in clients[start : start + 100]])
    before = server.memory()
    caller, is_over = Caller(server.url, ledger), asyncio.Event()
    publishing = asyncio.create_task(publish(caller, is_over))
    away = Away(clients, rng)
    async with rolling(server, profile.roll):
        await asyncio.sleep(profile.minutes * 60)  # the length of the run
    await away.stop(clients)
    is_over.set()
    await publishing
    for number in range(CHANNELS):
        await caller.publish(f"room:{number}")
    wrong = await _settle(clients)
    caller.close()
    report = _report(clients, caller, away, server, before, [*wrong, *ledger.mistakes])
    for client in clients:
        await client.aclose()
    return report


async def _settle(clients: list[Client]) -> list[str]:
    """Wait until every client has everything. Return what is missing."""

    def late() -> list[Client]:
        return [c for c in clients if not all(view.is_subscribed and view.is_current() for view in c.views.values())]

    try:
        await until(lambda: not late(), "", seconds=60)
    except TimeoutError:
        return [f"{len(late())} clients do not receive the last message, such as {late()[0].views}"]
    return []


def _report(
    clients: list[Client], caller: Caller, away: Away, server: Server, before: list[float], wrong: list[str]
) -> Report:
    views = [view for client in clients for view in client.views.values()]
    counts = {
        "published": caller.published,
        "published again after a failure": caller.repeated,
        "delivered": sum(view.received for view in views),
        "times away": away.cuts,
        "rolls": server.rolls,
        "recovered": sum(view.recovered for view in views),
        "told": sum(view.told for view in views),
        "lost silently or doubled": len(wrong),
    }
    figures = ", ".join(f"{count} {what}" for what, count in counts.items())
    return Report(f"{figures}; MiB {_shown(before)} before, {_shown(server.memory())} after", wrong)


def _shown(memory: list[float]) -> str:
    return " + ".join(f"{each:.0f}" for each in memory)

"""`make soak`: long load on this machine, to find lost or disordered messages, and growing times and memory.

Prints a line with figures for each row, and exits with 1 if anything was lost or a limit was exceeded. The server runs
on the first core, the load on the last; both use 127.0.0.1 only.

    make soak ARGS="--minutes 60"
    make soak ARGS="--rows crowd,large"
    make soak ARGS="--wifi"
    make soak ARGS="--wifi --peer socketio --minutes 2"
"""

import argparse
import asyncio
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wsgateway.cli.progress import Progress

LISTENER = Path(__file__).parent / "servers" / "soak_listener.py"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ASK_ID = b"\x81\x82\x00\x00\x00\x00id"

LINE_SECONDS = 15.0
"""Seconds between two lines about the progress of a row, where standard error is not a terminal."""

AT_ONCE = 200
"""Concurrent connects, in rows that do not measure a crowd."""

PATIENCE = 60.0
"""Seconds to wait for an event. After them, it counts as lost."""


@dataclass
class Tally:
    """The messages that the clients of one row have received. `latencies` are in seconds, if `is_timed`."""

    is_timed: bool = True
    received: int = 0
    disordered: int = 0
    dropped: int = 0
    latencies: list[float] = field(default_factory=list)

    def p99_ms(self) -> float:
        return sorted(self.latencies)[int(0.99 * (len(self.latencies) - 1))] * 1000 if self.latencies else 0.0


class Client(asyncio.Protocol):
    """A WebSocket that counts messages. Each begins with a number, one more than the previous one, and a time."""

    def __init__(self, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.id: asyncio.Future[str] = loop.create_future()
        self.transport: Any
        self._tally = tally
        self._rest = b""
        self.last: int | None = None
        self._is_open = False
        self._is_leaving = False

    def connection_made(self, transport: Any) -> None:  # uvloop's is not an asyncio.Transport
        self.transport = transport
        transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, length = 0, len(data)
        if not self._is_open:
            at = self._head(data)
        while self._is_open and length - at >= 2:
            size, start = data[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start])
            if start + size > length:
                break
            self._frame(data[at], data[start : start + size])
            at = start + size
        self._rest = data[at:]

    def _head(self, data: bytes) -> int:
        """Return the length of the response to the handshake in `data`; 0 if it is incomplete."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not data.startswith(b"HTTP/1.1 101 "):
            self.opened.set_exception(ConnectionError(data[:100]))
            self.transport.abort()
            return len(data)
        self._is_open = True
        self.opened.set_result(None)
        return end + 4

    def _frame(self, first: int, payload: bytes) -> None:
        if first == 0x89:
            self.transport.write(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
        elif first == 0x81 and payload[:1].isdigit() and b" " in payload[:60]:
            number, stamp, _ = payload[:60].split(b" ", 2)
            tally, last, self.last = self._tally, self.last, int(number)
            tally.received += 1
            tally.disordered += last is not None and self.last != last + 1
            if tally.is_timed:
                tally.latencies.append(time.monotonic() - float(stamp))
        elif first == 0x81:
            self.id.set_result(payload.decode())

    def leave(self) -> None:
        """Abort the connection without a close frame."""
        self._is_leaving = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(f"ended before it was open: {exc}"))
        elif not self._is_leaving:
            self._tally.dropped += 1


class Caller(asyncio.Protocol):
    """Posts to /send over one connection, without waiting for responses, so messages have the order of the calls."""

    def __init__(self) -> None:
        self.transport: Any
        self._answers: deque[asyncio.Future[None]] = deque()
        self._rest = b""

    def connection_made(self, transport: Any) -> None:  # uvloop's is not an asyncio.Transport
        self.transport = transport

    @property
    def is_behind(self) -> bool:
        """Return whether so many calls wait for responses that the server would refuse more."""
        return len(self._answers) > 500

    def post(self, number: int, *, to: str = "", size: int = 64) -> asyncio.Future[None]:
        """Push message `number` of `size` bytes, and return a future that is done once the response is 200."""
        message = f"{number} {time.monotonic():.6f} ".ljust(size, "x")
        body = json.dumps({"message": message, **({"connections": [to]} if to else {})}).encode()
        head = "POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        self.transport.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answers.append(future)
        return future

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"}")) >= 0:
            answer, self._rest = self._rest[: end + 1], self._rest[end + 1 :]
            future = self._answers.popleft()
            if answer.startswith(b"HTTP/1.1 200 "):
                future.set_result(None)
            else:
                future.set_exception(ConnectionError(answer[:300]))

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self._answers:
            future.set_exception(ConnectionError(f"/send hung up: {exc}"))


class Server:
    """`wsgateway serve` in a process of its own."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._proc = Path(f"/proc/{pid}")

    def memory(self, what: str = "VmRSS") -> float:
        """Return MiB; for `VmHWM`, the maximum since `forget_peak`."""
        return int((self._proc / "status").read_text().partition(what + ":")[2].split()[0]) / 1024

    def forget_peak(self) -> None:
        (self._proc / "clear_refs").write_text("5")  # proc(5)

    def cpu(self) -> float:
        """Return the seconds of CPU so far."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def client(self, tally: Tally, *, slow: bool = False) -> Client:
        """Return an open WebSocket. A `slow` one no longer reads."""
        sock = socket.socket()
        sock.setblocking(False)
        if slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", self.port))
        _, client = await loop.create_connection(lambda: Client(tally), sock=sock)
        async with asyncio.timeout(PATIENCE):
            await client.opened
        if slow:
            client.transport.pause_reading()
        return client

    async def clients(self, count: int, tally: Tally, *, at_once: int = AT_ONCE) -> list[Client]:
        """Return `count` open WebSockets."""
        room = asyncio.Semaphore(at_once)

        async def one() -> Client:
            async with room:
                return await self.client(tally)

        return await asyncio.gather(*[one() for _ in range(count)])

    async def caller(self) -> Caller:
        _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", self.port)
        return caller


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Run a server on the first core."""
    pinned = ["taskset", "-c", str(CORES[0])] if len(CORES) > 1 and shutil.which("taskset") else []
    command = [*pinned, sys.executable, "-m", "wsgateway", "serve", "--port", "0", "--no-admin-enabled"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WSGATEWAY_")}
    with TemporaryDirectory() as folder, (Path(folder) / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [*command, "--log-file", "", "--listener", f"{LISTENER}:Listener", *options],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert process.stdout is not None
        with process:
            try:
                first = process.stdout.readline().strip()
                if not first.rpartition(":")[2].isdigit():
                    raise RuntimeError(f"the server does not start: {Path(stderr.name).read_text()}")
                yield Server(int(first.rpartition(":")[2]), process.pid)
            finally:
                process.kill()


@dataclass(frozen=True)
class Result:
    """The outcome of a row: its figures, lost or disordered messages, and exceeded limits."""

    figures: str
    lost: str = ""
    missed: str = ""
    is_judged: bool = True


@dataclass(frozen=True)
class Plan:
    """The size and duration of the rows. `minutes` is for `churn`, and for `idle` up to ten."""

    minutes: float
    idle: int
    many: int
    crowd: int
    large: int
    churning: int
    seconds: int

    def seconds_of(self, row: str) -> float:
        """Return about how long `row` lasts."""
        return {"idle": min(self.minutes, IDLE) * 60, "churn": self.minutes * 60}.get(row, self.seconds)


FULL = Plan(minutes=2, idle=10_000, many=1000, crowd=5000, large=5000, churning=500, seconds=20)
SHORT = Plan(minutes=1 / 30, idle=500, many=200, crowd=500, large=100, churning=100, seconds=2)


async def paced(caller: Caller, rate: float, count: int, act: Callable[[int], object]) -> None:
    """Call `act`, which uses `caller`, with 0, 1, … `count - 1`, `rate` times per second, or as often as possible."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
        while caller.is_behind:
            await asyncio.sleep(0.001)
        act(number)


async def until(condition: Callable[[], bool]) -> bool:
    """Return whether `condition` becomes true within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def losses(tally: Tally, expected: int) -> str:
    """Return the losses in `tally` as text; empty without losses."""
    wrong = []
    if tally.received != expected:
        wrong.append(f"{expected - tally.received} of {expected} lost")
    if tally.disordered:
        wrong.append(f"{tally.disordered} out of order")
    if tally.dropped:
        wrong.append(f"{tally.dropped} clients dropped")
    return ", ".join(wrong)


def over(value: float, limit: float, what: str) -> str:
    return f"{what} {value:.1f}, at most {limit:g}" if value > limit else ""


def joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


IDLE = 10.0
"""Maximum minutes without messages."""


async def idle(plan: Plan) -> Result:
    """Measure sockets that only answer pings."""
    with serving() as server:
        tally = Tally()
        await (await server.clients(1, tally))[0].opened  # loads what is loaded once
        before = server.memory()
        await server.clients(plan.idle, tally)
        await asyncio.sleep(2)
        cpu, begun = server.cpu(), time.monotonic()
        await asyncio.sleep(min(plan.minutes, IDLE) * 60)
        percent = 100 * (server.cpu() - cpu) / (time.monotonic() - begun)
        each = (server.memory() - before) * 1024 / plan.idle
        return Result(
            f"{each:.1f} KiB each, CPU {percent:.1f} %, {tally.dropped} dropped",
            losses(tally, 0),
            joined(over(each, 20, "KiB each"), over(percent, 10, "CPU %")),
        )


async def _broadcast(clients: int, rate: int, seconds: int) -> Result:
    with serving() as server:
        tally = Tally()
        await server.clients(clients, tally)
        caller = await server.caller()
        answers: list[asyncio.Future[None]] = []
        await paced(caller, rate, rate * seconds, lambda number: answers.append(caller.post(number)))
        await asyncio.gather(*answers)
        return await _delivered(tally, clients * rate * seconds)


async def _delivered(tally: Tally, expected: int) -> Result:
    await until(lambda: tally.received >= expected)
    p99 = tally.p99_ms()
    lost = losses(tally, expected)
    return Result(f"{tally.received} delivered, p99 {p99:.1f} ms", lost, over(p99, 50, "p99 in ms"))


async def one(plan: Plan) -> Result:
    """Send 1,000 messages per second to one client."""
    return await _broadcast(1, 1000, plan.seconds)


async def many(plan: Plan) -> Result:
    """Send 10 messages per second to 1,000 clients."""
    return await _broadcast(plan.many, 10, plan.seconds)


async def spread(plan: Plan) -> Result:
    """Send 1,000 messages per second, each to the next of 1,000 clients."""
    rate = plan.many
    with serving() as server:
        tally = Tally()
        clients = await server.clients(plan.many, tally)
        for client in clients:
            client.transport.write(ASK_ID)
        ids = await asyncio.gather(*[client.id for client in clients])
        caller = await server.caller()
        answers: list[asyncio.Future[None]] = []

        def post(number: int) -> None:
            answers.append(caller.post(number // len(ids), to=ids[number % len(ids)]))

        await paced(caller, rate, rate * plan.seconds, post)
        await asyncio.gather(*answers)
        return await _delivered(tally, rate * plan.seconds)


async def crowd(plan: Plan) -> Result:
    """Abort all sockets at the same time, and reconnect all, while messages are pushed."""
    with serving() as server:
        tally = Tally()
        clients = await server.clients(plan.crowd, tally)
        caller, is_over = await server.caller(), asyncio.Event()
        took: list[float] = []

        async def push() -> None:
            while not is_over.is_set():
                begun = time.monotonic()
                await caller.post(len(took))
                took.append(time.monotonic() - begun)
                await asyncio.sleep(0.05)

        pushing = asyncio.create_task(push())
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        for client in clients:
            client.leave()
        back = await server.clients(plan.crowd, tally, at_once=plan.crowd)
        seconds = time.monotonic() - begun
        is_over.set()
        await pushing
        await caller.post(len(took))
        await until(lambda: all(client.last == len(took) for client in back))
        tally.received = 0  # from now on all are connected, and no message is on its way
        for number in range(10):
            await caller.post(len(took) + 1 + number)
        await until(lambda: tally.received >= 10 * len(back))
        return Result(
            f"all back after {seconds:.1f} s, /send at most {max(took) * 1000:.0f} ms",
            losses(tally, 10 * plan.crowd),
            joined(over(seconds, 30, "seconds"), over(max(took), 1, "/send took s")),
        )


async def large(plan: Plan) -> Result:
    """Send 64 KiB to all clients, of which one in a hundred does not read."""
    messages, slow = 20, plan.large // 100
    with serving() as server:
        tally = Tally()
        await server.clients(plan.large - slow, tally)
        for _ in range(slow):
            await server.client(Tally(), slow=True)
        caller = await server.caller()
        expected = 0
        before = server.memory()
        server.forget_peak()
        for number in range(messages):
            await caller.post(number, size=65536)
            expected += plan.large - slow
            await until(lambda: tally.received >= expected)  # noqa: B023  it is awaited before the next round
        grown = server.memory("VmHWM") - before
        return Result(
            f"{messages} messages, memory at most {grown:.1f} MiB more, for {slow} outboxes of 1 MiB",
            losses(tally, expected),
            over(grown, max(slow, 1), "MiB more"),
        )


WARM = 10.0
"""Minutes before the slope of memory is measured."""


async def churn(plan: Plan) -> Result:
    """Replace five of 500 sockets per second, while 100 messages per second are pushed."""
    with serving() as server:
        tally = Tally(is_timed=False)
        clients = deque(await server.clients(plan.churning, tally))
        caller = await server.caller()
        memory: list[tuple[float, float]] = []
        answers: deque[asyncio.Future[None]] = deque()
        replacing: set[asyncio.Task[None]] = set()

        async def exchange() -> None:
            clients.popleft().leave()
            clients.append(await server.client(tally))

        def tick(number: int) -> None:
            answers.append(caller.post(number))
            while answers and answers[0].done():
                answers.popleft().result()
            if number % 20 == 0:
                task = asyncio.create_task(exchange())
                replacing.add(task)
                task.add_done_callback(replacing.discard)
            if number % 100 == 0:
                memory.append((number / 100, server.memory()))

        count = int(plan.minutes * 60 * 100)
        await paced(caller, 100, count, tick)
        await asyncio.gather(*answers, *replacing)
        still = await _all_have(clients, count - 1)
        is_judged = plan.minutes >= 2 * WARM
        warm = WARM * 60 if is_judged else plan.minutes * 20
        growth = slope([(at, used) for at, used in memory if at >= warm]) * 3600
        tally.received = 0  # the number is unknown, but the order of each client shows that none is missing
        return Result(
            f"memory {memory[-1][1]:.1f} MiB, {growth:+.2f} MiB an hour",
            joined(losses(tally, 0), still),
            over(growth, 1, "MiB an hour"),
            is_judged,
        )


async def _all_have(clients: deque[Client], number: int) -> str:
    if await until(lambda: all(client.last in (number, None) for client in clients)):
        return ""
    return "the last message has not reached everybody"


def slope(points: list[tuple[float, float]]) -> float:
    """Return the slope of the line through `points`, by least squares."""
    if len(points) < 2:
        return 0.0
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread_x = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread_x


ROWS: dict[str, Callable[[Plan], Awaitable[Result]]] = {
    "idle": idle,
    "one": one,
    "many": many,
    "spread": spread,
    "crowd": crowd,
    "large": large,
    "churn": churn,
}


def prepare() -> None:
    """Raise the limit of open files, and use a core of our own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[-1]})


async def _show_progress(label: str, row: Awaitable[Any], seconds: float) -> Any:
    """Await `row`, and show the time that it has taken, of about `seconds`. Its setup and its end are not counted."""
    running = asyncio.ensure_future(row)
    begun = time.monotonic()
    try:
        with Progress(label, math.ceil(seconds), "s", line_seconds=LINE_SECONDS) as progress:
            while not running.done():
                progress.update(min(math.ceil(seconds), int(time.monotonic() - begun)))
                await asyncio.wait({running}, timeout=1)
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait({running})
    return running.result()


async def run(plan: Plan, rows: list[str], *, lenient: bool) -> bool:
    """Run and print `rows`. Return whether nothing was lost and, unless `lenient`, no limit was exceeded."""
    own = asyncio.current_task()
    assert own is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, own.cancel)  # so the server is stopped too
    passed = True
    for place, row in enumerate(rows):
        result = await _show_progress(f"row {place + 1} of {len(rows)}, {row}", ROWS[row](plan), plan.seconds_of(row))
        judged = not lenient and result.is_judged
        failed = bool(result.lost or (judged and result.missed))
        passed = passed and not failed
        verdict = "FAIL" if failed else "PASS" if judged else "no loss"
        print(f"{row:7} {verdict:8} {joined(result.figures, result.lost, result.missed)}", flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = f"minutes of churn, and of idle up to ten ({FULL.minutes:g}); with --wifi, of the run ({WIFI_MINUTES:g})"
    parser.add_argument("--minutes", type=float, help=text)
    parser.add_argument("--rows", default=",".join(ROWS), help="the rows to run (%(default)s)")
    parser.add_argument("--short", action="store_true", help="run small rows for seconds, and check only for losses")
    group = parser.add_argument_group("wifi", "channels over three processes, and clients on a bad network")
    group.add_argument("--wifi", action="store_true", help="run this instead of the rows")
    group.add_argument("--clients", type=int, default=2000, help="clients (%(default)s)")
    group.add_argument("--broker", choices=("ipc", "redis"), default="ipc", help="broker and history (%(default)s)")
    group.add_argument("--peer", choices=("socketio", "channels"), help="another library instead of wsgateway")
    group.add_argument("--seed", type=int, default=1, help="of the clients' times (%(default)s)")
    options = parser.parse_args()
    if options.wifi:
        return run_wifi(options)
    rows = options.rows.split(",")
    unknown = sorted(set(rows) - set(ROWS))
    if unknown:
        parser.error(f"--rows: there is no {', '.join(unknown)}, only {', '.join(ROWS)}")
    prepare()
    plan = SHORT if options.short else replace(FULL, minutes=options.minutes or FULL.minutes)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return 0 if runner.run(run(plan, rows, lenient=options.short)) else 1
        except asyncio.CancelledError:
            return 1


WIFI_MINUTES = 10.0


def run_wifi(options: argparse.Namespace) -> int:
    """Run the profile of a bad network. Return the exit code: 1 if a message was lost without a notification."""
    import peers  # loads what the rows do not need
    import wifi

    prepare()
    profile = wifi.Profile(options.clients, options.minutes or WIFI_MINUTES, options.seed)
    label, seconds = f"wifi {options.peer or options.broker}", profile.minutes * 60
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if options.peer:
            with peers.serving(options.peer) as (server, publishing_at):
                report = runner.run(
                    _show_progress(label, peers.run(options.peer, profile, server, publishing_at), seconds)
                )
        else:
            with wifi.gateway(options.broker) as server:
                report = runner.run(_show_progress(label, wifi.run(profile, server), seconds))
    verdict = "FAIL" if report.wrong else "counted" if options.peer else "PASS"
    print(f"wifi {verdict} {options.peer or options.broker}: {report.figures}")
    for text in report.wrong:
        print(f"  {text}")
    return 1 if report.wrong else 0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory if it is installed, so the load disturbs the measurement less."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())

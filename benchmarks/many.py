"""What channels over several processes cost: one round of each step of `make bench-brokers` about them."""

import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channel_tables import CHANNEL as PLAIN
from channel_tables import KEPT, MISSED, MORE, NEW, PATHS, V1, serving
from contenders import SERVE, SERVERS, SOCKET_IO, Server, running, uvicorn
from figures import Figures
from measure import ACROSS, COST, WSFAN, inside, loaded
from services import BOTH, Broker, broker
from websockets.sync.client import connect

MESSAGES = {1: 150, 4: 400, 16: 1500}
"""Messages of a figure, by how many are in flight. Each takes about 1.6 s of CPU."""

WITH_HISTORY = ("ipc", "redis")
ALL = (*WITH_HISTORY, "nats")
DJANGO = Server("Django Channels, channels_redis", uvicorn("django_channels_redis"), scale=0.02)
SOCKETIO = Server("python-socketio, a room, Redis manager", uvicorn("python_socketio_redis_rooms"), SOCKET_IO, 0.05)
OURS = "wsgateway, a channel, Redis"
HERE, ACROSS_NODES = "in the same process", "to another process"
MEMBERS = 10_000


@dataclass
class Round:
    """One round: the figures, and how much of the usual number of messages is measured."""

    figures: Figures
    scale: float = 1.0

    def number(self, usual: float, *, least: int = 10) -> int:
        return max(least, round(self.scale * usual))

    @contextlib.contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Report what fails as left out, so that all else is measured."""
        try:
            yield
        except Exception as exc:  # one contender must not end the run
            words = " ".join(f"{type(exc).__name__}: {exc}".split())
            self.figures.failed[f"{name}, round {self.figures.round + 1}"] = words[-300:]
            print(f"  left out: {name}: {exc}", flush=True)


def named(kind: str, label: str) -> str:
    """Return the row of a broker, with history or without."""
    return f"{kind}, history of 100" if label == KEPT else kind


def namespaces(on: Broker) -> Path:
    """Return the configuration file for a broker."""
    return SERVERS / ("channels_without_history.toml" if on.url.startswith("nats") else "channels.toml")


@contextlib.contextmanager
def node(on: Broker, *, cores: str = "0") -> Iterator[tuple[int, int]]:
    """Run a node with `node_listener.py`, and yield its port and process id."""
    listener = f"{SERVERS / 'node_listener.py'}:Listener"
    options = ("--config", namespaces(on), "--listener", listener, "--hook-timeout", 600, *on.options)
    with running(SERVE, "--no-admin-enabled", *options, cores=cores) as served:
        yield served


@contextlib.contextmanager
def commands(port: int) -> Iterator[Callable[..., dict[str, Any]]]:
    """Connect to a node, and yield a function that sends it a command and returns the answer."""
    with connect(f"ws://127.0.0.1:{port}/ws", compression=None) as client:

        def send(do: str, **arguments: object) -> dict[str, Any]:
            client.send(json.dumps({"do": do, **arguments}))
            answer: dict[str, Any] = json.loads(client.recv(timeout=120))
            return answer

        yield send


def fanned(run: Round, port: int, pid: int, *options: object, window: int, messages: int) -> dict[str, float]:
    """Return what wsfan has measured. Raise `RuntimeError` if a client did not receive exactly what it should."""
    count = run.number(messages, least=2 * window)
    sent = ("--window", window, "--messages", count, "--timeout", 60)
    figures = loaded(WSFAN, port, pid, *options, "--conns", 1000, *sent)
    if figures["wrong"] or figures["dead"]:
        raise RuntimeError(f"lost {figures['lost']:.0f} deliveries of {count} messages, {figures['dead']:.0f} clients")
    return figures


def channel(run: Round) -> None:
    """Measure the fan-out to 1,000 clients of one process in one channel, with each broker and without."""
    for kind in ("none", *ALL):
        for label in (PLAIN,) if kind == "nats" else (PLAIN, KEPT):
            row = named(kind, label)
            with run.trying(f"channel, {row}"), broker(kind) as on:
                with serving("Listener", "--config", namespaces(on), *on.options) as (port, pid):
                    path = ("--path", PATHS[label])
                    fanned(run, port, pid, *path, window=16, messages=300)  # warms up
                    for window, messages in MESSAGES.items():
                        figures = fanned(run, port, pid, *path, window=window, messages=messages)
                        run.figures.note("channel", row, str(window), figures[COST])
                        if window == 1:
                            run.figures.note("channel", row, "p50", figures["p50_ms"])


def others(run: Round) -> None:
    """Measure the groups and rooms of other libraries that send through Redis beside a channel, under the same load."""
    for server in (SERVE, DJANGO, SOCKETIO):
        name = OURS if server is SERVE else server.name
        with run.trying(f"others, {name}"), broker("redis") as on:
            os.environ["BROKER"] = on.url
            rows = {OURS: ("--path", PATHS[PLAIN]), f"{OURS}, history of 100": ("--path", PATHS[KEPT])}
            with serving("Listener", *on.options) if server is SERVE else running(server) as (port, pid):
                for row, options in rows.items() if server is SERVE else [(name, server.load)]:
                    for window in (1, 16):
                        count = run.number(MESSAGES[window] * server.scale, least=max(10, 2 * window))
                        load = ("--conns", 1000, "--window", window, "--messages", count, "--timeout", 60)
                        figures = loaded(WSFAN, port, pid, *options, *load)
                        run.figures.note("others", row, str(window), figures[COST])
                        if window == 1:
                            run.figures.note("others", row, "p50", figures["p50_ms"])
                        if figures["wrong"]:  # which is no reason to leave its figures out
                            lost = f"{figures['lost']:.0f} deliveries of {count} messages"
                            run.figures.failed[f"{row}, {window} in flight"] = f"it lost {lost}"


def publication(run: Round) -> None:
    """Measure the time from `gateway.publish` to a client of the same process, and of another one."""
    for kind in ALL:
        with run.trying(f"publication, {kind}"), broker(kind, is_apart=True) as on:
            with node(on) as (one, pid), node(on) as (two, _):
                for label, name in ((PLAIN, "x"), (KEPT, "kept")) if kind in WITH_HISTORY else ((PLAIN, "x"),):
                    row = named(kind, label)
                    for column, receiver in ((HERE, two), (ACROSS_NODES, one)):
                        options = ("--publisher", two, "--path", PATHS[label], "--channel", name, "--clients", 1)
                        count = run.number(300)
                        figures = loaded(ACROSS, receiver, pid, *options, "--messages", count, "--pause", 0.003)
                        _check(figures)
                        run.figures.note("publication", row, column, figures["p50"])
                    run.figures.note("publication", row, "stored", figures["stored_p50"])


def rate(run: Round) -> None:
    """Measure how many publications with history one process passes to two clients of another. All share both cores."""
    for kind in WITH_HISTORY:
        with run.trying(f"rate, {kind}"), broker(kind, cores=BOTH, is_apart=True) as on:
            with node(on, cores=BOTH) as (one, pid), node(on, cores=BOTH) as (two, _):
                options = ("--publisher", two, "--broker-pid", on.pid, "--in-flight", 1000)
                count = run.number(60_000, least=2000)
                figures = loaded(ACROSS, one, pid, *options, "--messages", count, cores=BOTH)
                _check(figures)
                for column in ("received_per_s", "published_per_s", "publisher_us", "receiver_us", "broker_us"):
                    run.figures.note("rate", kind, column, figures[column])


def _check(figures: dict[str, float]) -> None:
    if figures["wrong"]:
        raise RuntimeError(f"{figures['wrong']:.0f} clients did not receive every publication once and in order")


def topics(run: Round) -> None:
    """Measure the time until 20,000 new topics of one process are in force."""
    for kind in ALL:
        with run.trying(f"topics, {kind}"), broker(kind, is_apart=True) as on:
            figures = inside("topics.py", on.url, "--count", str(run.number(20_000, least=600)))
            run.figures.note("topics", kind, "seconds", figures["seconds"])
            run.figures.note("topics", kind, "longest", figures["longest_ms"])


def presence(run: Round) -> None:
    """Measure the list and the counts of 10,000 members, half of whom the process that asks has itself."""
    half = run.number(MEMBERS / 2)
    for kind in ALL:
        with run.trying(f"presence, {kind}"), broker(kind, is_apart=True) as on:
            with node(on) as (one, _), node(on) as (two, _), holding(one, half), holding(two, half):
                with commands(one) as send:
                    for do in ("members", "counts"):
                        answers = []
                        for _ in range(5):
                            time.sleep(0.6)  # else the answer of the other node is used again
                            answers.append(send(do, channel="x"))
                        if any(answer["count"] != 2 * half for answer in answers):
                            raise RuntimeError(f"not {2 * half} members: {answers}")
                        milliseconds = statistics.median(answer["ms"] for answer in answers[1:])
                        run.figures.note("presence", kind, do, milliseconds)


@contextlib.contextmanager
def holding(port: int, count: int, path: str = PATHS[PLAIN]) -> Iterator[None]:
    """Keep `count` clients connected to a node."""
    options = ("--path", path, "--conns", count, "--messages", 0, "--idle", 3600, "--timeout", 3600, "--srcs", 8)
    command = ["taskset", "-c", "1", *WSFAN, "--port", str(port), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with commands(port) as send:
                for _ in range(600):
                    if send("connections")["count"] > count:  # one of them asks
                        break
                    time.sleep(0.1)  # the node is asked, and reports nothing itself
                else:
                    raise RuntimeError(f"{count} clients have not connected in 60 s")
                time.sleep(0.5)  # in which their handshakes are over
            yield
        finally:
            process.kill()


def storm(run: Round) -> None:
    """Measure 2,000 clients that connect at the same time and subscribe, and recover 10 publications each or none.

    Each storm is on a channel that has no subscriber yet, so that the process has to read its history.
    """
    clients = run.number(2000)
    for kind in WITH_HISTORY:
        with run.trying(f"storm, {kind}"):
            costs = {}
            for label in (MISSED, NEW) if run.figures.round % 2 else (NEW, MISSED):
                with broker(kind, is_apart=True) as on, serving("AwayFromMany", *on.options) as (port, pid):
                    _storm(clients, port, pid, 0, label)  # warms up
                    before = on.reads()
                    costs[label] = statistics.median(_storm(clients, port, pid, number, label) for number in (1, 2, 3))
                    reads = (on.reads() - before) / 3
                run.figures.note("storm", kind, label, costs[label])
                run.figures.note("storm", kind, f"reads, {label}", reads)
            run.figures.note("storm", kind, MORE, costs[MISSED] - costs[NEW])


def _storm(clients: int, port: int, pid: int, number: int, label: str) -> float:
    """Return the CPU of the server for each client, in µs."""
    since, frames = (f"&since=kept:{number}@:10", 11) if label == MISSED else ("", 1)
    options = ("--path", f"/ws?channel=kept:{number}{since}", "--conns", clients, "--parallel", clients)
    figures = loaded(WSFAN, port, pid, *V1, *options, "--warm-frames", frames, "--messages", 0, "--srcs", 8)
    if figures["dead"] or figures["conns"] != clients:
        raise RuntimeError(f"clients did not recover: {figures}")
    time.sleep(0.5)  # in which the server sees the connections end
    return figures["connect_cpu_us"]


def silence(run: Round) -> None:
    """Count what a process receives of channels that have subscribers in another process only, or in none."""
    own = run.number(100)
    for kind in ALL:
        with run.trying(f"silence, {kind}"), broker(kind, is_apart=True) as on:
            names = ["room:{}", "kept:{}"] if kind in WITH_HISTORY else ["room:{}"]
            with node(on) as (one, _), node(on) as (two, _):
                subscribed = [holding(two, 1, f"/ws?channel={name.format(0)}") for name in names]
                with contextlib.ExitStack() as stack:
                    for clients in (holding(one, 1), *subscribed):
                        stack.enter_context(clients)
                    receiver, publisher = (stack.enter_context(commands(port)) for port in (one, two))
                    receiver("watch")
                    sent = run.number(5000)
                    for name in names:
                        publisher("publish", channel=name, channels=100, messages=sent, in_flight=1, pause=0)
                    publisher("publish", channel="x", messages=own, in_flight=1, pause=0)
                    for _ in range(100):
                        counts = receiver("watch")
                        mine = counts.pop("wsgateway.ch.default.x", 0)
                        if mine >= own:
                            break
                        time.sleep(0.05)  # the node is asked, and reports nothing itself
                    if mine != own:
                        raise RuntimeError(f"{mine} of {own} messages of the own channel arrived")
            for column, count in (("sent", sent * len(names)), ("foreign", sum(counts.values())), ("own", mine)):
                run.figures.note("silence", kind, column, count)

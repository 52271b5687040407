"""The tables of RESULTS.md about channels: what is measured for each of them in one round."""

import contextlib
import http.client
import os
import subprocess
import time
from collections.abc import Iterator

from contenders import LIMIT, SERVE, SERVERS, SOCKET_IO, Server, running, uvicorn
from measure import COST, SUBSCRIBE, WSFAN, Bench, Step, inside, loaded

WINDOWS = (1, 4, 16)
BROADCAST, CHANNEL, KEPT = "a broadcast", "one channel", "one channel, history of 100"
TOGETHER, ONE_BY_ONE = "100 in one iteration", "one in each iteration"
ALONE, BESIDE = "alone", "beside 10,000"
MISSED, NEW, MORE = "10 missed each", "nothing recovered", "difference"
WEBSOCKET, STREAM = "WebSocket", "Server-Sent Events"
PATHS = {BROADCAST: "/ws", CHANNEL: "/ws?channel=x", KEPT: "/ws?channel=kept"}
SHAPES = {
    "one": "one channel of 100,000",
    "ten": "ten channels each, of ten subscribers each",
    "each": "one channel each, alone in it",
}
OWN, SHARED, OWN_KEPT, SHARED_KEPT = (
    f"a channel {kind}{history}" for history in ("", ", history of 100") for kind in ("of its own", "with others")
)
TO_ONE, TO_NOBODY = "to one subscriber", "to no subscriber"
V1 = ("--ws-header", "Sec-WebSocket-Protocol: wsgateway.v1")
RATE = 50
"""Messages a second in the room whose latency is measured."""

DJANGO = Server("Django Channels, `group_send` in memory", uvicorn("django_channels"), scale=0.03)
SOCKETIO = Server("python-socketio, a room", uvicorn("python_socketio_rooms"), SOCKET_IO, 0.15)
LITESTAR = Server("Litestar channels, history of 100", uvicorn("litestar_history"), scale=0.2)
OTHERS = [DJANGO, SOCKETIO, LITESTAR]


def serving(listener: str, *extra: object) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """Run the gateway with the namespaces of the benchmark and a listener of `channel_listener.py`."""
    path = f"{SERVERS / 'channel_listener.py'}:{listener}"
    return running(SERVE, "--no-admin-enabled", "--config", SERVERS / "channels.toml", "--listener", path, *extra)


def fan_out(bench: Bench) -> None:
    """Measure the fan-out to 1,000 clients in one channel beside a broadcast, by the same process."""
    with serving("Listener") as (port, pid):
        for window in WINDOWS:
            for label in bench.in_turn(list(PATHS)):
                share = 0.2 if label == KEPT else 1.0
                key = ("channel", label, str(window))
                bench.fan(key, port, pid, "--path", PATHS[label], window=window, share=share)


def large(bench: Bench) -> None:
    for server in bench.in_turn([LIMIT, SERVE]):
        with running(LIMIT) if server is LIMIT else serving("Listener") as (port, pid):
            key = ("channel of 10,000", server.name, "cost")
            bench.fan(key, port, pid, "--path", PATHS[CHANNEL], "--conns", 10000, window=2)


def rooms(bench: Bench) -> None:
    """Measure 100 publications in one event loop iteration beside 100 in an iteration each, to the same channels."""
    for label in bench.in_turn([TOGETHER, ONE_BY_ONE]):
        with serving("Together" if label == TOGETHER else "OneByOne") as (port, pid):
            bench.fan(("rooms", label, "cost"), port, pid, "--path", "/ws", window=1, multiple=10)


def small_room(bench: Bench) -> None:
    """Measure the latency in a room of 10, alone and while 10,000 clients of another channel always receive."""
    hurried = ["chrt", "-f", "1", *WSFAN] if os.geteuid() == 0 else WSFAN  # else it waits for the other generator
    messages = max(50, round(RATE * bench.rate_seconds))
    for label in bench.in_turn([ALONE, BESIDE]):
        with serving("Listener") as (port, pid):
            with receiving(port) if label == BESIDE else contextlib.nullcontext():
                options = ("--path", PATHS[KEPT], "--conns", 10, "--rate", RATE, "--messages", messages)
                figures = loaded(hurried, port, pid, *options)
            if figures["wrong"] or figures["dead"]:
                raise RuntimeError(f"the room lost messages {label}: {figures}")
            for column in ("p50", "p99"):
                bench.figures.note("small room", label, column, figures[f"{column}_ms"])


@contextlib.contextmanager
def receiving(port: int) -> Iterator[None]:
    """Have 10,000 clients of the channel `x` receive without pause."""
    options = ("--path", PATHS[CHANNEL], "--conns", 10000, "--window", 2, "--messages", 10**6, "--timeout", 3600)
    command = ["taskset", "-c", "1", *WSFAN, "--port", str(port), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                if clients(port) >= 10000:
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError("the 10,000 clients have not connected in 30 s")
            time.sleep(2)  # in which they settle, and receive the first messages
            yield
            if process.poll() is not None:
                raise RuntimeError("the 10,000 clients did not receive until the end")
        finally:
            process.kill()


def clients(port: int) -> int:
    """Return the number of clients that are connected."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("wsgateway_connections{"))


def memory(bench: Bench) -> None:
    """Measure what 100,000 subscriptions of clients take, in process."""
    for shape, label in SHAPES.items():
        bench.figures.note("subscription", label, "bytes", inside("memory.py", shape)["bytes"])
        bench.figures.note("subscription", label, "process", inside("memory.py", shape, "--rss")["bytes"])


def subscribing(bench: Bench) -> None:
    """Measure subscribing and unsubscribing, in process and over `wsgateway.v1`."""
    measured = inside("calls.py", "subscribe")
    for label, call in ((OWN, "new"), (SHARED, "shared"), (OWN_KEPT, "new, kept"), (SHARED_KEPT, "shared, kept")):
        bench.figures.note("subscribe", label, "inside", measured[call])
    with serving("Listener") as (port, pid):
        for label, channel in ((OWN, "room:{}"), (SHARED, "x"), (OWN_KEPT, "kept:{}"), (SHARED_KEPT, "kept")):
            options = ("--channel", channel, "--pairs")
            cost = loaded(SUBSCRIBE, port, pid, *options, 2000)["server_cpu_us_per_pair"]
            pairs = round(0.2 * bench.cpu_seconds * 1e6 / cost)
            cost = loaded(SUBSCRIBE, port, pid, *options, pairs)["server_cpu_us_per_pair"]
            bench.figures.note("subscribe", label, "v1", cost)


def publishing(bench: Bench) -> None:
    """Measure `gateway.publish` in process, with and without history."""
    measured = inside("calls.py", "publish")
    for label, call in ((TO_ONE, "subscribed"), (TO_NOBODY, "nobody")):
        bench.figures.note("publish", label, "without", measured[call])
        bench.figures.note("publish", label, "with", measured[f"{call}, kept"])
        bench.figures.note("publish", label, "more", measured[f"{call}, kept"] - measured[call])


def reconnect(bench: Bench) -> None:
    """Measure 2,000 clients that connect at the same time and subscribe, and recover 10 publications each or none."""
    cost: dict[str, float] = {}
    with serving("Away") as (port, pid):
        for label in bench.in_turn([MISSED, NEW]):
            query, frames = ("&since=kept@:10", 11) if label == MISSED else ("", 1)
            used = count = 0.0
            while not count or used < 0.5 * bench.cpu_seconds * 1e6:
                options = ("--path", PATHS[KEPT] + query, "--conns", 2000, "--parallel", 2000, "--warm-frames", frames)
                figures = loaded(WSFAN, port, pid, *V1, *options, "--messages", 0, "--srcs", 8)
                if figures["dead"] or figures["conns"] != 2000:
                    raise RuntimeError(f"clients did not recover: {figures}")
                used += figures["connect_cpu_us"] * figures["conns"]
                count += figures["conns"]
                time.sleep(1)  # in which the server sees the connections end
            cost[label] = used / count
            bench.figures.note("reconnect", label, "cost", cost[label])
    bench.figures.note("reconnect", MORE, "cost", cost[MISSED] - cost[NEW])


def streams(bench: Bench) -> None:
    """Measure the fan-out to 1,000 streams beside that to 1,000 WebSockets, and what an idle stream takes."""
    options = {WEBSOCKET: (), STREAM: ("--sse", "/sse?channel=x")}
    for label in bench.in_turn([WEBSOCKET, STREAM]):
        with serving("Listener") as (port, pid):
            path = ("--path", PATHS[CHANNEL], *options[label])
            figures = loaded(WSFAN, port, pid, *path, "--conns", 5000, "--messages", 0, "--srcs", 8)
            if figures["dead"]:
                raise RuntimeError(f"{figures['dead']} connections were refused: {label}")
            bench.figures.note("streams", label, "memory", figures["kb_per_conn"])
            for window in WINDOWS:
                bench.fan(("streams", label, str(window)), port, pid, *path, window=window)


def others(bench: Bench) -> None:
    """Measure the groups, rooms, and channels of other libraries beside a channel, under the same load."""
    own = {f"{SERVE.name}, {label}": ("--path", PATHS[label]) for label in (CHANNEL, KEPT)}
    for server in bench.in_turn([SERVE, *OTHERS]):
        with serving("Listener") if server is SERVE else running(server) as (port, pid):
            for row, options in own.items() if server is SERVE else [(server.name, server.load)]:
                for window in WINDOWS:
                    messages = max(window, round(bench.messages * server.scale))
                    figures = loaded(WSFAN, port, pid, *options, "--window", window, "--messages", messages)
                    if figures["wrong"] or figures["dead"]:
                        raise RuntimeError(f"{row} lost messages or clients: {figures}")
                    bench.figures.note("channels of others", row, str(window), figures[COST])


CHANNEL_STEPS = {
    "channel": Step(fan_out, ("channel",)),
    "channel-10000": Step(large, ("channel of 10,000",)),
    "rooms": Step(rooms, ("rooms",)),
    "small-room": Step(small_room, ("small room",)),
    "subscription": Step(memory, ("subscription",), rounds=2),
    "subscribe": Step(subscribing, ("subscribe",)),
    "publish": Step(publishing, ("publish",)),
    "reconnect": Step(reconnect, ("reconnect",)),
    "streams": Step(streams, ("streams",)),
    "channels-of-others": Step(others, ("channels of others",), rounds=3),
}
"""The steps about channels, each of which has a target."""

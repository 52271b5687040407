"""The tables of RESULTS.md: what is measured for each of them in one round."""

import time
from pathlib import Path

from channel_tables import CHANNEL_STEPS
from contenders import BUILD, LIMIT, PLAIN, SERVE, SERVERS, SOCKETIFY, STARLETTE, WS, Server, running
from measure import COST, FAN, WSFAN, Bench, Step, loaded, posted

WINDOWS = (1, 4, 16)
SIZES = (64, 1024, 16384)
RATES = (10, 50, 100, 200, 400)
TARGETED = [LIMIT, SERVE, PLAIN, STARLETTE]
"""Servers whose fan-out of 64 bytes the targets compare."""
ALL, HALF = "all 1,000, a broadcast", "half of 1,000, named"
NONE_SLOW, ONE_SLOW = "none", "one"
NEVER_FULL = ("--outbox-bytes", 10**9, "--outbox-messages", 10**6, "--send-timeout", 3600)
"""Options of `wsgateway serve` with which a client that never reads stays connected, and congested."""


def fan_out(bench: Bench) -> None:
    """Measure the fan-out of 64 bytes to 1,000 clients, by the servers that the targets compare."""
    for server in bench.in_turn(TARGETED):
        with running(server) as (port, pid):
            for window in WINDOWS:
                share = 1.0 if server in (LIMIT, SERVE) or window == 1 else 0.2
                bench.fan(("fan-out 64", server.name, str(window)), port, pid, window=window, share=share)


def others(bench: Bench) -> None:
    """Measure the fan-out of the other servers, that of larger messages, and what a connection costs."""
    for server in bench.in_turn(bench.servers):
        if server.name in bench.figures.failed:
            continue
        try:
            with running(server) as (port, pid):
                _fan_out(bench, server, port, pid)
        except (RuntimeError, OSError) as exc:
            bench.figures.failed[server.name] = str(exc)
            print(f"  left out: {exc}")


def _fan_out(bench: Bench, server: Server, port: int, pid: int) -> None:
    figures = loaded(WSFAN, port, pid, *server.load, "--conns", 1000, "--messages", 0)
    bench.figures.note("idle 1000", server.name, "connect", figures["connect_cpu_us"])
    bench.figures.note("idle 1000", server.name, "memory", figures["kb_per_conn"])
    for size in SIZES:
        if size == 64 and server in TARGETED:
            continue
        messages = max(3, int(bench.messages * server.scale * {64: 1, 1024: 0.7, 16384: 0.15}[size]))
        for window in WINDOWS:
            options = (*server.load, "--size", size, "--window", window, "--messages", messages)
            table = "fan-out 64, others" if size == 64 else f"fan-out {size}"
            figures = loaded(WSFAN, port, pid, *options)
            if figures["wrong"]:
                raise RuntimeError(f"{figures['wrong']} clients received too little or too much")
            bench.figures.note(table, server.name, str(window), figures[COST])


def large(bench: Bench) -> None:
    for server in bench.in_turn([LIMIT, SERVE]):
        with running(server) as (port, pid):
            bench.fan(("10,000 clients", server.name, "cost"), port, pid, "--conns", 10000, window=2)


def echo_sender(bench: Bench) -> None:
    """Measure the fan-out with and without `echo_sender`; as many clients publish as messages are in flight."""
    for echoes in bench.in_turn([True, False]):
        with running(SERVE, "--echo-sender" if echoes else "--no-echo-sender") as (port, pid):
            options = () if echoes else ("--but-sender",)
            for window in WINDOWS:
                key = ("echo_sender", str(echoes).lower(), str(window))
                bench.fan(key, port, pid, "--senders", window, *options, window=window)
                if window > 1:
                    key = ("echo_sender", f"{str(echoes).lower()}, one sender", str(window))
                    bench.fan(key, port, pid, *options, window=window, share=0.2)


def slow_among_many(bench: Bench) -> None:
    """Measure a broadcast to 10,000 clients, of which none or one is congested for the whole time."""
    listener = f"{SERVERS / 'clogging_listener.py'}:Listener"
    for label in bench.in_turn([NONE_SLOW, ONE_SLOW]):
        with running(SERVE, "--listener", listener, *NEVER_FULL) as (port, pid):
            slow = ("--slow", 1, "--slow-text", "clog") if label == ONE_SLOW else ()
            key = ("slow among 10,000", label, "cost")
            figures = bench.fan(key, port, pid, "--path", "/ws", "--conns", 10000, *slow, window=1)
            if label == ONE_SLOW and not figures["slow_open"]:
                raise RuntimeError("the slow client was disconnected")
            bench.figures.note("slow among 10,000", label, "p99", figures["p99_ms"])


def named(bench: Bench) -> None:
    """Measure messages to recipients that a listener names, beside a broadcast by the same listener."""
    for label in bench.in_turn([ALL, HALF]):
        listener = f"{SERVERS / 'named_listener.py'}:{'Half' if label == HALF else 'Everybody'}"
        bystanders = ("--bystanders", "/ws/bystander") if label == HALF else ()
        with running(SERVE, "--listener", listener) as (port, pid):
            for window in WINDOWS:
                bench.fan(("named", label, str(window)), port, pid, "--path", "/ws", *bystanders, window=window)


def echo(bench: Bench) -> None:
    """Measure an echo under each Python, by a listener and by Starlette."""
    listener = ("--listener", f"{SERVERS / 'echo_listener.py'}:Listener")
    for folder in bench.in_turn(bench.pythons):
        for server, extra, path in bench.in_turn([(STARLETTE, (), "/echo"), (SERVE, listener, "/ws")]):
            own = server.under(folder, version_of(folder))
            with running(own, *extra) as (port, pid):
                options = ("--path", path, "--echo")
                loaded(WSFAN, port, pid, *options, "--messages", 30000, "--window", 200)  # warms up
                bench.fan(("echo", own.name, "cost"), port, pid, *options, window=200)


def version_of(folder: Path) -> str:
    """Return the version of the Python in `folder`, such as `3.13`."""
    return next(path.name for path in folder.iterdir() if path.name.startswith("python3.")).removeprefix("python")


def connect(bench: Bench) -> None:
    """Measure 5,000 handshakes, and repeat them until the server has used `cpu_seconds` for them."""
    for server in bench.in_turn([STARLETTE, SERVE]):
        with running(server) as (port, pid):
            used, connected = 0.0, 0.0
            while not connected or used < bench.cpu_seconds * 1e6:
                figures = loaded(WSFAN, port, pid, "--conns", 5000, "--srcs", 8, "--messages", 0)
                if not connected:
                    bench.figures.note("connect", server.name, "memory", figures["kb_per_conn"])
                used += figures["connect_cpu_us"] * figures["conns"]
                connected += figures["conns"]
                time.sleep(1)  # in which the server sees the connections end
            bench.figures.note("connect", server.name, "cost", used / connected)


def over_http(bench: Bench) -> None:
    extra = ("--path", "/ws", "--http", "/send", "--pre", '{"message":"', "--post", '"}')
    for window in (1, 16):
        for server, options in bench.in_turn([(LIMIT, ()), (SERVE, extra)]):
            with running(server) as (port, pid):
                own_window = 1 if server is LIMIT else window
                bench.fan(("send", server.name, str(window)), port, pid, *options, window=own_window)


def requests(bench: Bench) -> None:
    for server in bench.in_turn([STARLETTE, SERVE]):
        with running(server) as (port, pid):
            _, cost = posted(port, pid, 2000)
            rate, cost = posted(port, pid, int(bench.cpu_seconds * 1e6 / cost))
            bench.figures.note("requests", server.name, "rate", rate)
            bench.figures.note("requests", server.name, "cost", cost)


def idle(bench: Bench) -> None:
    """Measure the memory and the CPU of 10,000 connections on which only pings pass, and without pings."""
    for label, interval, seconds in (("25 s", 25, bench.idle_seconds), ("none", 86400, bench.idle_seconds * 0.4)):
        with running(SERVE, "--ping-interval", interval) as (port, pid):
            options = ("--conns", 10000, "--messages", 0, "--idle", round(max(1, seconds)))
            figures = loaded(WSFAN, port, pid, *options)
            bench.figures.note("idle", label, "memory", figures["kb_per_conn"])
            bench.figures.note("idle", label, "cpu", figures["idle_cpu_us_per_conn_s"])
            bench.figures.note("idle", label, "pings", figures["pings"] / figures["conns"])


def slow(bench: Bench) -> None:
    for label, count in bench.in_turn([("all read", 0), ("one never reads", 1)]):
        with running(SERVE) as (port, pid):
            options = ("--size", 1024, "--messages", bench.messages * 10, "--window", 4, "--slow", count)
            figures = loaded(WSFAN, port, pid, *options)
            bench.figures.note("slow", label, "p99", figures["p99_ms"])
            bench.figures.note("slow", label, "lost", figures["lost"])
            bench.figures.note("slow", label, "grown", figures["server_mb_after"] - figures["server_mb"])


def tls_and_compression(bench: Bench) -> None:
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    key, chain, root = (BUILD / name for name in ("key.pem", "chain.pem", "root.pem"))
    certificate.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    authority.cert_pem.write_to_path(root)
    tls = ("--ssl-keyfile", key, "--ssl-certfile", chain)
    for server, compressing in bench.in_turn([(SERVE, ("--compression",)), (STARLETTE, ())]):
        with running(server, *tls) as (port, pid):
            for window in WINDOWS:
                figures = loaded(FAN, port, pid, "--tls", root, "--window", window)
                bench.figures.note("TLS", server.name, str(window), figures[COST])
        with running(server, *compressing) as (port, pid):
            for window in WINDOWS:
                figures = loaded(FAN, port, pid, "--deflate", "--window", window, "--messages", 100)
                bench.figures.note("compression", server.name, str(window), figures[COST])
                bench.figures.note("compression", server.name, "bytes", figures["bytes_per_message"])


def latency(bench: Bench) -> None:
    """Measure latency over the rate of broadcasts, which are published when they are due, however late others are."""
    servers = [SERVE, *(server for server in (WS, SOCKETIFY) if server in bench.servers)]
    for server in bench.in_turn(servers):
        with running(server) as (port, pid):
            for rate in RATES:
                messages = max(2, round(rate * bench.rate_seconds))
                figures = loaded(WSFAN, port, pid, "--conns", 1000, "--rate", rate, "--messages", messages)
                if figures["wrong"]:
                    raise RuntimeError(f"{server.name} lost messages at {rate} a second: {figures}")
                for column in ("p50_ms", "p99_ms"):
                    bench.figures.note("latency", server.name, f"{rate} {column}", figures[column])
                bench.figures.note(
                    "latency", server.name, f"{rate} cpu", 100 * figures["server_cpu_s"] / figures["secs"]
                )
                bench.figures.note("latency", server.name, f"{rate} time", figures["secs"] * rate / messages)


def generator(bench: Bench) -> None:
    """Measure the load generator, which must not be the bottleneck."""
    for server in bench.in_turn([LIMIT, SERVE]):
        with running(server) as (port, pid):
            figures = loaded(WSFAN, port, pid, "--messages", 3000, "--window", 64)
            for column in ("deliveries_per_s", "client_cpu_us_per_delivery", COST):
                bench.figures.note("generator", server.name, column, figures[column])


TARGETS = {
    "fan-out": Step(fan_out, ("fan-out 64",)),
    "10000": Step(large, ("10,000 clients",)),
    "echo-sender": Step(echo_sender, ("echo_sender",)),
    "named": Step(named, ("named",)),
    "slow-10000": Step(slow_among_many, ("slow among 10,000",)),
    "echo": Step(echo, ("echo",)),
    "connect": Step(connect, ("connect",)),
    "over-http": Step(over_http, ("send",)),
    "requests": Step(requests, ("requests",)),
    "slow": Step(slow, ("slow",)),
    "idle": Step(idle, ("idle",), rounds=5),
    **CHANNEL_STEPS,
}
"""The steps that the targets need."""
STEPS = {
    **TARGETS,
    "others": Step(others, ("idle 1000", "fan-out 64, others", "fan-out 1024", "fan-out 16384"), rounds=3),
    "tls": Step(tls_and_compression, ("TLS", "compression"), rounds=3),
    "latency": Step(latency, ("latency",), rounds=3),
    "generator": Step(generator, ("generator",), rounds=1),
}


GROUPS = {"targets": TARGETS, "channels": CHANNEL_STEPS}
"""Names that stand for several steps."""


def chosen(names: str) -> dict[str, Step]:
    """Return the steps of a list such as `echo,connect`, where a name of `GROUPS` stands for all of its steps."""
    found: dict[str, Step] = {}
    for name in names.split(",") if names else STEPS:
        if name not in GROUPS and name not in STEPS:
            raise ValueError(f"{name!r} is not one of: {', '.join([*GROUPS, *STEPS])}")
        found |= GROUPS[name] if name in GROUPS else {name: STEPS[name]}
    return found

"""Writes RESULTS.md from what was measured."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from figures import Figures
from measure import COST
from tables import RATES, SIZES, WINDOWS
from targets import against_targets

PACKAGES = ("wsgateway", "uvicorn", "uvloop", "httptools", "websockets", "starlette", "python-socketio", "litestar",
            "channels", "django", "socketify")  # fmt: skip
COLUMNS = [str(window) for window in WINDOWS]


def shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def parts_of(figures: Figures, name: str) -> list[str]:
    """Return the tables named `name`, or `name` with a comma behind it."""
    return sorted({found for found, _, _ in figures.found if f"{found}, ".startswith(f"{name}, ")})


def table(figures: Figures, name: str, columns: list[str], heads: list[str], first: str) -> list[str]:
    """Return the medians of the table `name`, and of those whose names begin with `name` and a comma."""
    lines = [f"| {first} | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for part in parts_of(figures, name):
        for row in figures.rows(part):
            lines += [f"| {row} | " + " | ".join(shown(figures.median(part, row, column)) for column in columns) + " |"]
    return [*lines, ""]


@dataclass(frozen=True)
class Section:
    """One table of the report. `columns` are those of the figures, `heads` what is written above them."""

    heading: str
    table: str
    columns: list[str]
    heads: list[str]
    first: str = "server"
    text: str = ""


CHANNEL_SECTIONS = [
    Section(
        "One channel, 1,000 clients, 1, 4, and 16 in flight",
        "channel",
        COLUMNS,
        COLUMNS,
        "sent to",
        "Plain clients at `/ws?channel=x`, and the same listener and process for all rows. The sender receives, too.",
    ),
    Section("10,000 in one channel, 2 in flight", "channel of 10,000", ["cost"], ["µs per delivery"]),
    Section(
        "1,000 channels, of which each of 1,000 clients has ten",
        "rooms",
        ["cost"],
        ["µs per delivery"],
        "publications",
        "A message is published to 100 channels of ten clients each: in one event loop iteration, where a client gets "
        "all that it receives with one write, or in an iteration for each.",
    ),
    Section(
        "A room of 10, alone and while 10,000 in another channel receive without pause",
        "small room",
        ["p50", "p99"],
        ["p50, ms", "p99, ms"],
        "",
        "The room receives 50 messages per second, on schedule, while 2 are always in flight to the 10,000. The room's "
        "load generator has its core before the other one, if it may (as root).",
    ),
    Section(
        "Memory of a subscription, of 100,000",
        "subscription",
        ["bytes", "process"],
        ["bytes, by tracemalloc", "bytes, of the process (RSS)"],
        "subscriptions",
        "Measured in one process, with connections that have no sockets. The figures include the channels and their "
        "names, but not the connections. The memory of the process (RSS) is larger, because a dict that grows frees "
        "its old table, and the process keeps that memory.",
    ),
    Section(
        "Subscribe and unsubscribe",
        "subscribe",
        ["inside", "v1"],
        ["in process, µs", "over `wsgateway.v1`, µs"],
        "channel",
        "CPU for both together. In process, `conn.subscribe` and `conn.unsubscribe` of a connection without a socket. "
        "Over `wsgateway.v1`, two commands and their answers, of which each is a frame of its own.",
    ),
    Section(
        "`gateway.publish`",
        "publish",
        ["without", "with", "more"],
        ["without history, µs", "with a history of 100, µs", "difference, µs"],
        "",
        "CPU of one call, in process, including the write to a connection without a socket.",
    ),
    Section(
        "2,000 clients of `wsgateway.v1` reconnect at the same time",
        "reconnect",
        ["cost"],
        ["server CPU of a client, µs"],
        "each client",
        "From the TCP connect until the last frame has arrived. Clients with `since` recover 10 publications of 64 "
        "bytes from the channel's history in memory; the others subscribe to the same channel without `since`.",
    ),
    Section(
        "Streams: `GET /sse?channel=x`, 1, 4, and 16 in flight",
        "streams",
        [*COLUMNS, "memory"],
        [*COLUMNS, "KB of an idle one of 5,000"],
        "999 of 1,000 clients",
        "One client is a WebSocket. It publishes.",
    ),
    Section(
        "Channels, groups, and rooms of other libraries, 1,000 clients, 64 bytes, 1, 4, and 16 in flight",
        "channels of others",
        COLUMNS,
        COLUMNS,
        text="All in one process, in memory, on uvicorn except wsgateway. With 1 in flight, a delivery costs at least "
        "a system call, which is what limit takes.",
    ),
]
SECTIONS = [
    *(
        Section(f"Fan-out, {size:,} bytes, 1, 4, and 16 in flight", f"fan-out {size}", COLUMNS, COLUMNS)
        for size in SIZES
    ),
    Section("To 10,000 clients, 2 in flight", "10,000 clients", ["cost"], ["µs per delivery"]),
    Section(
        "With and without `echo_sender`, 1, 4, and 16 in flight",
        "echo_sender",
        COLUMNS,
        COLUMNS,
        "`echo_sender`",
        "As many clients publish in turn as messages are in flight, unless the row says *one sender*. With "
        "`echo_sender = false` a message goes to 999.",
    ),
    Section(
        "Recipients named by the listener, 1, 4, and 16 in flight",
        "named",
        COLUMNS,
        COLUMNS,
        "recipients",
        "The listener sets `event.connections` to a new list for each message. The benchmark checks that the other "
        "half receives nothing.",
    ),
    Section(
        "One slow client among 10,000, 1 in flight",
        "slow among 10,000",
        ["cost", "p99"],
        ["µs per delivery", "p99 of the others, ms"],
        "slow clients",
        "The slow client does not read the 8 MB that it was sent, and stays connected. Its outbox keeps everything "
        "that follows.",
    ),
    Section(
        "One client of 1,000 never reads (1 KB, 4 in flight)",
        "slow",
        ["p99", "lost", "grown"],
        ["p99 of the others, ms", "lost", "MB grown"],
        "",
    ),
    Section("Echo, 200 in flight", "echo", ["cost"], ["µs per round trip"], "server, Python"),
    Section(
        "Connect: 5,000 clients, 128 handshakes at a time",
        "connect",
        ["cost", "memory"],
        ["µs per connect", "KB per connection"],
    ),
    Section("Connect: 1,000 clients", "idle 1000", ["connect", "memory"], ["µs per connect", "KB per connection"]),
    Section(
        "10,000 idle connections",
        "idle",
        ["memory", "cpu", "pings"],
        ["KB per connection", "CPU of a connection, µs per second", "pings to each"],
        "`ping_interval`",
        "Only pings and pongs are exchanged. The CPU is that of the whole server.",
    ),
    Section("Published over `POST /send`, 1 and 16 in flight", "send", ["1", "16"], ["1", "16"]),
    Section("`POST /send` without clients", "requests", ["rate", "cost"], ["requests per second", "server CPU, µs"]),
    *CHANNEL_SECTIONS,
    Section("TLS, 200 clients, 1 KB", "TLS", COLUMNS, COLUMNS),
    Section(
        "Compression, 200 clients, 1 KB of text",
        "compression",
        [*COLUMNS, "bytes"],
        [*COLUMNS, "bytes per message"],
    ),
    Section(
        "The load generator, 64 in flight",
        "generator",
        ["deliveries_per_s", "client_cpu_us_per_delivery", COST],
        ["deliveries per second", "its own CPU, µs", "server CPU, µs"],
        text="What one core of the load generator can receive. If each delivery is a packet, the kernel is the limit.",
    ),
]


def latency(figures: Figures, seconds: float) -> list[str]:
    lines = [
        "## Latency over rate, 1,000 clients, 64 bytes",
        "",
        "![latency](latency.svg)",
        "",
        (
            "Messages are published on schedule, even if earlier ones are late. Latency is the time since a message "
            "was due. p50 and p99 in ms, and server CPU in %. If a server cannot keep up, latency grows for as long as "
            f"the rate lasts, here {seconds:g} s. Such figures are in brackets. "
            "The load generator itself receives at most about 200 broadcasts per second in separate packets."
        ),
        "",
        "| server | " + " | ".join(f"{rate} per second" for rate in RATES) + " |",
        "|---|" + "---|" * len(RATES),
    ]
    for row in figures.rows("latency"):
        cells = []
        for rate in RATES:
            p50, p99, cpu = (figures.median("latency", row, f"{rate} {name}") for name in ("p50_ms", "p99_ms", "cpu"))
            cell = f"{shown(p50)} / {shown(p99)}, {shown(cpu)} %"
            cells.append(f"({cell})" if is_overloaded(figures, row, rate) else cell)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def is_overloaded(figures: Figures, row: str, rate: int) -> bool:
    """Return whether the messages of `rate` took notably longer than their schedule."""
    return (figures.median("latency", row, f"{rate} time") or 0) > 1.1


def report(figures: Figures, *, cpu_seconds: float, rate_seconds: float, note: str) -> str:
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := installed(name)))
    node = f", Node {node_version()}" if node_version() else ""
    python = f"Python {platform.python_version()}{f' ({note})' if note else ''}"
    rounds = max((len(values) for values in figures.found.values()), default=0)
    lines = [
        "# Results",
        "",
        (
            "Written by `make bench`; do not edit. Server CPU in µs for each delivery; medians of up to "
            f"{rounds} rounds in which the servers alternate, 1,000 clients, server and load on one core each. "
            "Absolute figures differ from one machine to the next; ratios differ little."
        ),
        "",
        f"{date.today().isoformat()}, {machine()}, {python}; {versions}{node}.",  # noqa: DTZ011
        "",
        "![fan-out](fan-out.svg)",
        "",
    ]
    if compared := against_targets(figures):
        lines += [
            "## Against the targets",
            "",
            (
                "*A, by B* is the figure of A divided by that of B in the same round. The columns show the median of "
                "these ratios, the lowest, and the highest. A server uses about "
                f"{cpu_seconds:g} s of CPU for each figure of a round. A limit is missed if every round is beyond it; "
                "*within the spread* means that the median is, but not every round."
            ),
            "",
            *compared,
        ]
    for section in SECTIONS:
        if parts_of(figures, section.table):
            lines += [f"## {section.heading}", "", *([section.text, ""] if section.text else [])]
            lines += table(figures, section.table, section.columns, section.heads, section.first)
    if figures.rows("latency"):
        lines += latency(figures, rate_seconds)
    lines += [f"Left out: {name}, {reason}" for name, reason in figures.failed.items()]
    return "\n".join(lines).rstrip() + "\n"


def installed(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return ""


def node_version() -> str:
    if not shutil.which("node"):
        return ""
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def machine() -> str:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())  # fmt: skip
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release()}"

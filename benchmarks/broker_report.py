"""Writes BROKERS.md from what was measured."""

import platform
import statistics
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version

from channel_tables import KEPT, MISSED, MORE, NEW
from figures import Figures, Key
from many import ACROSS_NODES, ALL, DJANGO, HERE, MEMBERS, MESSAGES, OURS, SOCKETIO, WITH_HISTORY, named
from report import Section, machine, shown, table

PACKAGES = (
    "wsgateway",
    "uvicorn",
    "uvloop",
    "redis",
    "hiredis",
    "nats-py",
    "pyzmq",
    "channels-redis",
    "python-socketio",
)
COLUMNS = [str(window) for window in MESSAGES]
TOPIC_LIMITS = {"ipc": 0.3, "redis": 0.5, "nats": 3.0}

SECTIONS = [
    Section("Broadcasts to 1,000 clients, 1, 4, and 16 messages in flight", "fan-out", COLUMNS, COLUMNS, "broker"),
    Section(
        "One channel, 1,000 clients, 1, 4, and 16 messages in flight",
        "channel",
        [*COLUMNS, "p50"],
        [*COLUMNS, "p50 of 1, ms"],
        "broker",
        "A client of the process publishes. With a history, the publication is stored first, and then received from "
        "the broker.",
    ),
    Section(
        "Groups and rooms of others, 1,000 clients, through Redis",
        "others",
        ["1", "16", "p50"],
        ["1", "16", "p50 of 1, ms"],
        text="The same load: 1 and 16 messages in flight.",
    ),
    Section(
        "From `gateway.publish` to a client, p50 in ms",
        "publication",
        [HERE, ACROSS_NODES, "stored"],
        [HERE, ACROSS_NODES, "until `publish` returns"],
        "broker",
        "The application publishes one message at a time, every 3 ms.",
    ),
    Section(
        "From `POST /send` to a client, ms",
        "latency",
        ["inside p50", "across p50", "inside p99", "across p99"],
        ["in one process, p50", "in another, p50", "in one, p99", "in another, p99"],
        "broker",
    ),
    Section(
        "Publications with history of one process",
        "rate",
        ["published_per_s", "received_per_s", "publisher_us", "receiver_us", "broker_us"],
        ["stored per second", "received per second", "CPU of the publisher, µs", "of the receiver", "of the broker"],
        "broker",
        "1,000 publications are in flight. Two clients of another process receive each of them once and in order. Both "
        "processes, the broker, and the clients share both cores.",
    ),
    Section(
        "20,000 new topics of one process",
        "topics",
        ["seconds", "longest"],
        ["in force after, s", "longest iteration of the event loop, ms"],
        "broker",
    ),
    Section(
        f"Presence of {MEMBERS:,} members, half of them in the process that asks, ms",
        "presence",
        ["members", "counts"],
        ["list", "counts"],
        "broker",
    ),
    Section(
        "2,000 clients that connect at the same time, CPU for each in µs",
        "storm",
        [MISSED, NEW, MORE, f"reads, {MISSED}", f"reads, {NEW}"],
        [MISSED, NEW, MORE, "reads of the store per channel", f"the same, {NEW}"],
        "broker",
        "The channel had no subscribers before, so its history must be read.",
    ),
    Section(
        "Messages of channels without subscribers in the process",
        "silence",
        ["sent", "foreign", "own"],
        ["published to such channels", "received of them", "received of the own channel, of 100"],
        "broker",
    ),
]


@dataclass(frozen=True)
class Target:
    """A figure of a step, or its ratio or difference to another one, and its limit."""

    step: str
    what: str
    above: Key
    limit: float
    below: Key | None = None
    is_difference: bool = False
    is_least: bool = False

    def value(self, figures: Figures) -> float | None:
        if self.below is None:
            return figures.median(*self.above)
        if self.is_difference:
            first, second = figures.median(*self.above), figures.median(*self.below)
            return None if first is None or second is None else first - second
        ratios = figures.ratios(self.above, self.below)
        return statistics.median(ratios) if ratios else None


def by_none(step: str, row: str, limit: float, without: str = "none") -> Target:
    what = f"{step} through {row}, 16 in flight, by the same without a broker"
    return Target(step, what, (step, row, "16"), limit, (step, without, "16"))


def more(kind: str, column: str) -> Target:
    what = f"publication through {kind}, {column}, p50, ms more with history"
    above, below = ("publication", named(kind, KEPT), column), ("publication", kind, column)
    return Target("publication", what, above, 1.0, below, is_difference=True)


def cost_targets() -> list[Target]:
    """Return the targets of what a broker costs each message."""
    return [
        by_none("fan-out", "redis", 1.3),
        *(
            Target("latency", f"`/send` to a client of another process through {kind}, p50, ms more than inside",
                   ("latency", kind, "across p50"), 1.5, ("latency", kind, "inside p50"), is_difference=True)
            for kind in ALL
        ),
        by_none("channel", "redis", 1.1),
        by_none("channel", named("redis", KEPT), 1.1, named("none", KEPT)),
        *(more(kind, column) for kind in WITH_HISTORY for column in (HERE, ACROSS_NODES)),
        *(
            Target("rate", f"publications with history per second through {kind}", ("rate", kind, "received_per_s"),
                   15_000, is_least=True)
            for kind in WITH_HISTORY
        ),
        *(
            Target("others", f"{server.name}, {window} in flight, by wsgateway", ("others", server.name, window), 10,
                   ("others", OURS, window), is_least=True)
            for server in (DJANGO, SOCKETIO)
            for window in ("1", "16")
        ),
    ]  # fmt: skip


def cluster_targets() -> list[Target]:
    """Return the targets of what processes do together."""
    return [
        *(
            Target("topics", f"20,000 new topics in force through {kind}, s", ("topics", kind, "seconds"), limit)
            for kind, limit in TOPIC_LIMITS.items()
        ),
        *(
            Target("presence", f"{what} of 10,000 in two processes through {kind}, ms", ("presence", kind, do), limit)
            for kind in ALL
            for what, do, limit in (("list", "members", 100), ("counts", "counts", 40))
        ),
        *(
            Target("storm", f"2,000 clients back at once through {kind}, {what}", ("storm", kind, column), limit)
            for kind in WITH_HISTORY
            for what, column, limit in (
                ("10 missed each, more than without, µs", MORE, 150),
                ("reads of the store per channel", f"reads, {MISSED}", 1),
            )
        ),
        *(
            Target("silence", f"messages of channels without subscribers in the process through {kind}",
                   ("silence", kind, "foreign"), 0)
            for kind in ALL
        ),
    ]  # fmt: skip


def against_targets(figures: Figures) -> list[str]:
    lines = ["| what | measured | target | `--only` |", "|---|---|---|---|"]
    for target in [*cost_targets(), *cluster_targets()]:
        value = target.value(figures)
        if value is None and not figures.rows(target.step):
            continue
        is_missed = value is None or (value < target.limit if target.is_least else value > target.limit)
        limit = f"at {'least' if target.is_least else 'most'} {target.limit:,g}"
        measured = f"{shown(value) or 'nothing'}{' (missed)' if is_missed else ''}"
        lines.append(f"| {target.what} | {measured} | {limit} | {target.step} |")
    return [*lines, ""]


def report(figures: Figures) -> str:
    rounds = max((len(values) for values in figures.found.values()), default=0)
    lines = [
        "# What a broker costs",
        "",
        (
            "Written by `make bench-brokers`; do not edit. CPU of the gateway alone, in µs for each delivery to 1,000 "
            f"clients of one process; medians of up to {rounds} rounds in which the servers alternate. With ipc, the "
            "proxy is a thread of that process in the tables of broadcasts, of channels, and of `POST /send`, so its "
            "CPU is included. In all other tables it runs in a process of its own, as under `wsgateway serve "
            "--workers`."
        ),
        "",
        f"{date.today().isoformat()}, {machine()}, Python {platform.python_version()}; "  # noqa: DTZ011
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        + ".",
        "",
        "## Against the targets",
        "",
        (
            '`make bench-brokers` measures everything. `make bench-brokers ARGS="--only NAME"` measures the rows with '
            "that name in the last column."
        ),
        "",
        *against_targets(figures),
    ]
    for section in SECTIONS:
        if figures.rows(section.table):
            lines += [f"## {section.heading}", "", *([section.text, ""] if section.text else [])]
            lines += table(figures, section.table, section.columns, section.heads, section.first)
    lines += [f"Not right: {name}, {reason}" for name, reason in figures.failed.items()]
    return "\n".join(lines).rstrip() + "\n"

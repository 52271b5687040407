"""The targets: which figures are compared, and what each may be at most."""

import statistics
from dataclasses import dataclass

from channel_tables import (
    ALONE,
    BESIDE,
    BROADCAST,
    CHANNEL,
    KEPT,
    MORE,
    ONE_BY_ONE,
    OTHERS,
    OWN,
    SHAPES,
    STREAM,
    TO_ONE,
    TOGETHER,
    WEBSOCKET,
    WINDOWS,
)
from contenders import LIMIT, PLAIN, SERVE, STARLETTE
from figures import Figures, Key
from tables import ALL, HALF, NONE_SLOW, ONE_SLOW

SUBSCRIPTION_LIMITS = {SHAPES["one"]: 130, SHAPES["ten"]: 90, SHAPES["each"]: 550}
ECHO_LIMITS = {"3.11": 0.48}
ECHO_LIMIT = 0.50


@dataclass(frozen=True)
class Target:
    """A figure with its limit: the ratio of two figures, or one figure by itself if there is no second one."""

    what: str
    above: Key
    limit: float
    below: Key | None = None
    is_least: bool = False

    def values(self, figures: Figures) -> list[float]:
        return figures.ratios(self.above, self.below) if self.below else figures.values(self.above)

    def is_missed(self, values: list[float]) -> bool:
        """Return whether the median is beyond the limit, and so is every other round."""
        return max(values) < self.limit if self.is_least else min(values) > self.limit

    def is_beyond(self, values: list[float]) -> bool:
        median = statistics.median(values)
        return median < self.limit if self.is_least else median > self.limit


def by_limit(what: str, table: str, column: str, limit: float) -> Target:
    return Target(f"{what}, by limit", (table, SERVE.name, column), limit, (table, LIMIT.name, column))


def echo_targets(figures: Figures) -> list[Target]:
    found = []
    for row in figures.rows("echo"):
        if row.startswith(SERVE.name):
            version = row.rpartition(" ")[2]
            below = ("echo", f"{STARLETTE.name}, {version}", "cost")
            limit = ECHO_LIMITS.get(version, ECHO_LIMIT)
            found.append(Target(f"echo, Python {version}, by Starlette's", ("echo", row, "cost"), limit, below))
    return sorted(found, key=lambda target: target.what, reverse=True)


def windowed(what: str, table: str, row: str, limit: float, below: str) -> list[Target]:
    """Return a target for each number of messages in flight."""
    return [
        Target(f"{what}, {window} in flight", (table, row, str(window)), limit, (table, below, str(window)))
        for window in WINDOWS
    ]


def channel_targets() -> list[Target]:
    large, others = "channel of 10,000", "channels of others"
    ours = f"{SERVE.name}, {KEPT}"
    return [
        *windowed("fan-out on one channel, by a broadcast", "channel", CHANNEL, 1.03, BROADCAST),
        by_limit("10,000 in one channel, 2 in flight", large, "cost", 1.0),
        Target(
            "100 publications in one iteration, by the same one by one",
            ("rooms", TOGETHER, "cost"),
            0.8,
            ("rooms", ONE_BY_ONE, "cost"),
        ),
        Target(
            "p99 in a room of 10 beside 10,000, by alone",
            ("small room", BESIDE, "p99"),
            2.0,
            ("small room", ALONE, "p99"),
        ),
        *(
            Target(f"memory of a subscription, {label}, bytes", ("subscription", label, "bytes"), limit)
            for label, limit in SUBSCRIPTION_LIMITS.items()
        ),
        Target("subscribe and unsubscribe in process, a new channel, µs", ("subscribe", OWN, "inside"), 25),
        Target("subscribe and unsubscribe over `wsgateway.v1`, a new channel, µs", ("subscribe", OWN, "v1"), 25),
        Target("`gateway.publish` with history, more than without, µs", ("publish", TO_ONE, "more"), 2.0),
        Target("2,000 clients back at once, 10 missed each, more than without, µs", ("reconnect", MORE, "cost"), 150),
        *windowed("fan-out to streams, by that to WebSockets", "streams", STREAM, 1.1, WEBSOCKET),
        Target("an idle stream, KB", ("streams", STREAM, "memory"), 4.0),
        *(
            target
            for server in OTHERS
            for target in windowed(f"one channel with history, by {server.name}", others, ours, 0.1, server.name)
        ),
    ]


def every_target(figures: Figures) -> list[Target]:
    starlette, serve = STARLETTE.name, SERVE.name
    slow = "slow among 10,000"
    return [
        by_limit("fan-out, 1 in flight", "fan-out 64", "1", 1.28),
        by_limit("fan-out, 4 in flight", "fan-out 64", "4", 0.41),
        by_limit("fan-out, 16 in flight", "fan-out 64", "16", 0.12),
        by_limit("fan-out to 10,000, 2 in flight", "10,000 clients", "cost", 1.0),
        *(
            Target(
                f"`echo_sender = false`, {window} in flight, by the same with true",
                ("echo_sender", "false", window),
                1.15,
                ("echo_sender", "true", window),
            )
            for window in ("4", "16")
        ),
        Target("named recipients, 16 in flight, by a broadcast", ("named", HALF, "16"), 1.5, ("named", ALL, "16")),
        Target("one slow client among 10,000, by none", (slow, ONE_SLOW, "cost"), 1.05, (slow, NONE_SLOW, "cost")),
        *echo_targets(figures),
        Target(
            "connect, 5,000 clients, by Starlette's", ("connect", serve, "cost"), 0.32, ("connect", starlette, "cost")
        ),
        Target(
            "`POST /send`, requests per second, by a bare Starlette route",
            ("requests", serve, "rate"),
            0.85,
            ("requests", starlette, "rate"),
            is_least=True,
        ),
        Target("an idle connection, KB", ("idle", "25 s", "memory"), 3.9),
        Target("an idle connection with one timer wheel for pings, KB", ("idle", "25 s", "memory"), 3.3),
        Target("an idle connection, CPU with `ping_interval` 25, µs per second", ("idle", "25 s", "cpu"), 3.0),
        by_limit("fan-out over `POST /send`, 1 in flight", "send", "1", 1.4),
        by_limit("fan-out over `POST /send`, 16 in flight", "send", "16", 1.4),
        Target(
            "an idle connection's memory, by Starlette's",
            ("connect", serve, "memory"),
            0.55,
            ("connect", starlette, "memory"),
        ),
        Target(
            "p99 of the others while one never reads, by without",
            ("slow", "one never reads", "p99"),
            1.2,
            ("slow", "all read", "p99"),
        ),
        Target(
            "plain ASGI path, 1 in flight, by Starlette's loop",
            ("fan-out 64", PLAIN.name, "1"),
            1.3,
            ("fan-out 64", starlette, "1"),
        ),
        *channel_targets(),
    ]


def against_targets(figures: Figures) -> list[str]:
    """Return a table of the targets that were measured, or nothing if none was."""
    lines = []
    for target in every_target(figures):
        values = target.values(figures)
        if not values:
            continue
        verdict = "missed" if target.is_missed(values) else "within the spread" if target.is_beyond(values) else "met"
        limit = f"at {'least' if target.is_least else 'most'} {target.limit:g}"
        spread = f"{min(values):.2f} to {max(values):.2f}"
        lines.append(f"| {target.what} | {statistics.median(values):.2f} | {spread} | {limit} | {verdict} |")
    head = ["| what | median | lowest to highest | limit | |", "|---|---|---|---|---|"]
    return [*head, *lines, ""] if lines else []

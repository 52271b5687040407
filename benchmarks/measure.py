"""Runs the load generators against a server that runs, and decides how many messages a figure needs."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import BIN, BUILD, Server
from figures import Figures, Key

HERE = Path(__file__).parent
WSFAN = [str(BUILD / "wsfan")]
FAN = [sys.executable, str(HERE / "load" / "fan.py")]
ACROSS = [sys.executable, str(HERE / "load" / "across.py")]
SUBSCRIBE = [sys.executable, str(HERE / "load" / "subscribe.py")]
COST = "server_cpu_us_per_delivery"


def loaded(program: list[str], port: int, pid: int, *options: object, cores: str = "1") -> dict[str, float]:
    """Run a load generator on the second core, or others, and return what it has measured."""
    command = ["taskset", "-c", cores, *program, "--port", str(port), "--pid", str(pid), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise RuntimeError(f"{' '.join(command)} measured nothing: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def inside(script: str, *options: str) -> dict[str, float]:
    """Run a script that measures the gateway without sockets on the first core, and return what it has measured."""
    command = ["taskset", "-c", "0", sys.executable, str(HERE / "inside" / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} has failed: {done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def posted(port: int, pid: int, requests: int) -> tuple[float, float]:
    """Send `requests` to `POST /send` without connections. Return requests per second, and server CPU of one in µs."""
    command = ["taskset", "-c", "1", sys.executable, str(HERE / "load" / "post.py"), str(port), str(requests)]
    before = cpu_of(pid)
    rate = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return rate, (cpu_of(pid) - before) * 1e6 / requests


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that the threads of a process have used."""
    counters = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(counter.read_text().split()[0]) for counter in counters) / 1e9


@dataclass
class Bench:
    """The figures, and how long each of them is measured."""

    servers: list[Server]
    figures: Figures = field(default_factory=Figures)
    pythons: list[Path] = field(default_factory=lambda: [BIN])
    """Folders of the Pythons that echo."""
    cpu_seconds: float = 5.0
    """CPU that a server uses for one figure of the targets, in each round."""
    idle_seconds: float = 50.0
    """Time for which connections are idle: two intervals between pings."""
    rate_seconds: float = 6.0
    """Time for which messages are sent at one rate."""
    messages: int = 200
    """Messages of 64 bytes for a fast server, where only libraries are compared."""
    cpu_of_a_message: dict[Key, float] = field(default_factory=dict)
    """CPU in seconds that a server needed for one message, by the figure."""

    def in_turn(self, things: list[Any]) -> list[Any]:
        """Return `things`, in reverse in every other round, so that a machine that warms up favors none of them."""
        return things[::-1] if self.figures.round % 2 else things

    def fan(
        self,
        key: Key,
        port: int,
        pid: int,
        *options: object,
        window: int,
        share: float = 1.0,
        multiple: int = 1,
    ) -> dict[str, float]:
        """Measure with wsfan, and note the server's CPU for each delivery under `key`.

        So many messages are sent that the server uses `share * cpu_seconds` of CPU for them, as far as the round before
        or a short trial shows, and a `multiple` of messages. Raise `RuntimeError` if a connection did not receive
        exactly what it should.
        """
        options = (*options, "--window", window)
        if key not in self.cpu_of_a_message:
            few = max(10, 4 * window) * multiple
            trial = loaded(WSFAN, port, pid, *options, "--messages", few)
            self.cpu_of_a_message[key] = trial["server_cpu_s"] / few
        messages = math.ceil(share * self.cpu_seconds / max(self.cpu_of_a_message[key], 1e-6))
        messages = math.ceil(messages / multiple) * multiple
        figures = loaded(WSFAN, port, pid, *options, "--messages", messages)
        if figures["dead"]:
            raise RuntimeError(f"{figures['dead']} connections were refused or closed: {options}, {figures}")
        if figures["wrong"]:
            raise RuntimeError(f"{figures['wrong']} connections received too little or too much: {options}, {figures}")
        self.cpu_of_a_message[key] = figures["server_cpu_s"] / messages
        self.figures.note(*key, figures[COST])
        return figures


@dataclass(frozen=True)
class Step:
    """What one round measures for some tables, and in how many rounds at most."""

    measure: Callable[[Bench], None]
    tables: tuple[str, ...]
    rounds: int = 1000

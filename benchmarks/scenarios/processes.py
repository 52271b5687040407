"""Real processes: the workers of `wsgateway serve`, which are replaced and killed, and publishers of their own."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from scenarios import scenario
from scenarios.clients import Client
from scenarios.lab import Lab, Node
from scenarios.nodes import WITH_HISTORY
from scenarios.wires import until

FOLDER = Path(__file__).parent
WORKERS = 2
NAMES = [f"kept:{number}" for number in range(4)]

SETTINGS = """
drain = 2
[channels."kept:*"]
history = 1000
[channels."here:*"]
presence = true
[channels."*"]
"""

PUBLISHER = """
import asyncio, json, logging, sys
from wsgateway import Gateway

async def main(broker, name, count, keys):
    gateway = Gateway(broker=broker, channels={"kept:*": {"history": 1000}, "here:*": {"presence": True}, "*": {}})
    await gateway.start()
    print("ready", flush=True)
    sys.stdin.readline()
    answers = []
    for number in range(1, count + 1):
        text = f"kept:0 {name} {number}"
        sent = await gateway.publish(text, channel="kept:0")
        answers.append((text, sent.at, sent.is_new))
    for number in range(1, keys + 1):
        text = f"kept:1 keys {number}"
        sent = await gateway.publish(text, channel="kept:1", idempotency_key=f"key-{number}")
        answers.append((text, sent.at, sent.is_new))
    print(json.dumps(answers), flush=True)
    await gateway.stop()

logging.getLogger("wsgateway").addHandler(logging.NullHandler())
asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class Served:
    """`wsgateway serve --workers 2`, and a node in this process that publishes and knows the workers."""

    def __init__(self, lab: Lab, process: asyncio.subprocess.Process, url: str) -> None:
        self._lab = lab
        self.process = process
        self.url = url
        self.node: Node

    def workers(self) -> dict[int, str]:
        """Return the node of each worker, by its process id."""
        cluster: Any = self.node.gateway._running.cluster  # type: ignore[union-attr]
        return {node.info.pid: node.id for node in cluster.nodes.alive() if node.info.pid != os.getpid()}

    async def has_workers(self, *, without: set[int] | frozenset[int] = frozenset()) -> None:
        """Wait until there are as many workers as there should be, none of them in `without`."""

        def is_right() -> bool:
            pids = set(self.workers())
            return len(pids) == WORKERS and not pids & without

        await until(is_right, "the workers are not replaced")

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        self._lab.equal(await asyncio.wait_for(self.process.wait(), 30), 0, "exit code")


async def serve(lab: Lab, kind: str) -> Served:
    """Start the workers over the broker `kind`, then a node in this process."""
    lab.start_broker(kind)
    (lab.folder / "wsgateway.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "wsgateway", "serve", "--port", "0", "--no-admin-enabled", "--log-file", ""]
    command += ["--workers", str(WORKERS), "--broker", lab.broker.url, "--listener", f"{FOLDER}/listener.py:Listener"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WSGATEWAY_")}
    environment["PYTHONWARNINGS"] = "error"
    stderr = lab.stack.enter_context((lab.folder / "stderr").open("w"))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=lab.folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=stderr
    )
    assert process.stdout is not None
    first = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    if not first.rpartition(":")[2].isdigit():
        raise RuntimeError(f"the gateway does not start: {(lab.folder / 'stderr').read_text()[-500:]}")
    served = Served(lab, process, first.rpartition(" ")[2])
    lab.processes.push_async_callback(served.stop)
    served.node = await lab.start_node()
    await served.has_workers()
    return served


async def crowd(lab: Lab, served: Served, count: int = 120) -> list[Client]:
    clients = [lab.client(lambda: served.url, NAMES[number % 4], stays=True) for number in range(count)]
    await lab.join(clients, at_once=50)
    return clients


async def settle(lab: Lab, served: Served, clients: list[Client]) -> None:
    """Let the clients return, publish once more, and compare."""
    await until(lambda: all(client.is_ready for client in clients), "clients do not return")
    for name in NAMES:
        await lab.publish_surely(served.node, name)
    await lab.all_current(clients)
    lab.equal(sum(view.told for view in lab.views()), 0, "notifications")
    lab.counts["reconnected"] = sum(client.retries for client in lab.clients)


@scenario(*WITH_HISTORY, seconds=12)
async def workers_roll_under_load(lab: Lab, kind: str) -> None:
    """All workers are replaced one after the other while messages are published. Clients recover everything."""
    served = await serve(lab, kind)
    clients = await crowd(lab, served)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: served.node, NAMES, 100, over))
    before = set(served.workers())
    served.process.send_signal(signal.SIGUSR2)
    await served.has_workers(without=before)
    over.set()
    await publishing
    await settle(lab, served, clients)


@scenario(*WITH_HISTORY, seconds=8)
async def worker_killed_under_load(lab: Lab, kind: str) -> None:
    """A worker is killed. Its clients recover elsewhere, its members leave, and a new worker serves."""
    served = await serve(lab, kind)
    clients = await crowd(lab, served)
    watchers = [lab.client(served.node, "here:1") for _ in range(5)]
    members = [lab.client(lambda: served.url, "here:1") for _ in range(30)]
    await lab.join([*watchers, *members], at_once=50)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: served.node, NAMES, 100, over))
    pid = lab.random.choice(sorted(served.workers()))
    os.kill(pid, signal.SIGKILL)
    await served.has_workers(without={pid})
    over.set()
    await publishing
    await settle(lab, served, clients)

    def is_right() -> bool:
        alive = len(watchers) + sum(client.is_open for client in members)
        return all(len(client.members["here:1"]) == alive for client in watchers)

    await until(is_right, "members of the killed worker remain", seconds=6)


@scenario(*WITH_HISTORY, seconds=6)
async def publishers_in_three_processes(lab: Lab, kind: str) -> None:
    """3 processes publish 300 messages each into one channel, and the same 100 keys into another one."""
    lab.start_broker(kind)
    node = await lab.start_node()
    clients = [lab.client(node, f"kept:{number % 2}") for number in range(40)]
    await lab.join(clients)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PUBLISHER, lab.broker.url, f"p{number}", "300", "100",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=lab.folder,
        )
        for number in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        lab.equal((await process.stdout.readline()).strip(), b"ready", "a publisher")
    outputs = await asyncio.gather(*[process.communicate(b"go\n") for process in processes])
    note_answers(lab, [output for output, _ in outputs])
    await lab.all_current()
    received = [sum(view.received for view in lab.views() if view.channel == name) for name in ("kept:0", "kept:1")]
    lab.equal(received, [20 * 900, 20 * 100], "deliveries")


def note_answers(lab: Lab, outputs: list[bytes]) -> None:
    """Compare the answers of the publishers: positions are unique, and each key is published once."""
    new_keys: dict[str, int] = {}
    for output in outputs:
        for text, at, is_new in json.loads(output):
            channel, sender, number = text.split(" ")
            lab.ledger.published(channel, at, text)
            lab.ledger.sent[channel, sender] = max(lab.ledger.sent[channel, sender], int(number))
            lab.counts["published"] += is_new
            if sender == "keys":
                new_keys[text] = new_keys.get(text, 0) + is_new
    lab.equal(set(new_keys.values()), {1}, "new publications of each key")
    lab.equal(len(new_keys), 100, "keys")

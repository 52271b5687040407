"""Brokers, links, and histories that fail. Within a history, no client misses a publication without being notified."""

import asyncio
from typing import Any

from scenarios import scenario
from scenarios.brokers import Cable, Redis
from scenarios.clients import Client
from scenarios.lab import Lab, Node
from scenarios.nodes import WITH_HISTORY, kept, start
from scenarios.wires import until

AWAY = 3.0
"""Seconds that a broker is away."""


async def crowd(lab: Lab, nodes: list[Node], kind: str, count: int = 60, **options: Any) -> list[Client]:
    """Connect clients of all nodes to three channels."""
    options.setdefault("is_lossy", kind not in WITH_HISTORY)
    clients = [
        lab.client(nodes[number % len(nodes)], f"{kept(kind)}:{number % 3}", stays=True, **options)
        for number in range(count)
    ]
    await lab.join(clients)
    return clients


def names(kind: str) -> list[str]:
    return [f"{kept(kind)}:{number}" for number in range(3)]


async def are_up(nodes: list[Node]) -> None:
    """Wait until each node is connected to the broker and knows the others."""

    def is_up(node: Node) -> bool:
        cluster: Any = node.gateway._running.cluster  # type: ignore[union-attr]
        return cluster.is_up and len(cluster.nodes.alive()) >= len(nodes) - 1

    await until(lambda: all(is_up(node) for node in nodes), "the nodes are not connected")


async def work_again(lab: Lab, nodes: list[Node], kind: str) -> None:
    """After a failure, everybody is subscribed, and receives what is published from now on."""
    await are_up(nodes)
    await until(lambda: all(client.is_ready for client in lab.clients), "clients are not subscribed")
    publish = lab.publish_surely if kind in WITH_HISTORY else lab.publish
    for _ in range(3):
        await asyncio.gather(*[publish(nodes[0], name) for name in names(kind)])
    await lab.all_current()
    lab.counts["gaps healed"] = sum(node.metrics.gaps["healed"] for node in nodes)
    lab.counts["gaps lost"] = sum(node.metrics.gaps["lost"] for node in nodes)


def told_of(lab: Lab) -> int:
    return sum(view.told for view in lab.views())


@scenario("redis", "nats", seconds=4)
async def link_cut_for_a_second(lab: Lab, kind: str) -> None:
    """The link of one of two nodes is cut for a second, three times, while the other one publishes."""
    cable = Cable(lab.start_broker(kind))
    await cable.repair()
    lab.stack.push_async_callback(cable.aclose)
    history = kind in WITH_HISTORY
    nodes = [await lab.start_node(has_history=history), await lab.start_node(url=cable.url, has_history=history)]
    await crowd(lab, nodes, kind)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[0], names(kind), 200, over))
    for _ in range(3):
        cable.cut()
        await asyncio.sleep(0.3 + lab.random.random() * 0.7)  # the time between two failures
        await cable.repair()
        await are_up(nodes)
    over.set()
    await publishing
    await work_again(lab, nodes, kind)
    lab.equal(told_of(lab), 0, "notifications")


@scenario("redis", "nats", seconds=6)
async def broker_killed_for_3_s(lab: Lab, kind: str) -> None:
    """The broker is killed under load, and is started 3 s later without its data. With history, all are told."""
    broker = lab.start_broker(kind)
    nodes = await lab.start_nodes(2, has_history=kind in WITH_HISTORY)
    clients = await crowd(lab, nodes, kind)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[0], names(kind), 100, over))
    await asyncio.sleep(0.5)  # messages are on their way when it fails
    broker.kill()
    await asyncio.sleep(AWAY / 2)  # how long it is away
    refused = [lab.client(nodes[1], f"{kept(kind)}:0", stays=True, is_lossy=True) for _ in range(10)]
    await asyncio.gather(*[client.connect() for client in refused])
    await asyncio.sleep(AWAY / 2)  # how long it is away
    if kind in WITH_HISTORY:
        lab.check(all(client.refusals for client in refused), "clients subscribe although the history is away")
    broker.start()
    await are_up(nodes)
    over.set()
    await publishing
    await work_again(lab, nodes, kind)
    if kind in WITH_HISTORY:  # a new client may have subscribed just before the loss was noticed
        lab.equal({view.told for client in clients for view in client.views.values()}, {1}, "notifications")


@scenario("redis", "nats", seconds=6)
async def broker_stopped_for_3_s(lab: Lab, kind: str) -> None:
    """The broker does nothing for 3 s (SIGSTOP). Nothing is lost from a history."""
    broker = lab.start_broker(kind)
    nodes = await lab.start_nodes(2, has_history=kind in WITH_HISTORY)
    await crowd(lab, nodes, kind)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[0], names(kind), 100, over))
    await asyncio.sleep(0.3)  # messages are on their way when it fails
    broker.stop()
    await asyncio.sleep(AWAY)  # how long it is away
    broker.proceed()
    await are_up(nodes)
    over.set()
    await publishing
    await work_again(lab, nodes, kind)
    lab.equal(told_of(lab), 0, "notifications")


@scenario(seconds=5)
async def proxy_ends_with_its_node(lab: Lab) -> None:
    """The node that forwards the messages of `ipc://` and keeps the history stops. The others continue, and tell."""
    nodes = await start(lab, "ipc", 3)
    clients = await crowd(lab, nodes[1:], "ipc")
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[1], names("ipc"), 100, over))
    await asyncio.sleep(0.3)  # messages are on their way when it fails
    await nodes[0].stop()
    await are_up(nodes[1:])
    over.set()
    await publishing
    await work_again(lab, nodes[1:], "ipc")
    lab.equal(told_of(lab), len(clients), "notifications")


@scenario(seconds=3)
async def history_emptied(lab: Lab) -> None:
    """Redis loses all data while its connections stay (FLUSHALL), under load. Every client is told once."""
    nodes = await start(lab, "redis")
    await crowd(lab, nodes, "redis")
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[0], names("redis"), 200, over))
    await asyncio.sleep(0.5)  # messages are on their way when it fails
    lab.broker.command("FLUSHALL")
    await asyncio.sleep(0.5)  # messages follow the failure
    over.set()
    await publishing
    await work_again(lab, nodes, "redis")
    lab.equal(told_of(lab), 60, "notifications")


@scenario("pubsub", "normal", seconds=4)
async def connections_killed(lab: Lab, kind: str) -> None:
    """Redis ends its connections of one type ten times under load. Nothing is lost."""
    nodes = await start(lab, "redis")
    await crowd(lab, nodes, "redis")
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[0], names("redis"), 200, over))
    for _ in range(10):
        await asyncio.sleep(lab.random.random() * 0.3)  # the time between two failures
        lab.broker.command("CLIENT", "KILL", "TYPE", kind)
    over.set()
    await publishing
    await work_again(lab, nodes, "redis")
    lab.equal(told_of(lab), 0, "notifications")


@scenario("shorter", "as-long", "longer", seconds=4)
async def failover_loses_writes(lab: Lab, length: str) -> None:
    """Redis fails over to a replica that lacks 10 writes; it then has fewer, as many, or more. All clients are told."""
    main = lab.start_broker("redis")
    replica = Redis(lab.folder)
    replica.start()
    lab.stack.callback(replica.kill)
    cable = Cable(main)
    await cable.repair()
    lab.stack.push_async_callback(cable.aclose)
    nodes = [await lab.start_node(url=cable.url) for _ in range(2)]
    await are_up(nodes)
    await crowd(lab, nodes, "redis")
    await asyncio.gather(*[lab.publish_many(nodes[0], name, 20) for name in names("redis")])
    replica.command("REPLICAOF", "127.0.0.1", str(main.port))
    await until(lambda: "master_link_status:up" in replica.command("INFO", "replication"), "no replication")
    await until(lambda: replica.command("DBSIZE") == main.command("DBSIZE"), "the replica has less")
    replica.command("REPLICAOF", "NO", "ONE")
    await asyncio.gather(*[lab.publish_many(nodes[0], name, 10) for name in names("redis")])
    await lab.all_current()
    cable.cut()
    cable.connect_to(replica)
    extra = {"shorter": 0, "as-long": 10, "longer": 15}[length]
    if extra:  # by a node that has not seen what was lost
        other = await lab.start_node(url=replica.url)
        for name in names("redis"):
            for _ in range(extra):
                await other.gateway.publish(lab.ledger.next_text(name, "other"), channel=name)
    lab.ledger.begin_again()
    await cable.repair()
    await are_up(nodes)
    await until(lambda: told_of(lab) >= 60, "clients are not told")
    await work_again(lab, nodes, "redis")
    lab.equal(told_of(lab), 60, "notifications")


@scenario(*WITH_HISTORY, seconds=3)
async def unannounced_publications(lab: Lab, kind: str) -> None:
    """One publication in five is not announced by the broker. It is healed at the next one; nothing is lost."""
    nodes = await start(lab, kind)
    await crowd(lab, nodes, kind)
    drop_announcements(lab, nodes[1])
    for _ in range(100):
        await asyncio.gather(*[lab.publish(nodes[0], name) for name in names(kind)])
    restore_announcements(nodes[1])
    await work_again(lab, nodes, kind)
    lab.check(nodes[1].metrics.gaps["healed"] > 0, "no gap was healed")
    lab.equal(told_of(lab), 0, "notifications")


def drop_announcements(lab: Lab, node: Node) -> None:
    """Let the link of a node lose one message in five on the topics of channels."""
    bus: Any = node.gateway._running.cluster._bus  # type: ignore[union-attr]
    received = bus._received

    def lossy(topic: str, data: bytes) -> None:
        if ".ch." in topic and lab.random.random() < 0.2:
            lab.counts["announcements lost"] += 1
        else:
            received(topic, data)

    bus._received = lossy
    lossy.original = received  # type: ignore[attr-defined]


def restore_announcements(node: Node) -> None:
    bus: Any = node.gateway._running.cluster._bus  # type: ignore[union-attr]
    bus._received = bus._received.original


@scenario(*WITH_HISTORY, seconds=5)
async def members_of_a_node_that_leaves(lab: Lab, kind: str) -> None:
    """A node with 40 members stops. Each other client is notified once of each member."""
    nodes = await start(lab, kind)
    watchers = [lab.client(nodes[0], "here:1", user="w") for _ in range(10)]
    leaving = [lab.client(nodes[1], "here:1", user="u") for _ in range(40)]
    await lab.join([*watchers, *leaving])
    await until(lambda: all(len(client.members["here:1"]) == 50 for client in watchers), "members are missing")
    await nodes[1].stop()
    await until(lambda: all(len(client.members["here:1"]) == 10 for client in watchers), "members remain", seconds=10)

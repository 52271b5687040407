"""Channels over several nodes and each broker, while nothing fails."""

import asyncio

from scenarios import scenario
from scenarios.channels import (
    act_by_user,
    churn_members,
    cut_in_the_middle,
    flip,
    publish_by_clients,
    publish_with_keys,
)
from scenarios.lab import Lab, Node
from scenarios.wires import until

BROKERS = ("ipc", "redis", "nats")
WITH_HISTORY = ("ipc", "redis")
"""NATS has no history."""


def kept(kind: str) -> str:
    """Return the namespace of the channels of a scenario: with a history, if the broker has one."""
    return "kept" if kind in WITH_HISTORY else "plain"


async def start(lab: Lab, kind: str, count: int = 2) -> list[Node]:
    lab.start_broker(kind)
    return await lab.start_nodes(count, has_history=kind in WITH_HISTORY)


@scenario(*BROKERS, seconds=2)
async def broadcasts(lab: Lab, kind: str) -> None:
    """3 nodes send 100 broadcasts each to 90 clients of all nodes."""
    nodes = await start(lab, kind, 3)
    clients = [lab.client(nodes[number % 3], kind="v1") for number in range(90)]
    await lab.join(clients)
    for number in range(100):
        await asyncio.gather(*[node.gateway.publish(f"{place} {number}") for place, node in enumerate(nodes)])
    await until(lambda: all(len(client.others) == 300 for client in clients), "broadcasts are missing")
    for client in clients:
        for place in range(3):
            own = [text for text in client.others if text.startswith(f"{place} ")]
            lab.equal(own, [f"{place} {number}" for number in range(100)], f"messages of node {place}")
    lab.counts["delivered"] = sum(len(client.others) for client in clients)


@scenario(*BROKERS, seconds=3)
async def order_of_offsets(lab: Lab, kind: str) -> None:
    """3 nodes publish 300 messages each into 3 channels at the same time, to 90 clients of all nodes and protocols."""
    nodes = await start(lab, kind, 3)
    names = [f"{kept(kind)}:{number}" for number in range(3)]
    kinds = ("v1", "stream") if kind == "nats" else ("v1", "v1", "sse", "stream", "plain")
    clients = [
        lab.client(nodes[number % 3], names[number // 3 % 3], kind=kinds[number % len(kinds)]) for number in range(90)
    ]
    await lab.join(clients)
    for _ in range(100):
        await asyncio.gather(
            *[lab.publish(node, name, f"n{place}") for place, node in enumerate(nodes) for name in names]
        )
    await lab.all_current()
    lab.equal(sum(view.received for view in lab.views()), 90 * 300, "deliveries")


@scenario(*BROKERS, seconds=2)
async def nothing_where_nobody_listens(lab: Lab, kind: str) -> None:
    """2,000 messages to a channel with subscribers in one of three nodes. The third one receives none of them."""
    nodes = await start(lab, kind, 3)
    name = f"{kept(kind)}:1"
    await lab.join([lab.client(nodes[0], name) for _ in range(5)])
    before = nodes[2].metrics.broker_received
    await lab.publish_many(nodes[1], name, 2000)
    await lab.all_current()
    lab.counts["received by the others"] = nodes[2].metrics.broker_received - before
    lab.check(nodes[2].metrics.broker_received - before < 40, "a node without subscribers receives messages")
    lab.equal(sum(view.received for view in lab.views()), 5 * 2000, "deliveries")


@scenario(*BROKERS, seconds=5)
async def subscribe_storm(lab: Lab, kind: str) -> None:
    """500 clients of 2 nodes subscribe to 4 channels of their own each at the same time. Each receives its messages."""
    nodes = await start(lab, kind)
    clients = [lab.client(nodes[number % 2]) for number in range(500)]
    await lab.join(clients)
    names = []
    for place, client in enumerate(clients):
        for number in range(4):
            names.append(f"{kept(kind)}:{place}.{number}")
            client.subscribe(names[-1])
    await until(lambda: all(client.is_ready for client in clients), "subscriptions do not begin")
    for start_at in range(0, len(names), 500):
        await asyncio.gather(*[lab.publish(nodes[0], name) for name in names[start_at : start_at + 500]])
    await lab.all_current()
    lab.equal(sum(view.received for view in lab.views()), 2000, "deliveries")


@scenario(*WITH_HISTORY, seconds=6)
async def recovery_storm_elsewhere(lab: Lab, kind: str) -> None:
    """2,000 clients leave one node, miss 10 publications each, and return to the other node at the same time."""
    nodes = await start(lab, kind)
    at = [0]
    clients = [lab.client(lambda: nodes[at[0]].url, f"kept:{number % 10}") for number in range(2000)]
    await lab.join(clients)
    await asyncio.gather(*[lab.publish(nodes[1], f"kept:{number}") for number in range(10)])
    await lab.all_current()
    for client in clients:
        client.leave()
    await asyncio.gather(*[lab.publish_many(nodes[1], f"kept:{number}", 10) for number in range(10)])
    at[0] = 1
    await lab.join(clients)
    await asyncio.gather(*[lab.publish(nodes[0], f"kept:{number}") for number in range(10)])
    await lab.all_current()
    lab.equal(sum(view.recovered for view in lab.views()), 2000, "recoveries")
    lab.equal(sum(view.received for view in lab.views()), 2000 * 12, "deliveries")


@scenario(*WITH_HISTORY, seconds=2)
async def newest_values_elsewhere(lab: Lab, kind: str) -> None:
    """Two nodes publish 1,000 values of 40 keys; clients move between the nodes meanwhile."""
    nodes = await start(lab, kind)
    clients = [lab.client(lab.url_of_any, "last:1", is_latest_only=True) for _ in range(40)]
    await lab.join(clients)
    for _ in range(20):
        moving = lab.random.sample(clients, 8)
        for client in moving:
            client.leave()
        await asyncio.gather(
            *[
                lab.publish(lab.random.choice(nodes), "last:1", f"s{number}", key=f"k{lab.random.randrange(40)}")
                for number in range(50)
            ]
        )
        await lab.join(moving)
    await lab.all_current()


@scenario(*BROKERS, seconds=3)
async def presence_under_churn_of_nodes(lab: Lab, kind: str) -> None:
    """100 clients of 3 nodes leave and return, while 20 watch the members."""
    await churn_members(lab, await start(lab, kind, 3), "here:1")


@scenario(*WITH_HISTORY, seconds=2)
async def idempotent_publications_of_nodes(lab: Lab, kind: str) -> None:
    """200 keys, each published by 5 callers of 2 nodes at the same time."""
    await publish_with_keys(lab, await start(lab, kind))


@scenario(*WITH_HISTORY, seconds=2)
async def messages_of_clients_of_nodes(lab: Lab, kind: str) -> None:
    """40 clients of 2 nodes publish 50 messages each into one channel."""
    await publish_by_clients(lab, await start(lab, kind))


@scenario(*WITH_HISTORY, seconds=2)
async def actions_by_user_over_nodes(lab: Lab, kind: str) -> None:
    """20 users with 5 clients each, spread over 2 nodes, are sent to, subscribed, unsubscribed, and disconnected."""
    await act_by_user(lab, await start(lab, kind))


@scenario(*BROKERS, seconds=2)
async def counts_of_messages(lab: Lab, kind: str) -> None:
    """`send` to a channel returns the number of subscribers in all nodes, for 30 channels from each of 3 nodes."""
    nodes = await start(lab, kind, 3)
    sizes = {f"{kept(kind)}:{number}": lab.random.randrange(8) for number in range(30)}
    await lab.join(
        [lab.client(lab.random.choice(nodes), name) for name, size in sizes.items() for _ in range(size)], at_once=50
    )
    for name, size in sizes.items():
        for place, node in enumerate(nodes):
            text = lab.ledger.next_text(name, f"n{place}")
            sent = await node.gateway.send(text, channel=name)
            lab.ledger.published(name, sent.at, text)
            lab.equal((sent.recipients, sent.queued, sent.nodes), (size, size, 3), f"counts of {name}")
            lab.equal(sent.complete, True, f"complete of {name}")
            lab.counts["published"] += 1
    await lab.all_current()


@scenario(*BROKERS, seconds=3)
async def unsubscribe_and_resubscribe_over_nodes(lab: Lab, kind: str) -> None:
    """80 clients leave and enter 20 channels while messages are published by another node, so topics come and go."""
    nodes = await start(lab, kind)
    clients = [lab.client(nodes[0], f"{kept(kind)}:0") for _ in range(80)]
    await lab.join(clients)
    over = asyncio.Event()
    names = [f"{kept(kind)}:{number}" for number in range(20)]
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[1], names, 500, over))
    for _ in range(40):
        for client in clients:
            flip(lab, client, f"{kept(kind)}:{lab.random.randrange(1, 20)}")
        await asyncio.sleep(0.03)  # the pace of the churn
    over.set()
    await publishing
    await until(lambda: all(client.is_ready for client in clients), "subscriptions do not begin")
    if kind not in WITH_HISTORY:  # a client that has subscribed after the last message has received none
        await asyncio.gather(*[lab.publish(nodes[1], name) for name in names])
    await lab.all_current()


@scenario(*WITH_HISTORY, seconds=2)
async def closes_in_the_middle_over_nodes(lab: Lab, kind: str) -> None:
    """300 clients are cut at a random moment of connecting, subscribing, and receiving. Bystanders miss nothing."""
    nodes = await start(lab, kind)
    bystanders = [lab.client(node, "kept:1", kind=each) for node in nodes for each in ("v1", "plain", "sse", "stream")]
    await lab.join(bystanders)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[1], ["kept:1"], 300, over))
    await cut_in_the_middle(lab, nodes, 300)
    over.set()
    await publishing
    await lab.all_current(bystanders)


@scenario(*WITH_HISTORY, seconds=2)
async def lingering(lab: Lab, kind: str) -> None:
    """Clients leave and return while their channel lingers, and after it has ended. They miss nothing."""
    lab.linger(0.3)
    nodes = await start(lab, kind)
    clients = [lab.client(nodes[0], f"kept:{number}") for number in range(50)]
    for pause in (0.0, 0.2, 0.25, 0.3, 0.35, 0.6):
        await lab.join(clients)
        await asyncio.gather(*[lab.publish(nodes[1], f"kept:{number}") for number in range(50)])
        await lab.all_current()
        for client in clients:
            client.leave()
        await asyncio.gather(*[lab.publish(nodes[1], f"kept:{number}") for number in range(50)])
        await asyncio.sleep(pause)  # the clients return while the channel lingers, or afterwards
    await lab.join(clients)
    await lab.all_current()
    lab.equal(sum(view.received for view in lab.views()), 50 * 12, "deliveries")
    lab.equal(sum(view.told for view in lab.views()), 0, "notifications")


@scenario(*WITH_HISTORY, seconds=4)
async def node_rolls_under_load(lab: Lab, kind: str) -> None:
    """3 of 4 nodes are replaced one after the other, while messages are published and 200 clients reconnect."""
    nodes = await start(lab, kind, 4)
    names = [f"kept:{number}" for number in range(5)]
    clients = [lab.client(lab.url_of_any, names[number % 5], stays=True) for number in range(200)]
    await lab.join(clients)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: nodes[0], names, 200, over))
    for node in nodes[1:]:
        await lab.start_node(has_history=True)
        await node.stop()
    over.set()
    await publishing
    await until(lambda: all(client.is_ready for client in clients), "clients do not return")
    await lab.all_current()
    lab.equal(sum(view.told for view in lab.views()), 0, "notifications")
    lab.counts["reconnected"] = sum(client.retries for client in clients)

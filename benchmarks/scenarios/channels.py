"""Channels of one process, and clients of each protocol."""

import asyncio

from scenarios import scenario
from scenarios.clients import Client
from scenarios.lab import Lab, Node
from scenarios.wires import until


@scenario("v1", "plain", "sse", "stream", seconds=1)
async def everything_arrives(lab: Lab, kind: str) -> None:
    """60 clients in 20 channels with history, 600 publications."""
    node = await lab.start_node(broker=False)
    clients = [lab.client(node, f"kept:{number % 20}", kind=kind) for number in range(60)]
    await lab.join(clients)
    for number in range(20):
        await lab.publish_many(node, f"kept:{number}", 30)
    await lab.all_current()
    lab.equal(sum(view.received for view in lab.views()), 60 * 30, "deliveries")


@scenario("v1", "sse", "stream", seconds=2)
async def recovery_storm(lab: Lab, kind: str) -> None:
    """2,000 clients leave, miss 10 publications each, and return at the same time. Streams are 500."""
    node = await lab.start_node(broker=False)
    count = 2000 if kind == "v1" else 500
    clients = [lab.client(node, f"kept:{number % 10}", kind=kind) for number in range(count)]
    await lab.join(clients)
    for number in range(10):
        await lab.publish(node, f"kept:{number}")
    await lab.all_current()
    for client in clients:
        client.leave()
    await until(lambda: not node.gateway.connections, "the connections do not end")
    for number in range(10):
        await lab.publish_many(node, f"kept:{number}", 10)
    await lab.join(clients)
    await lab.all_current()
    lab.equal(sum(view.recovered for view in lab.views()), count, "recoveries")
    lab.equal(sum(view.received for view in lab.views()), count * 11, "deliveries")


@scenario(seconds=1)
async def away_longer_than_the_history(lab: Lab) -> None:
    """200 clients miss 50 publications of a history of 10, and are told."""
    node = await lab.start_node(broker=False)
    clients = [lab.client(node, "short:1") for _ in range(200)]
    await lab.join(clients)
    await lab.publish(node, "short:1")
    await lab.all_current()
    for client in clients:
        client.leave()
    await lab.publish_many(node, "short:1", 50)
    await lab.join(clients)
    await lab.publish(node, "short:1")
    await lab.all_current()
    lab.equal(sum(view.told for view in lab.views()), 200, "notifications")


@scenario(seconds=2)
async def unsubscribe_and_resubscribe(lab: Lab) -> None:
    """100 clients leave and enter 20 channels while 2,000 messages are published."""
    node = await lab.start_node(broker=False)
    clients = [lab.client(node, "kept:0") for _ in range(100)]
    await lab.join(clients)
    over = asyncio.Event()
    publishing = asyncio.create_task(
        lab.keep_publishing(lambda: node, [f"kept:{number}" for number in range(20)], 1000, over)
    )
    for _ in range(40):
        for client in clients:
            flip(lab, client, f"kept:{lab.random.randrange(1, 20)}")
        await asyncio.sleep(0.03)  # the pace of the churn
    over.set()
    await publishing
    await until(lambda: all(client.is_ready for client in clients), "subscriptions do not begin")
    await lab.all_current()


def flip(lab: Lab, client: Client, channel: str) -> None:
    view = client.views.get(channel)
    if view is None:
        client.subscribe(channel)
        lab.counts["subscribed"] += 1
    elif view.is_subscribed:
        client.unsubscribe(channel)


BIG = "s" * 60_000
"""A sender whose name makes a message large."""


@scenario(seconds=2)
async def slow_clients_are_closed(lab: Lab) -> None:
    """10 of 60 clients do not read. They are closed with 3008, return, and recover."""
    node = await lab.start_node(broker=False, outbox_bytes=8_000_000, outbox_messages=20)
    clients = [lab.client(node, "kept:1") for _ in range(50)]
    slow = [lab.client(node, "kept:1", has_small_buffer=True, stays=True) for _ in range(10)]
    await lab.join([*clients, *slow])
    for client in slow:
        client.stop_reading()
    for _ in range(100):
        await lab.publish(node, "kept:1", BIG)
        await lab.all_current(clients)
    await until(lambda: node.metrics.too_slow == 10, "the slow clients are not closed")
    for client in slow:
        client.go_on_reading()
    for _ in range(3):
        await lab.publish(node, "kept:1")
    await lab.all_current()
    lab.equal(node.metrics.too_slow, 10, "clients closed as too slow")
    lab.equal(sum(view.recovered for view in lab.views()), 10, "recoveries")


@scenario("drop", "newest", seconds=2)
async def slow_clients_lose(lab: Lab, namespace: str) -> None:
    """10 of 60 clients do not read, in a channel whose policy drops messages. The others receive all."""
    node = await lab.start_node(broker=False, outbox_bytes=262_144, outbox_messages=50, send_timeout=30.0)
    channel = f"{namespace}:1"
    clients = [lab.client(node, channel) for _ in range(50)]
    slow = [lab.client(node, channel, has_small_buffer=True, is_lossy=True) for _ in range(10)]
    await lab.join([*clients, *slow])
    for client in slow:
        client.stop_reading()
    for _ in range(100):
        await lab.publish(node, channel, BIG)
        await lab.all_current(clients)
    dropped = sum(node.metrics.dropped.values())
    lab.check(dropped > 100, f"only {dropped} messages are dropped")
    for client in slow:
        client.go_on_reading()
    received = sum(client.views[channel].received for client in slow)
    await until(
        lambda: sum(client.views[channel].received for client in slow) >= 10 * 100 - dropped,
        f"slow clients have {received}",
    )
    lab.equal(sum(client.views[channel].received for client in slow), 10 * 100 - dropped, "messages of slow clients")
    lab.counts["dropped"] = dropped
    lab.equal(node.metrics.too_slow, 0, "clients closed as too slow")


@scenario(seconds=2)
async def newest_values(lab: Lab) -> None:
    """50 keys, 2,000 publications with `keep = "last"`; clients that read, that do not read, and that return."""
    node = await lab.start_node(broker=False, outbox_messages=100)
    clients = [lab.client(node, "last:1", is_latest_only=True) for _ in range(60)]
    slow = [lab.client(node, "last:1", is_latest_only=True, has_small_buffer=True, stays=True) for _ in range(5)]
    await lab.join([*clients, *slow])
    for client in slow:
        client.stop_reading()
    for number in range(2000):
        await lab.publish(node, "last:1", "v" * 2000, key=f"k{lab.random.randrange(50)}")
        if number % 50 == 0:
            await lab.all_current([client for client in clients if client.is_open])
        if number == 1000:
            for client in clients[:20]:
                client.leave()
    for client in slow:
        client.go_on_reading()
    await lab.join(clients[:20])
    await lab.publish(node, "last:1", key="k0")
    await lab.all_current()
    late = lab.client(node, "last:1", is_latest_only=True)
    await lab.join([late])
    await lab.all_current()
    lab.equal(node.metrics.too_slow, 0, "clients closed as too slow")
    lab.equal(late.views["last:1"].received, len(lab.ledger.values["last:1"]), "values of a new client")


@scenario(seconds=2)
async def presence_under_churn(lab: Lab) -> None:
    """100 clients leave and return, while 20 watch the members."""
    node = await lab.start_node(broker=False)
    await churn_members(lab, [node], "here:1")


async def churn_members(lab: Lab, nodes: list[Node], channel: str) -> None:
    """Let members come and go. In the end, all watchers know all members."""
    watchers = [lab.client(lab.random.choice(nodes), channel, user=f"w{number}") for number in range(20)]
    await lab.join(watchers)
    others = [lab.client(lab.random.choice(nodes), channel, user=f"u{number % 30}") for number in range(100)]
    for _ in range(6):
        leaving = [client for client in others if client.is_open and lab.random.random() < 0.5]
        entering = [client for client in others if not client.is_open and lab.random.random() < 0.7]
        for client in leaving:
            client.leave()
            lab.counts["left"] += 1
        await lab.join(entering)
        lab.counts["joined"] += len(entering)

    def is_right(client: Client) -> bool:
        return client.members.get(channel) == ids_of(nodes, channel)

    try:
        await until(lambda: all(is_right(client) for client in lab.clients if client.is_open), "", seconds=10)
    except TimeoutError:
        wrong = [client for client in lab.clients if client.is_open and not is_right(client)]
        truth = ids_of(nodes, channel)
        first = wrong[0].members.get(channel, set())
        more, less = len(first - truth), len(truth - first)
        lab.check(False, f"{len(wrong)} clients have other members, such as {more} more and {less} less")
    presence = await nodes[0].gateway.presence(channel)
    lab.equal({member.id for member in presence.members}, ids_of(nodes, channel), "presence")
    counts = await nodes[0].gateway.presence_counts(channel)
    users = {client.user for client in lab.clients if client.is_open}
    lab.equal((counts.connections, counts.users), (len(ids_of(nodes, channel)), len(users)), "counts")


def ids_of(nodes: list[Node], channel: str) -> set[str]:
    """Return the ids of all members, as the nodes have them."""
    return {conn.id for node in nodes for conn in node.gateway.local_channels.get(channel, ())}


@scenario(seconds=1)
async def idempotent_publications(lab: Lab) -> None:
    """200 keys, each published by 5 callers at the same time."""
    node = await lab.start_node(broker=False)
    await publish_with_keys(lab, [node])


async def publish_with_keys(lab: Lab, nodes: list[Node]) -> None:
    """Publish each key five times, from all nodes. Each is published once, and all answers have its position."""
    clients = [lab.client(lab.random.choice(nodes), "kept:1") for _ in range(20)]
    await lab.join(clients)
    keys = 200
    for key in range(keys):
        text = lab.ledger.next_text("kept:1", "s")
        sent = await asyncio.gather(
            *[
                lab.random.choice(nodes).gateway.publish(text, channel="kept:1", idempotency_key=f"key-{key}")
                for _ in range(5)
            ]
        )
        lab.equal(sum(each.is_new is True for each in sent), 1, f"new publications of key {key}")
        lab.equal(len({each.at for each in sent}), 1, f"positions of key {key}")
        lab.ledger.published("kept:1", sent[0].at, text)
    lab.counts["published"] += keys
    await lab.all_current()
    lab.equal(sum(view.received for view in lab.views()), keys * 20, "deliveries")


@scenario(seconds=3)
async def closes_in_the_middle(lab: Lab) -> None:
    """400 clients are cut at a random moment of connecting, subscribing, and receiving. Bystanders miss nothing."""
    node = await lab.start_node(broker=False)
    bystanders = [lab.client(node, "kept:1", kind=kind) for kind in ("v1", "plain", "sse", "stream")]
    await lab.join(bystanders)
    over = asyncio.Event()
    publishing = asyncio.create_task(lab.keep_publishing(lambda: node, ["kept:1"], 500, over))
    await cut_in_the_middle(lab, [node], 400)
    over.set()
    await publishing
    await lab.all_current(bystanders)


async def cut_in_the_middle(lab: Lab, nodes: list[Node], count: int) -> None:
    """Connect clients that are aborted after a random time."""

    async def one() -> None:
        kind = lab.random.choice(["v1", "plain", "sse", "stream"])
        channels = [f"{lab.random.choice(['kept', 'waits', 'here'])}:{number}" for number in range(1, 4)]
        del channels[1 if kind == "sse" else 3 :]  # a stream with one channel has the ids that a client here reads
        client = lab.client(lab.random.choice(nodes), *channels, kind=kind, user="u")
        joining = asyncio.create_task(client.join())
        await asyncio.sleep(lab.random.random() * 0.1)  # clients that leave at different moments
        joining.cancel()
        client.leave()
        await asyncio.gather(joining, return_exceptions=True)
        lab.counts["cut"] += 1

    for _ in range(0, count, 50):
        await asyncio.gather(*[one() for _ in range(50)])


@scenario(seconds=1)
async def hooks_that_refuse_and_fail(lab: Lab) -> None:
    """`on_subscribe` refuses, raises, and takes too long, for 30 clients each. Only those clients are refused."""
    lab.counts["expected errors"] = 60
    node = await lab.start_node(broker=False, hook_timeout=0.5)
    bystander = lab.client(node, "kept:1")
    await lab.join([bystander])
    await refuse_by_hooks(lab, node)
    await lab.publish(node, "kept:1")
    await lab.all_current([bystander])


async def refuse_by_hooks(lab: Lab, node: Node) -> None:
    clients = [lab.client(node) for _ in range(30)]
    await lab.join(clients)
    for client in clients:
        for ident, name in enumerate(("refused:1", "raises:1", "slow:1")):
            client.send(subscribe=name, id=ident)
    await until(lambda: all(len(client.answers) == 3 for client in clients), "answers are missing")
    for client in clients:
        lab.equal([client.answers[ident]["status"] for ident in range(3)], [403, 500, 503], "statuses")
    gone = [lab.client(node) for _ in range(30)]
    await lab.join(gone)
    for client in gone:
        client.send(subscribe="slow:2")
        client.send(subscribe="waits:1")
        client.leave()
    await until(lambda: len(node.gateway.connections) == len(lab.clients) - 30, "connections remain")
    lab.equal([name for name in node.gateway.local_channels if name != "kept:1"], [], "channels")


@scenario(seconds=1)
async def messages_of_clients(lab: Lab) -> None:
    """40 clients publish 50 messages each into one channel. Each answer has the position of its message."""
    node = await lab.start_node(broker=False)
    await publish_by_clients(lab, [node])


async def publish_by_clients(lab: Lab, nodes: list[Node]) -> None:
    clients = [lab.client(nodes[number % len(nodes)], "open:1") for number in range(40)]
    await lab.join(clients)
    texts: dict[tuple[int, int], str] = {}
    for ident in range(50):
        for place, client in enumerate(clients):
            texts[place, ident] = lab.ledger.next_text("open:1", f"c{place}")
            client.send(channel="open:1", message=texts[place, ident], id=ident)
        if ident % 10 == 9:
            await until(lambda: all(len(client.answers) > ident for client in clients), "answers are missing")  # noqa: B023
    for (place, ident), text in texts.items():
        lab.ledger.published("open:1", clients[place].answers[ident].get("at"), text)
    lab.counts["published"] = len(texts)
    await lab.all_current()
    lab.equal(sum(view.received for view in lab.views()), 40 * 2000, "deliveries")


@scenario(seconds=1)
async def actions_by_user(lab: Lab) -> None:
    """20 users with 5 clients each are sent to, subscribed, unsubscribed, and disconnected."""
    node = await lab.start_node(broker=False)
    await act_by_user(lab, [node])


async def act_by_user(lab: Lab, nodes: list[Node]) -> None:
    clients = [lab.client(nodes[number % len(nodes)], kind="v1", user=f"u{number % 20}") for number in range(100)]
    await lab.join(clients)
    for user in range(20):
        await lab.random.choice(nodes).gateway.publish(f"to u{user}", user=f"u{user}")
        sent = await lab.random.choice(nodes).gateway.send(f"again u{user}", user=f"u{user}")
        lab.equal(sent.recipients, 5, f"recipients of u{user}")
    await until(lambda: all(len(client.others) == 2 for client in clients), "messages to users are missing")
    for client in clients:
        lab.equal(sorted(client.others), [f"again {client.user}", f"to {client.user}"], "messages")
    for user in range(20):
        count = await lab.random.choice(nodes).gateway.subscribe("kept:1", user=f"u{user}")
        lab.equal(count, 5, f"subscriptions of u{user}")
    await until(lambda: all("kept:1" in client.views for client in clients), "subscriptions are missing")
    await lab.publish_many(nodes[0], "kept:1", 5)
    await lab.all_current()
    for user in range(10):
        count = await lab.random.choice(nodes).gateway.unsubscribe("kept:1", user=f"u{user}")
        lab.equal(count, 5, f"ended subscriptions of u{user}")
    await until(lambda: sum("kept:1" in client.views for client in clients) == 50, "subscriptions do not end")
    await lab.publish_many(nodes[0], "kept:1", 5)
    await lab.all_current()
    for user in range(20):
        count = await lab.random.choice(nodes).gateway.disconnect(user=f"u{user}")
        lab.equal(count, 5, f"disconnected clients of u{user}")
    await until(lambda: not any(client.is_open for client in clients), "clients are not disconnected")
    lab.equal({code for client in clients for code, _ in client.closes}, {3503}, "close codes")

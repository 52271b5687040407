"""Everything at the same time, at random: links that are cut, data that is lost, nodes that are replaced, clients that
come and go. A failing seed shows an order of events that nobody has thought of.
"""

import asyncio
from collections.abc import Awaitable, Callable

from scenarios import scenario
from scenarios.brokers import Cable
from scenarios.channels import ids_of
from scenarios.clients import Client
from scenarios.failures import are_up, drop_announcements, restore_announcements
from scenarios.lab import Lab, Node
from scenarios.wires import until

SECONDS = 4.0
"""How long the events go on."""

PAUSE = 0.15
"""Seconds between two events, times a random number up to 1."""

NAMES = [f"kept:{number}" for number in range(4)]


class Chaos:
    """The nodes of one run, each of which may be behind a cable, and what may happen to them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.cables: dict[Node, Cable] = {}
        self.nodes: list[Node] = []
        self.is_over = asyncio.Event()

    async def add_node(self) -> None:
        lab = self.lab
        if lab.broker.kind == "ipc":
            self.nodes.append(await lab.start_node())
            return
        cable = Cable(lab.broker)
        await cable.repair()
        lab.stack.push_async_callback(cable.aclose)
        node = await lab.start_node(url=cable.url)
        self.cables[node] = cable
        self.nodes.append(node)

    def url(self) -> str:
        return self.lab.random.choice(self.nodes).url

    # Events

    async def cut(self) -> None:
        node = self.lab.random.choice(self.nodes)
        cable = self.cables[node]
        cable.cut()
        await asyncio.sleep(self.lab.random.random() * 0.5)  # the pace of the events
        await cable.repair()

    async def kill_connections(self) -> None:
        self.lab.broker.command("CLIENT", "KILL", "TYPE", self.lab.random.choice(["pubsub", "normal"]))

    async def lose_data(self) -> None:
        if self.lab.random.random() < 0.2:
            self.lab.broker.command("FLUSHALL")
            self.lab.ledger.begin_again()
            self.lab.counts["data lost"] += 1

    async def lose_announcements(self) -> None:
        node = self.lab.random.choice(self.nodes)
        drop_announcements(self.lab, node)
        await asyncio.sleep(self.lab.random.random() * 0.3)  # the pace of the events
        restore_announcements(node)

    async def replace_node(self) -> None:
        if self.lab.random.random() < 0.3:
            await self.add_node()
            self.lab.counts["nodes replaced"] += 1
            await self.nodes.pop(self.lab.random.randrange(len(self.nodes) - 1)).stop()

    async def move_clients(self) -> None:
        for client in self.lab.random.sample(self.lab.clients, 10):
            client.leave()
            await asyncio.sleep(self.lab.random.random() * 0.02)  # the pace of the events
            client.come_back()

    async def run(self, events: list[Callable[[], Awaitable[None]]]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + SECONDS
        while loop.time() < end:
            await self.lab.random.choice(events)()
            self.lab.counts["events"] += 1
            await asyncio.sleep(self.lab.random.random() * PAUSE)  # the pace of the publications
        self.is_over.set()


@scenario("ipc", "redis", "redis-again", seconds=8)
async def chaos(lab: Lab, kind: str) -> None:
    """Events at random over 3 nodes and 120 clients of each protocol, while messages are published."""
    lab.start_broker(kind.removesuffix("-again"))
    chaos = Chaos(lab)
    for _ in range(3):
        await chaos.add_node()
    await are_up(chaos.nodes)
    kinds = ("v1", "v1", "stream", "sse")
    clients = [
        lab.client(chaos.url, NAMES[number % 4], kind=kinds[number // 4 % 4], stays=True) for number in range(120)
    ]
    await lab.join(clients)
    events = [chaos.lose_announcements, chaos.replace_node, chaos.move_clients]
    if lab.broker.kind == "redis":
        events += [chaos.cut, chaos.kill_connections, chaos.lose_data]
    publishing = [
        asyncio.create_task(
            lab.keep_publishing(lambda place=place: chaos.nodes[place], NAMES, 40, chaos.is_over, f"n{place}")  # type: ignore[misc]
        )
        for place in range(2)
    ]
    await chaos.run(events)
    await asyncio.gather(*publishing)
    await are_up(chaos.nodes)
    await until(lambda: all(client.is_ready for client in clients), "clients do not return")
    await settle(lab, chaos, clients)


async def settle(lab: Lab, chaos: Chaos, clients: list[Client]) -> None:
    for name in NAMES:
        await lab.publish_surely(chaos.nodes[0], name)
    lab.ledger.begin_again()  # a position of before may belong to data that was lost
    for name in NAMES:
        await lab.publish_surely(chaos.nodes[0], name)
    await lab.all_current(clients)


@scenario("redis", "nats", seconds=6)
async def members_while_links_are_cut(lab: Lab, kind: str) -> None:
    """Links are cut at random, while clients come and go. In the end, everybody knows all members."""
    lab.start_broker(kind)
    chaos = Chaos(lab)
    options = {} if kind == "redis" else {"has_history": False}
    for _ in range(2):
        cable = Cable(lab.broker)
        await cable.repair()
        lab.stack.push_async_callback(cable.aclose)
        node = await lab.start_node(url=cable.url, **options)
        chaos.cables[node] = cable
        chaos.nodes.append(node)
    await are_up(chaos.nodes)
    clients = [lab.client(chaos.url, "here:1", stays=True, user=f"u{number}") for number in range(60)]
    await lab.join(clients)
    await chaos.run([chaos.cut, chaos.move_clients, chaos.move_clients])
    await are_up(chaos.nodes)
    await until(lambda: all(client.is_ready for client in clients), "clients do not return")

    def wrong() -> list[str]:
        members = ids_of(chaos.nodes, "here:1")
        return [
            f"{client.name} has {len(client.members['here:1'] - members)} more, "
            f"{len(members - client.members['here:1'])} less"
            for client in clients
            if client.members["here:1"] != members
        ]

    try:
        await until(lambda: not wrong(), "", seconds=10)
    except TimeoutError:
        lab.check(False, f"{len(wrong())} clients have other members, such as {wrong()[:3]}")

"""The members of channels: answers for one node, and lists and counts of all nodes. Knows no HTTP."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from hashlib import blake2b
from operator import attrgetter
from typing import Generic, TypeVar

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.envelopes import MemberRow
from wsgateway.cluster.members import HASH, PAGE_BYTES, PAGE_HASHES, ask_members, ask_users, new_page, size_of
from wsgateway.cluster.nodes import node_of
from wsgateway.cluster.questions import CountMembers, MemberPage, MemberRows, Members, UserPage
from wsgateway.cluster.records import member_of, row_of
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import NodeError
from wsgateway.frames import Counts, Presence
from wsgateway.hub.channels import Channels
from wsgateway.logs import GatewayLog

SLICE = 2_000
"""Members that are handled in one iteration of the event loop."""

INTERVAL = 0.5
"""Seconds between two requests to the other nodes about the members of one channel."""

A = TypeVar("A")


class MemberAnswers:
    """Answers for one node about the members of its channels. `answering` answers the questions of other nodes."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.answering: Answering = {Members: self._answer_members, CountMembers: self._answer_counts}

    def rows(self, name: str, after: str | None = None) -> Iterator[MemberRow]:
        """Yield the members of a channel in this process, or only those after the id `after`, by id."""
        channel, conns = self.channels.find(name), self.channels.subscribers(name)
        if after is not None:
            conns = sorted((conn for conn in conns if conn.id > after), key=attrgetter("id"))
        if channel is not None:
            for conn in conns:
                yield row_of(channel.member(conn))

    async def users(self, name: str) -> tuple[int, set[bytes]]:
        """Return the number of members of a channel in this process, and the hashes of their users."""
        conns = self.channels.subscribers(name)
        hashes = set()
        for number, conn in enumerate(conns, 1):
            hashes.add(blake2b(conn.user_id.encode(), digest_size=HASH).digest())
            if number % SLICE == 0:
                await asyncio.sleep(0)  # serves others between two slices
        return len(conns), hashes

    async def _answer_members(self, question: Members) -> MemberPage:
        page, lists, after = new_page(), list[MemberRows](), question.after
        following = self.channels.following
        for name in question.channels:
            number = 0 if following is None else following.presence.number_of(name)
            rows: list[MemberRow] = []
            for row in self.rows(name, after):
                size = size_of(row)
                if size > PAGE_BYTES:
                    continue
                if not page.fits(size):
                    if rows:
                        lists.append(MemberRows(number, rows))
                    return MemberPage(lists, False)
                page.add(size)
                rows.append(row)
            lists.append(MemberRows(number, rows))
            after = ""
        return MemberPage(lists, True)

    async def _answer_counts(self, question: CountMembers) -> UserPage:
        connections, users = await self.users(question.channel)
        hashes = sorted(each for each in users if each > question.after)
        return UserPage(connections, b"".join(hashes[:PAGE_HASHES]), len(hashes) <= PAGE_HASHES)


class _Requests(Generic[A]):
    """Asks every other node about a channel. Concurrent callers share a request, and there is one in `INTERVAL`."""

    def __init__(self, ask: Callable[[Cluster, str, str], Awaitable[A]], log: GatewayLog) -> None:
        self._ask = ask
        self._log = log
        self._requests: dict[tuple[str, str], asyncio.Future[tuple[list[A], bool]]] = {}

    async def answers(self, cluster: AnyCluster, channel: str) -> tuple[list[A], bool]:
        """Return the answers of the nodes, by id, and whether every node that is present has answered."""
        if not isinstance(cluster, Cluster):
            return [], True
        if not cluster.is_up:
            return [], False
        key = cluster.node, channel
        request = self._requests.get(key)
        if request is None or request.get_loop().is_closed():
            loop = asyncio.get_running_loop()
            due = loop.time() + INTERVAL
            request = self._requests[key] = asyncio.ensure_future(self._collect(cluster, channel))
            request.add_done_callback(lambda _: loop.call_at(due, self._requests.pop, key, None))
        return await asyncio.shield(request)

    async def _collect(self, cluster: Cluster, channel: str) -> tuple[list[A], bool]:
        nodes = cluster.nodes.present()
        asked = sorted(node.id for node in nodes if not node.is_late)
        results = await asyncio.gather(
            *(self._ask(cluster, node_id, channel) for node_id in asked), return_exceptions=True
        )
        answers = {}
        for node_id, result in zip(asked, results, strict=True):
            if not isinstance(result, BaseException):
                answers[node_id] = result
            elif isinstance(result, NodeError):
                self._log.limited("asked for members").warning("members: %s", result)
            else:
                raise result
        is_missing = any(cluster.nodes.is_present(node.id) for node in nodes if node.id not in answers)
        return [*answers.values()], cluster.is_up and not is_missing


class MemberLists:
    """The members of channels in all nodes of a gateway."""

    def __init__(self, answers: MemberAnswers, cluster: Callable[[], AnyCluster], log: GatewayLog) -> None:
        self._answers = answers
        self._cluster = cluster
        self._rows = _Requests(_ask_rows, log)
        self._users = _Requests(ask_users, log)

    async def rows(self, channel: str) -> tuple[list[MemberRow], bool]:
        """Return the members of a channel, and whether they are complete. Raise `ChannelError`.

        Several nodes return them in the same order, by id.
        """
        self._answers.channels.namespaces.find(channel)
        others, is_complete = await self._rows.answers(self._cluster(), channel)
        rows = [*self._answers.rows(channel)]
        for other in others:
            rows += other
        return sorted(rows) if self._cluster().has_broker else rows, is_complete

    async def presence(self, channel: str) -> Presence:
        """Return the members of a channel. Raise `ChannelError`."""
        self._answers.channels.namespaces.find(channel)
        others, is_complete = await self._rows.answers(self._cluster(), channel)
        members = self._answers.channels.members(channel)
        for rows in others:
            for start in range(0, len(rows), SLICE):
                members += map(member_of, rows[start : start + SLICE])
                await asyncio.sleep(0)  # serves others between two slices
        return Presence(members, is_complete)

    async def counts(self, channel: str) -> Counts:
        """Return the number of members and of users of a channel. Raise `ChannelError`."""
        self._answers.channels.namespaces.find(channel)
        others, is_complete = await self._users.answers(self._cluster(), channel)
        connections, users = await self._answers.users(channel)
        for count, hashes in others:
            connections += count
            users |= hashes
        return Counts(connections, len(users), is_complete)


async def _ask_rows(cluster: Cluster, node_id: str, channel: str) -> list[MemberRow]:
    (listed,) = await ask_members(cluster, node_id, [channel])
    rows = list[MemberRow]()
    for start in range(0, len(listed.rows), SLICE):
        rows += filter(partial(_is_member, node_id), listed.rows[start : start + SLICE])
        await asyncio.sleep(0)  # serves others between two slices
    return rows


def _is_member(node_id: str, row: MemberRow) -> bool:
    """Return whether `row`, which a node has reported, is a connection of that node whose infos are JSON."""
    if node_of(row[0]) != node_id:
        return False
    try:
        return row[2:] == ("null",) or member_of(row) is not None
    except ValueError:
        return False

"""The members that channels with `presence` have in the other nodes, and those of this process for the others.

Members of this process are announced on the topics of their channels. Those of another node are asked for when a
channel is followed, and again whenever the node or the link to the broker returns. Knows no hooks.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from itertools import islice

from wsgateway.cluster import envelopes
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.envelopes import VERSION, MemberRow, Membership
from wsgateway.cluster.members import PAGE_ROWS, ask_members, pages_of
from wsgateway.cluster.records import row_of
from wsgateway.exceptions import NodeError
from wsgateway.frames import Member, PresenceFrame
from wsgateway.hub.channel import Channel
from wsgateway.hub.hub import Hub
from wsgateway.hub.roster import Change, Event, Roster, rows_of
from wsgateway.logs import GatewayLog

MAX_ASKED = 500
"""Channels in one question."""

SLICE = 500
"""Members that join or leave in one iteration of the event loop, when those of a whole node do."""

JOIN_TIMEOUT = 2.0
"""Seconds that a subscription waits for the members in the other nodes. Those that come later join visibly."""

RETRY = 1.0
"""Seconds until a node that did not answer is asked again."""


class _Peer:
    """Another node. `channels` contains those whose members in it are asked for, each with the number of the request.

    `is_gone` is whether the node was absent, and its members have to be removed. `is_reported` is whether the log has
    the reason why it has to be asked again.
    """

    __slots__ = ("channels", "is_gone", "is_reported", "task")

    def __init__(self) -> None:
        self.channels: dict[str, int] = {}
        self.is_gone = False
        self.is_reported = False
        self.task: asyncio.Task[None] | None = None


class SharedPresence:
    """The members of the followed channels with `presence`, for one process.

    `find` returns a channel if it has subscribers in this process.
    """

    def __init__(
        self,
        cluster: Cluster,
        hub: Hub,
        find: Callable[[str], Channel | None],
        log: GatewayLog,
    ) -> None:
        self._cluster = cluster
        self._hub = hub
        self._find = find
        self._log = log
        self._rosters: dict[str, Roster] = {}
        self._joining: dict[str, tuple[set[str], asyncio.Event]] = {}
        self._peers: dict[str, _Peer] = {}
        self._requests = 0
        self._restoring: asyncio.Task[None] | None = None
        self._changes: dict[str, dict[str, Member | None]] = {}  # of this iteration of the event loop
        self._number = 0
        self._numbers: dict[str, int] = {}  # of the last change of each channel that has members here

    async def aclose(self) -> None:
        """Announce what has changed, and ask no more."""
        self._flush()
        tasks = [peer.task for peer in self._peers.values() if peer.task is not None]
        if self._restoring is not None:
            tasks.append(self._restoring)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._rosters.clear()

    # Members of this process

    def changed(self, channel: str, conn_id: str, member: Member | None) -> None:
        """Announce that `member` has joined a channel, or, if it is None, that the connection has left it."""
        if not self._changes:
            asyncio.get_running_loop().call_soon(self._flush, context=Context())
        self._changes.setdefault(channel, {})[conn_id] = member

    def number_of(self, channel: str) -> int:
        """Return the number of the last change that the list of the members in this process contains."""
        if channel in self._changes:
            self._flush()
        return self._numbers.get(channel, self._number)

    def _flush(self) -> None:
        changes, self._changes = self._changes, {}
        for channel, members in changes.items():
            left = [conn_id for conn_id, member in members.items() if member is None]
            for start in range(0, len(left), PAGE_ROWS):
                self._announce(channel, [], left[start : start + PAGE_ROWS])
            for page in pages_of(row_of(member) for member in members.values() if member is not None):
                if page or not left:
                    self._announce(channel, page, [])
            found = self._find(channel)
            if found is None or not found.members:
                del self._numbers[channel]

    def _announce(self, channel: str, joined: list[MemberRow], left: list[str]) -> None:
        self._number += 1
        prev = self._numbers.get(channel, 0)
        self._numbers[channel] = self._number
        change = Membership(VERSION, self._cluster.node, 0, channel, joined, left, prev, self._number)
        self._cluster.routing.publish(channel, envelopes.encode(change))

    # Members in the other nodes

    def rows(self, channel: str) -> Iterable[bytes]:
        """Return the members of a channel in the other nodes, as JSON objects."""
        roster = self._rosters.get(channel)
        return () if roster is None else roster.rows()

    async def join(self, channel: str) -> None:
        """Ask all nodes for the members of a channel, whose topic is in force. Wait at most `JOIN_TIMEOUT` seconds.

        Nodes that are late are not waited for.
        """
        self._rosters[channel] = Roster()
        nodes = self._cluster.nodes.present() if self._cluster.is_up else []
        for node in nodes:
            self._ask(node.id, (channel,))
        missing = {node.id for node in nodes if not node.is_late}
        if not missing:
            return
        asked = asyncio.Event()
        self._joining[channel] = missing, asked
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(JOIN_TIMEOUT):
                    await asked.wait()
        finally:
            self._joining.pop(channel, None)

    def leave(self, channel: str) -> None:
        """Forget the members of a channel, whose topic is not followed any more."""
        self._rosters.pop(channel, None)
        for peer in self._peers.values():
            peer.channels.pop(channel, None)

    def arrived(self, membership: Membership) -> None:
        """Apply a change in another node."""
        roster, origin = self._rosters.get(membership.channel), membership.origin
        if roster is None or not self._cluster.nodes.is_present(origin):
            return  # an unknown node is asked when its heartbeat has arrived
        joined = rows_of(origin, membership.joined)
        change = Change(origin, membership.prev, membership.number, joined, membership.left)
        events, is_behind = roster.apply(change)
        self._report(membership.channel, events)
        if is_behind:
            self._ask(origin, (membership.channel,))

    def node_gone(self, node_id: str) -> None:
        """Remove the members in a node, and notify the subscribers."""
        peer = self._peers.setdefault(node_id, _Peer())
        self._release(node_id, peer.channels)
        peer.channels.clear()
        peer.is_gone = True
        self._begin(node_id, peer)

    def node_present(self, node_id: str) -> None:
        """Ask a node for the members of all channels, because it is new, or its changes may have been lost."""
        self._ask(node_id, self._rosters)

    def restored(self) -> None:
        """Ask all nodes for the members of all channels, because the link to the broker was lost."""
        if self._restoring is not None:
            self._restoring.cancel()
        self._restoring = asyncio.create_task(self._restore(), context=Context())

    async def _restore(self) -> None:
        in_force = {channel: self._cluster.routing.follow(channel) for channel in self._rosters}
        if not in_force:
            return
        try:
            await asyncio.wait(in_force.values())
        finally:
            for each in in_force.values():
                each.cancel()
        channels = [name for name, each in in_force.items() if not each.cancelled() and each.exception() is None]
        for node in self._cluster.nodes.present():
            self._ask(node.id, channels)

    # Asking

    def _ask(self, node_id: str, channels: Iterable[str]) -> None:
        """Begin to ask a node for its members of channels. Their changes are set aside until it has answered."""
        channels = [channel for channel in channels if channel in self._rosters]
        if not channels:
            return
        peer = self._peers.setdefault(node_id, _Peer())
        self._requests += 1
        for channel in channels:
            self._rosters[channel].hold(node_id)
            peer.channels[channel] = self._requests
        self._begin(node_id, peer)

    def _begin(self, node_id: str, peer: _Peer) -> None:
        if peer.task is None:
            peer.task = asyncio.create_task(self._serve(node_id, peer), context=Context())

    async def _serve(self, node_id: str, peer: _Peer) -> None:
        """Remove the members in a node if it was gone, and ask it, until there is nothing to ask."""
        try:
            while peer.is_gone or peer.channels:
                if peer.is_gone:
                    peer.is_gone = False
                    await self._drop(node_id, peer)
                else:
                    await self._fetch(node_id, peer)
        finally:
            peer.task = None
            if self._peers.get(node_id) is peer:
                del self._peers[node_id]

    async def _fetch(self, node_id: str, peer: _Peer) -> None:
        """Ask a node for its members of the next channels, and report the differences."""
        asked = dict(islice(peer.channels.items(), MAX_ASKED))
        try:
            lists = await ask_members(self._cluster, node_id, [*asked])
        except NodeError as exc:
            self._release(node_id, asked)
            if not self._cluster.is_up or not self._cluster.nodes.is_present(node_id):
                peer.channels.clear()  # until `restored` or `node_present`
                return
            if not peer.is_reported:
                peer.is_reported = True
                self._log.limited("members").warning("the members of channels are asked for again: %s", exc)
            await asyncio.sleep(RETRY)  # a node that is late or busy, or of an earlier version
            return
        for (channel, request), listed in zip(asked.items(), lists, strict=True):
            if peer.is_gone:
                return
            if peer.channels.get(channel) != request:
                continue  # it is not followed any more, or the answer may be too old
            del peer.channels[channel]
            roster = self._rosters[channel]
            rows = await _encode(node_id, listed.rows)
            if await self._slices(channel, roster, roster.fill(node_id, rows)) and channel not in peer.channels:
                events, is_behind = roster.release(node_id, listed.number)
                self._report(channel, events)
                if is_behind:
                    self._ask(node_id, (channel,))
            self._release(node_id, (channel,))

    async def _drop(self, node_id: str, peer: _Peer) -> None:
        """Remove the members in a node, and notify the subscribers."""
        for channel, roster in tuple(self._rosters.items()):
            if await self._slices(channel, roster, roster.drop(node_id)) and channel not in peer.channels:
                roster.forget(node_id)

    async def _slices(self, channel: str, roster: Roster, events: Iterator[Event]) -> bool:
        """Report events as they happen. Return False if the channel is not followed any more."""
        if self._rosters.get(channel) is not roster:
            return False
        for count, event in enumerate(events, 1):
            self._report(channel, (event,))
            if count % SLICE == 0:
                await asyncio.sleep(0)  # serves others between two slices
                if self._rosters.get(channel) is not roster:
                    return False
        return True

    def _report(self, name: str, events: Iterable[Event]) -> None:
        """Notify the subscribers of a channel in this process."""
        channel = self._find(name)
        if channel is not None:
            for event in events:
                self._hub.deliver(PresenceFrame(name, event.member, has_left=event.has_left), channel)

    def _release(self, node_id: str, channels: Iterable[str]) -> None:
        """Stop waiting for a node, because it has answered, or will not."""
        for channel in channels:
            missing, asked = self._joining.get(channel, (None, None))
            if missing is not None and asked is not None:
                missing.discard(node_id)
                if not missing:
                    asked.set()


async def _encode(node_id: str, rows: list[MemberRow]) -> dict[str, bytes]:
    encoded = rows_of(node_id, rows[:SLICE])
    for start in range(SLICE, len(rows), SLICE):
        await asyncio.sleep(0)  # serves others between two slices
        encoded |= rows_of(node_id, rows[start : start + SLICE])
    return encoded

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
from wsgateway.cluster.members import ask_members, pages_of
from wsgateway.exceptions import BrokerError, EnvelopeError, NodeError
from wsgateway.frames import Member, PresenceFrame
from wsgateway.hub.roster import Change, Event, Roster, row_of, rows_of
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
    """Another node. `channels` are those whose members in it are asked for. `is_gone` is whether it was absent."""

    __slots__ = ("channels", "is_gone", "task")

    def __init__(self) -> None:
        self.channels: dict[str, None] = {}
        self.is_gone = False
        self.task: asyncio.Task[None] | None = None


class SharedPresence:
    """The members of the followed channels with `presence`, for one process.

    `deliver` sends a notification to the subscribers of its channel in this process, `has_members` returns whether a
    channel has any.
    """

    def __init__(
        self,
        cluster: Cluster,
        deliver: Callable[[PresenceFrame], None],
        has_members: Callable[[str], bool],
        log: GatewayLog,
    ) -> None:
        self._cluster = cluster
        self._deliver = deliver
        self._has_members = has_members
        self._log = log
        self._rosters: dict[str, Roster] = {}
        self._joining: dict[str, tuple[set[str], asyncio.Event]] = {}
        self._peers: dict[str, _Peer] = {}
        self._restoring: asyncio.Task[None] | None = None
        self._changes: dict[str, dict[str, Member | None]] = {}  # of this iteration of the event loop
        self._version = 0
        self._versions: dict[str, int] = {}  # of the last change of each channel that has members here

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

    def version_of(self, channel: str) -> int:
        """Return the number of the last change that the list of the members in this process contains."""
        if channel in self._changes:
            self._flush()
        return self._versions.get(channel, self._version)

    def _flush(self) -> None:
        changes, self._changes = self._changes, {}
        for channel, members in changes.items():
            left = [conn_id for conn_id, member in members.items() if member is None]
            for page in pages_of(row_of(member) for member in members.values() if member is not None):
                self._announce(channel, page, left)
                left = []
            if not self._has_members(channel):
                del self._versions[channel]

    def _announce(self, channel: str, joined: list[MemberRow], left: list[str]) -> None:
        self._version += 1
        prev = self._versions.get(channel, 0)
        self._versions[channel] = self._version
        change = Membership(VERSION, self._cluster.node, 0, channel, joined, left, prev, self._version)
        try:
            self._cluster.routing.publish(channel, envelopes.encode(change))
        except EnvelopeError as exc:  # an info that is too large
            self._log.limited("members not sent").warning("members of %s are not sent to other nodes: %s", channel, exc)

    # Members in the other nodes

    def rows(self, channel: str) -> Iterable[bytes]:
        """Return the members of a channel in the other nodes, as JSON objects."""
        roster = self._rosters.get(channel)
        return () if roster is None else roster.rows()

    async def join(self, channel: str) -> None:
        """Ask all nodes for the members of a channel, whose topic is in force. Wait at most `JOIN_TIMEOUT` seconds."""
        self._rosters[channel] = Roster()
        nodes = {node.id for node in self._cluster.nodes.present()} if self._cluster.is_up else set()
        if not nodes:
            return
        asked = asyncio.Event()
        self._joining[channel] = nodes, asked
        try:
            for node_id in tuple(nodes):
                self._ask(node_id, (channel,))
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
        change = Change(origin, membership.prev, membership.version, joined, membership.left)
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
        self._ask(node_id, tuple(self._rosters))

    def restored(self) -> None:
        """Ask all nodes for the members of all channels, because the link to the broker was lost."""
        if self._restoring is not None:
            self._restoring.cancel()
        self._restoring = asyncio.create_task(self._restore(), context=Context())

    async def _restore(self) -> None:
        followed = [self._cluster.routing.follow(channel) for channel in self._rosters]
        try:
            for each in followed:
                await each
        except BrokerError:
            return  # it is lost again
        finally:
            for each in followed:
                each.cancel()
        for node in self._cluster.nodes.present():
            self.node_present(node.id)

    # Asking

    def _ask(self, node_id: str, channels: tuple[str, ...]) -> None:
        """Begin to ask a node for its members of channels. Their changes are set aside until it has answered."""
        if not channels:
            return
        peer = self._peers.setdefault(node_id, _Peer())
        for channel in channels:
            self._rosters[channel].hold(node_id)
            peer.channels[channel] = None
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
                    await self._drop(node_id)
                else:
                    await self._fetch(node_id, peer)
        finally:
            peer.task = None
            if self._peers.get(node_id) is peer:
                del self._peers[node_id]

    async def _fetch(self, node_id: str, peer: _Peer) -> None:
        """Ask a node for its members of the next channels, and report the differences."""
        channels = [*islice(peer.channels, MAX_ASKED)]
        try:
            lists = await ask_members(self._cluster, node_id, channels)
        except NodeError as exc:
            self._release(node_id, channels)
            if not self._cluster.is_up or not self._cluster.nodes.is_present(node_id):
                peer.channels.clear()  # until `restored` or `node_present`
                return
            self._log.limited("members").warning("members: %s", exc)
            await asyncio.sleep(RETRY)  # a node that is late or busy
            return
        for channel, listed in zip(channels, lists, strict=True):
            if peer.is_gone:
                return
            if channel not in peer.channels:
                continue
            del peer.channels[channel]
            roster = self._rosters[channel]
            if await self._slices(channel, roster, roster.fill(node_id, rows_of(node_id, listed.rows))):
                events, is_behind = roster.release(node_id, listed.version)
                self._report(channel, events)
                if is_behind:
                    self._ask(node_id, (channel,))
            self._release(node_id, (channel,))

    async def _drop(self, node_id: str) -> None:
        for channel, roster in tuple(self._rosters.items()):
            await self._slices(channel, roster, roster.drop(node_id))

    async def _slices(self, channel: str, roster: Roster, events: Iterator[Event]) -> bool:
        """Report events as they happen. Return False if the channel is not followed any more."""
        if self._rosters.get(channel) is not roster:
            return False
        for number, event in enumerate(events, 1):
            self._report(channel, (event,))
            if number % SLICE == 0:
                await asyncio.sleep(0)  # serves others between two slices
                if self._rosters.get(channel) is not roster:
                    return False
        return True

    def _report(self, channel: str, events: Iterable[Event]) -> None:
        if self._has_members(channel):
            for event in events:
                self._deliver(PresenceFrame(channel, event.member, has_left=event.has_left))

    def _release(self, node_id: str, channels: Iterable[str]) -> None:
        """Stop waiting for a node, because it has answered, or will not."""
        for channel in channels:
            missing, asked = self._joining.get(channel, (None, None))
            if missing is not None and asked is not None:
                missing.discard(node_id)
                if not missing:
                    asked.set()

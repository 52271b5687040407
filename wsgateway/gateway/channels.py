"""The channels of one node and of all nodes of a gateway, as its pages and REST show them. Knows no HTTP."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from heapq import nsmallest
from typing import TypeVar

from wsgateway.cluster.asking import Answering
from wsgateway.cluster.history.memory import MemoryHistory
from wsgateway.cluster.owners import ask_owners
from wsgateway.cluster.questions import (
    ChannelRows,
    DescribeChannel,
    Forget,
    ListChannels,
    ListedChannel,
    Question,
    ReadHistory,
    Subscribe,
    SubscribeReport,
    SubscribeWith,
    Unsubscribe,
)
from wsgateway.cluster.single import AnyCluster
from wsgateway.config.channels import MAX_HISTORY
from wsgateway.exceptions import ChannelError, EnvelopeError, HistoryError, NodeError
from wsgateway.frames import History, Position
from wsgateway.gateway.members import MemberAnswers, MemberLists
from wsgateway.gateway.relay import no_node, serving_nodes
from wsgateway.gateway.shapes import (
    ChannelInfo,
    ChannelList,
    HistoryAnswer,
    PresenceAnswer,
    Unsubscribed,
    encoded,
    history_answer,
    member_info,
    publication_info,
    with_position,
)
from wsgateway.hub.channel import info_json
from wsgateway.hub.channels import Channels
from wsgateway.hub.hub import Hub
from wsgateway.hub.shared_history import SharedHistory
from wsgateway.logs import GatewayLog
from wsgateway.messages import Kind, Message
from wsgateway.text import short

A = TypeVar("A")

CHUNK = 5000
"""Names that are compared in one iteration of the event loop."""

TURN = 0.02
"""Seconds for which subscriptions begin in one iteration of the event loop. With `presence`, each notifies all members.
"""

MAX_ROWS = 10_000
"""Channels or members in one answer to another node."""


class ChannelAnswers:
    """Answers for one node about its channels. `answering` answers the questions of other nodes.

    `store` has the histories.
    """

    def __init__(self, hub: Hub, channels: Channels, history: MemoryHistory) -> None:
        self._hub = hub
        self._channels = channels
        self.store = history
        self.members = MemberAnswers(channels)
        self.answering: Answering = {
            ListChannels: self._answer_list,
            DescribeChannel: self._answer_describe,
            **self.members.answering,
            ReadHistory: self._answer_history,
            Forget: self._answer_forget,
            Subscribe: self._answer_subscribe,
            SubscribeWith: self._answer_subscribe,
            Unsubscribe: self._answer_unsubscribe,
        }

    def check(self, name: str) -> None:
        """Raise `ChannelError` if there can be no such channel."""
        self._channels.namespaces.find(name)

    def count_of(self, name: str) -> int:
        """Return how many subscribers a channel has in this process."""
        return self._channels.count_of(name)

    async def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, of channels with subscribers or a history, in no order."""
        names = set(self._channels.by_name).union(self.store.names())
        if not prefix:
            return list(names)
        matches = []
        for number, name in enumerate(names, 1):
            if name.startswith(prefix):
                matches.append(name)
            if number % CHUNK == 0:
                await asyncio.sleep(0)  # serves others between two chunks
        return matches

    def row(self, name: str) -> ListedChannel:
        """Return the row of a channel in a list. Raise `ChannelError` if there can be no such channel."""
        namespaces = self._channels.namespaces
        namespace, channel = namespaces.namespace_of(name), self._channels.find(name)
        at, published = None, None if channel is None else channel.published
        following = self._channels.following
        if namespaces.find(name).history and following is not None:
            position = following.position(name)
            at = None if position is None else str(position)
        elif namespaces.find(name).history:
            position, _, newest = self.store.peek(name) or (None, 0, None)
            at = None if position is None else str(position)
            published = published if newest is None else newest
        return ListedChannel(
            name=name,
            namespace=namespace or None,
            subscribers=self._channels.count_of(name),
            at=at,
            silent=None if published is None else round(time.monotonic() - published, 3),
        )

    def info(self, row: ListedChannel, *, is_shared: bool) -> ChannelInfo:
        """Return a row with the fields that only the answer for a single channel has.

        `is_shared` is whether histories are shared with other nodes.
        """
        settings = self._channels.namespaces.find(row.name)
        _, records, _ = self.store.peek(row.name) or (None, 0, None)
        is_shared = is_shared and settings.history > 0
        return ChannelInfo(
            name=row.name,
            namespace=row.namespace,
            subscribers=row.subscribers,
            at=row.at,
            silent=row.silent,
            records=None if is_shared else records if settings.history else 0,
            settings=settings.shown(),
        )

    async def history(self, name: str, *, limit: int, since: str | None, reverse: bool) -> History:
        """Return publications of a channel, as `Gateway.history` does."""
        settings, position = self._channels.namespaces.find(name), self.check_read(name, limit, since)
        if not settings.history:
            return History([], None)
        shared = self._shared()
        if shared is not None:
            at, publications = await shared.read(name, settings, limit=limit, since=position, reverse=reverse)
        else:
            at, publications = self.store.read(name, settings, limit=limit, since=position, reverse=reverse)
        return History(publications, str(at))

    def check_read(self, name: str, limit: int, since: str | None) -> Position | None:
        """Return the position `since`. Raise `ChannelError` for the channel, and `ValueError` for the limit and it."""
        self.check(name)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= MAX_HISTORY:
            raise ValueError(f"limit is {short(limit)}, use 0 to {MAX_HISTORY}")
        if since is None:
            return None
        position = Position.parse(since) if isinstance(since, str) else None
        if position is None:
            raise ValueError(f"since is {short(since)}, use a position, EPOCH:OFFSET")
        return position

    async def forget(self, name: str) -> None:
        """Drop the history of a channel. Raise `ChannelError` if there can be no such channel, and `HistoryError`."""
        settings, shared = self._channels.namespaces.find(name), self._shared()
        if shared is None:
            self.store.forget(name)
        elif settings.history:
            await shared.forget(name)

    @property
    def usage(self) -> tuple[int, int]:
        """The bytes of all histories of the gateway, and how many channels have lost records because of them."""
        shared = self._shared()
        return (self.store.bytes, self.store.evicted) if shared is None else shared.usage

    def _shared(self) -> SharedHistory | None:
        following = self._channels.following
        return None if following is None else following.history

    async def subscribe(self, question: Subscribe | SubscribeWith) -> SubscribeReport:
        """Subscribe every connection that can be subscribed, and return how many.

        Leave out those whose subscription the application ends meanwhile.
        """
        count, error, info = 0, "", json.loads(question.info)
        revocations, name = self._channels.revocations, question.channel
        after, began = revocations.count, time.monotonic()
        since, reply = _extras_of(question)
        for conn in self._hub.select(question.ids, question.user):
            if time.monotonic() - began > TURN:
                await asyncio.sleep(0)  # serves others between two connections
                began = time.monotonic()
            if revocations.has(name, conn_id=conn.id, user=conn.user_id, after=after):
                continue
            try:
                if not self._channels.is_subscribed(conn, name):
                    await self._channels.subscribe_now(conn, name, info=info, since=since, reply=reply)
                    count += conn.is_open
            except ChannelError as exc:
                error = error or exc.reason
            except HistoryError as exc:  # the next connection would wait for the same store
                return SubscribeReport(count, str(exc), is_history=True)
        return SubscribeReport(count, error)

    def unsubscribe(self, question: Unsubscribe) -> int:
        """End subscriptions, and return how many. Raise `ChannelError`, or `ValueError` for a wrong code or reason."""
        end = self._channels.end
        return end(question.channel, question.code, question.reason, ids=question.ids, user=question.user)

    # Questions of other nodes

    async def _answer_list(self, question: ListChannels) -> ChannelRows:
        names = await self.names(question.prefix)
        total, after = len(names), question.after
        if after:
            names = [name for name in names if name > after]
        return ChannelRows(total, [*map(self.row, nsmallest(min(question.limit, MAX_ROWS), names))])

    async def _answer_describe(self, question: DescribeChannel) -> ListedChannel:
        return self.row(question.channel)

    async def _answer_history(self, question: ReadHistory) -> bytes:
        try:
            name = question.channel
            history = await self.history(name, limit=question.limit, since=question.since, reverse=question.reverse)
        except ValueError as exc:
            raise EnvelopeError("arguments", str(exc)) from exc
        return encoded(HistoryAnswer(name, history.at, [*map(publication_info, history.publications)]))

    async def _answer_forget(self, question: Forget) -> None:
        await self.forget(question.channel)

    async def _answer_subscribe(self, question: Subscribe | SubscribeWith) -> SubscribeReport:
        try:
            return await self.subscribe(question)
        except (ValueError, RecursionError) as exc:
            raise EnvelopeError("arguments", str(exc)) from exc

    async def _answer_unsubscribe(self, question: Unsubscribe) -> int:
        try:
            return self.unsubscribe(question)
        except ValueError as exc:
            raise EnvelopeError("arguments", str(exc)) from exc


class ChannelInspector:
    """Inspects the channels of a gateway across all its nodes. A node that does not answer in time is left out.

    A process without clients asks a node that serves some for the history. Each method raises `ChannelError` if there
    can be no such channel.
    """

    def __init__(
        self, gateway_id: str, answers: ChannelAnswers, cluster: Callable[[], AnyCluster], log: GatewayLog
    ) -> None:
        self._gateway_id = gateway_id
        self._answers = answers
        self._cluster = cluster
        self.members = MemberLists(answers.members, cluster, log)

    async def page(self, prefix: str, offset: int, limit: int) -> ChannelList:
        """Return a page of the channels whose name begins with `prefix`, in alphabetical order."""
        names, cluster = await self._answers.names(prefix), self._cluster()
        others = await cluster.ask_all(ListChannels(prefix, offset + limit))
        first = nsmallest(offset + limit, names)
        if not others:
            return ChannelList(len(names), offset, limit, [*map(self._answers.row, first[offset:])])
        merged = {name: self._answers.row(name) for name in first}
        total = len(names) - len(first)
        for answer in others.values():
            total += answer.total - len(answer.rows)
            for row in answer.rows:
                merged[row.name] = _joined(merged.get(row.name), row)
        page = [merged[name] for name in sorted(merged)[offset : offset + limit]]
        return ChannelList(total + len(merged), offset, limit, page)

    async def describe(self, name: str) -> ChannelInfo:
        """Return one channel with its settings."""
        row = self._answers.row(name)
        for other in (await self._cluster().ask_all(DescribeChannel(name))).values():
            row = _joined(row, other)
        cluster = self._cluster()
        info = self._answers.info(row, is_shared=cluster.has_broker)
        if info.records is not None:
            return info
        try:
            stored = await self.history(name, limit=0, since=None, reverse=False)
        except (HistoryError, NodeError):
            return info
        return with_position(info, stored.at)

    async def presence(self, name: str, offset: int, limit: int) -> PresenceAnswer:
        """Return a page of the members of a channel."""
        rows, is_complete = await self.members.rows(name)
        page = [member_info(*row) for row in rows[offset : offset + limit]]
        return PresenceAnswer(name, len(rows), offset, limit, page, is_complete)

    async def history(self, name: str, *, limit: int, since: str | None, reverse: bool) -> HistoryAnswer:
        """Return publications of a channel. Raise `ValueError` for a wrong limit or a malformed position."""
        if not self._cluster().is_serving:
            self._answers.check_read(name, limit, since)
            return history_answer(await self._ask_one(ReadHistory(name, limit, since, reverse)))
        history = await self._answers.history(name, limit=limit, since=since, reverse=reverse)
        return HistoryAnswer(name, history.at, [*map(publication_info, history.publications)])

    async def forget(self, name: str) -> None:
        """Drop the history of a channel."""
        self._answers.check(name)
        if self._cluster().is_serving:
            await self._answers.forget(name)
        else:
            await self._ask_one(Forget(name))

    async def _ask_one(self, question: Question[A]) -> A:
        """Ask the nodes that serve clients, one after the other, until one answers. Raise `NodeError`."""
        cluster = self._cluster()
        error = no_node(self._gateway_id)
        for node in serving_nodes(cluster):
            try:
                return await cluster.ask(node.id, question)
            except NodeError as exc:
                error = exc
        raise error

    async def subscribe(
        self,
        name: str,
        ids: Sequence[str] | None,
        user: str,
        info: object,
        *,
        reply: Message | None = None,
        since: str | None = None,
    ) -> int:
        """Subscribe the connections with `ids`, those of a `user`, or all. Return the number of new subscriptions.

        Each new subscriber receives `reply`, and the publications after the position `since`. Raise `ChannelError` if a
        connection cannot be subscribed, after all others are, and `MessageError` if `info` is not a JSON value.
        """
        self._answers.check(name)
        listed = None if ids is None else list(ids)
        question: Subscribe | SubscribeWith = Subscribe(name, listed, user, info_json(info))
        if reply is not None or since is not None:
            payload, kind = (None, Kind.TEXT) if reply is None else (reply.payload, reply.kind)
            question = SubscribeWith(name, listed, user, question.info, payload, kind.value, since)
        own = await self._answers.subscribe(question)
        others, _ = await ask_owners(self._cluster(), question, ids)
        for report in (own, *others):
            if report.error:
                raise HistoryError(report.error) if report.is_history else ChannelError(report.error)
        return own.count + sum(report.count for report in others)

    async def unsubscribe(
        self, name: str, ids: Sequence[str] | None, user: str, code: int, reason: str
    ) -> Unsubscribed:
        """End the subscriptions to a channel of the connections with `ids`, of a `user`, or of all.

        Raise `ValueError` for a code or reason that cannot be sent.
        """
        question = Unsubscribe(name, None if ids is None else list(ids), user, code, reason)
        own = self._answers.unsubscribe(question)
        others, is_complete = await ask_owners(self._cluster(), question, ids)
        return Unsubscribed(own + sum(others), is_complete)


def _extras_of(question: Subscribe | SubscribeWith) -> tuple[str | None, Message | None]:
    """Return the position from which a new subscriber recovers, and the reply that it receives."""
    if isinstance(question, Subscribe):
        return None, None
    reply = None if question.reply is None else Message(question.reply, Kind(question.kind))
    return question.since, reply


def _joined(one: ListedChannel | None, other: ListedChannel) -> ListedChannel:
    """Return a channel as two nodes describe it together."""
    if one is None:
        return other
    silences = [silent for silent in (one.silent, other.silent) if silent is not None]
    return ListedChannel(
        name=one.name,
        namespace=one.namespace,
        subscribers=one.subscribers + other.subscribers,
        at=one.at or other.at,
        silent=min(silences, default=None),
    )

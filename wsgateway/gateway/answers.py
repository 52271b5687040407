"""The answers of one node about itself and its connections, for its own pages and for other nodes. Knows no HTTP."""

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from wsgateway.auth.masking import shown_headers, shown_parameters, shown_subprotocols
from wsgateway.closing import check_close
from wsgateway.cluster.asking import Answering
from wsgateway.cluster.envelopes import Info
from wsgateway.cluster.questions import (
    Close,
    CloseUser,
    CollectSamples,
    CollectTotals,
    ConnectionInfo,
    Describe,
    Queue,
    Rows,
    Search,
)
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import EnvelopeError
from wsgateway.gateway.channels import ChannelAnswers
from wsgateway.gateway.choosing import Choosing
from wsgateway.gateway.emulation import Emulation
from wsgateway.gateway.posts import Posts
from wsgateway.gateway.registry import GatewayState
from wsgateway.gateway.relay import Relayed
from wsgateway.gateway.requests import ClientRequests
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.hub.revocations import Revocations
from wsgateway.logs import log_failures
from wsgateway.metrics import Metrics, Samples, samples

CHUNK = 2000
"""Connections that are searched in one iteration of the event loop."""

MAX_PAGE = 1000
"""Connections in one page, and in one answer to another node."""

MAX_CHANNELS = 1000
"""Channels of a connection that are shown."""

MAX_OFFSET = 2**31
"""Connections that may be skipped before a page."""

_BEGAN = time.monotonic()


class Answers:
    """Answers for one node of one gateway. `answering` answers the questions of other nodes."""

    def __init__(
        self,
        gateway_id: str,
        *,
        version: str,
        hub: Hub,
        metrics: Metrics,
        state: Callable[[], GatewayState],
        cluster: Callable[[], AnyCluster],
        relayed: Relayed | None,
        posts: Posts,
        requests: ClientRequests,
        choosing: Choosing,
        emulation: Emulation,
        channels: ChannelAnswers,
        revocations: Revocations,
    ) -> None:
        self.gateway_id = gateway_id
        self._version = version
        self._hub = hub
        self._connections = hub.connections
        self._revocations = revocations
        self._metrics = metrics
        self._state = state
        self._cluster = cluster
        self.channels = channels
        self.answering: Answering = {
            **channels.answering,
            **({} if relayed is None else relayed.answering),
            **posts.answering,
            **requests.answering,
            **choosing.answering,
            **emulation.answering,
            Search: self._answer_search,
            Rows: self._answer_rows,
            Describe: self._answer_describe,
            Close: self._answer_close,
            CloseUser: self._answer_close,
            CollectSamples: self._answer_samples,
            CollectTotals: self._answer_totals,
        }

    def info(self) -> Info:
        """Return the status of this node for its heartbeats."""
        metrics = self._metrics
        return info_of(
            self._version,
            str(self._state()),
            connections=len(self._connections),
            messages_in=metrics.messages_in,
            messages_out=metrics.messages_out,
            dropped=sum(metrics.dropped.values()),
            slow=metrics.too_slow,
            errors=sum(metrics.hook_errors.values()),
        )

    def totals(self) -> dict[str, float]:
        """Return the number of connections, and counters from which a page computes rates."""
        metrics = self._metrics
        hooks = metrics.hook_seconds.values()
        return {
            "connections": len(self._connections),
            "in": metrics.messages_in,
            "out": metrics.messages_out,
            "dropped": sum(metrics.dropped.values()),
            "hooks": sum(sum(histogram.buckets) for histogram in hooks),
            "hook_seconds": sum(histogram.total for histogram in hooks),
            "users": self._hub.count_users(),
            "subscriptions": metrics.subscriptions,
            "channels": metrics.channels,
        }

    def samples(self) -> Samples:
        """Return the metrics of this process."""
        cluster = self._cluster()
        history_bytes, history_evictions = self.channels.usage
        return samples(
            self._metrics,
            gateway=self.gateway_id,
            node=cluster.node,
            connections=Counter([(conn.protocol, conn.transport) for conn in self._connections]),
            waiting=sum(conn.queued_messages for conn in self._connections),
            log_failures=log_failures(),
            history_bytes=history_bytes,
            history_evictions=history_evictions,
            is_broker_up=cluster.is_up,
            nodes=1 + len(cluster.nodes.alive()),
            topics=cluster.topics,
        )

    async def matching(self, search: str) -> list[Connection]:
        """Return the connections whose id, address, path or user contains `search`, in any case."""
        if not search:
            return list(self._connections)
        search = search.casefold()
        matches = []
        for number, conn in enumerate(self._connections, 1):
            if search in searchable(conn):
                matches.append(conn)
            if number % CHUNK == 0:
                await asyncio.sleep(0)  # serves others between two chunks
        return matches

    def row(self, conn: Connection) -> ConnectionInfo:
        """Return what is shown of `conn` in a list."""
        return ConnectionInfo(
            id=conn.id,
            address=conn.address,
            path=conn.path,
            transport=conn.transport,
            protocol=conn.protocol,
            client=conn.client,
            expires_at=conn.expires_at,
            age=round(conn.age, 3),
            queue=Queue(conn.queued_messages, conn.queued_bytes),
            user=None if conn.user is None else str(conn.user),
            messages_in=conn.messages_in,
            messages_out=conn.messages_out,
            dropped=conn.dropped,
        )

    def describe(self, conn_id: str) -> ConnectionInfo | None:
        """Return the open connection with that id and what its handshake carried; None if it is not open."""
        conn = self._connections.get(conn_id)
        if conn is None:
            return None
        return msgspec.structs.replace(
            self.row(conn),
            headers=shown_headers(conn.headers),
            query=shown_parameters(conn.query_string),
            subprotocols=shown_subprotocols(conn.subprotocols),
            channels=list(conn.channels[:MAX_CHANNELS]),
        )

    def close(self, question: Close | CloseUser) -> int:
        """Begin to close connections, and return how many. Raise `ValueError` for a wrong code or reason."""
        code, reason = question.code, question.reason
        check_close(code, reason)
        if isinstance(question, CloseUser):
            self._revocations.add("", user=question.user)
            closing = self._hub.of_user(question.user)
        else:
            closing = self._hub.select(question.ids)
        for conn in closing:
            conn._outbox.close(code, reason)
        return len(closing)

    # Questions of other nodes

    async def _answer_search(self, question: Search) -> int:
        return len(await self.matching(question.search))

    async def _answer_rows(self, question: Rows) -> list[ConnectionInfo]:
        matches = await self.matching(question.search)
        end = question.offset + min(question.limit, MAX_PAGE)
        return [self.row(conn) for conn in matches[question.offset : end]]

    async def _answer_describe(self, question: Describe) -> ConnectionInfo | None:
        return self.describe(question.id)

    async def _answer_close(self, question: Close | CloseUser) -> int:
        try:
            return self.close(question)
        except ValueError as exc:
            raise EnvelopeError("arguments", str(exc)) from exc

    async def _answer_samples(self, _: CollectSamples) -> Samples:
        return self.samples()

    async def _answer_totals(self, _: CollectTotals) -> dict[str, float]:
        return self.totals()


def info_of(version: str, state: str, **counts: int) -> Info:
    """Return the status of this process for its heartbeat."""
    return Info(
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version,
        age=time.monotonic() - _BEGAN,
        state=state,
        **counts,
    )


def searchable(conn: Connection) -> str:
    """Return the text that a search is compared with."""
    user = "" if conn.user is None else str(conn.user)
    return "\n".join((conn.id, conn.address, conn.path, user)).casefold()

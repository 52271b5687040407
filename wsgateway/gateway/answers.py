"""The answers of one node about itself and its connections, for its own pages and for other nodes. Knows no HTTP."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

from wsgateway.auth.masking import shown_headers, shown_parameters, shown_subprotocols
from wsgateway.closing import check_close
from wsgateway.cluster.envelopes import Info
from wsgateway.cluster.questions import Close, Describe, Rows, Search, Send, arguments_of
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import EnvelopeError
from wsgateway.gateway.registry import GatewayState
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Hub
from wsgateway.logs import log_failures
from wsgateway.messages import Sent
from wsgateway.metrics import Metrics, Samples, samples

CHUNK = 2000
"""Connections that are searched in one iteration of the event loop."""

MAX_ROWS = 1000
"""Connections that are described for another node in one answer."""

_BEGAN = time.monotonic()

SendMessage = Callable[[object, Collection[str] | None, dict[str, Any]], Awaitable[Sent]]


class Answers:
    """Answers for one node of one gateway. `operations` are the functions that other nodes may call, by name."""

    def __init__(
        self,
        gateway_id: str,
        *,
        version: str,
        hub: Hub,
        metrics: Metrics,
        state: Callable[[], GatewayState],
        cluster: Callable[[], AnyCluster],
        send: SendMessage,
    ) -> None:
        self._gateway_id = gateway_id
        self._version = version
        self._hub = hub
        self._connections = hub.connections
        self._metrics = metrics
        self._state = state
        self._cluster = cluster
        self._send_message = send
        self.operations: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "search": self._answer_search,
            "rows": self._answer_rows,
            "describe": self._answer_describe,
            "close": self._answer_close,
            "samples": self._answer_samples,
            "totals": self._answer_totals,
            "send": self._answer_send,
        }

    def info(self) -> Info:
        """Return the state of this node for its heartbeats."""
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
        }

    def samples(self) -> Samples:
        """Return the metrics of this process."""
        cluster = self._cluster()
        return samples(
            self._metrics,
            gateway=self._gateway_id,
            node=cluster.node,
            connections=len(self._connections),
            waiting=sum(conn.queued_messages for conn in self._connections),
            log_failures=log_failures(),
            is_broker_up=cluster.is_up,
            nodes=1 + len(cluster.nodes.alive()),
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
                await asyncio.sleep(0)
        return matches

    def row(self, conn: Connection) -> dict[str, Any]:
        """Return the fields of `shapes.ConnectionInfo` for `conn`, in the form that nodes exchange."""
        return {
            "id": conn.id,
            "address": conn.address,
            "path": conn.path,
            "transport": conn.transport,
            "age": round(max(0.0, time.monotonic() - conn.opened_clock), 3),
            "queue": {"messages": conn.queued_messages, "bytes": conn.queued_bytes},
            "user": None if conn.user is None else str(conn.user),
            "messages_in": conn.messages_in,
            "messages_out": self._hub.messages_out(conn),
            "dropped": conn.dropped,
        }

    def describe(self, conn_id: str) -> dict[str, Any] | None:
        """Return the open connection with that id and what its handshake carried; None if it is not open."""
        conn = self._connections.get(conn_id)
        if conn is None:
            return None
        return {
            **self.row(conn),
            "headers": shown_headers(conn.headers),
            "query": shown_parameters(conn.query_string),
            "subprotocols": shown_subprotocols(conn.subprotocols),
        }

    def close(self, ids: Iterable[str] | None, code: int, reason: str) -> int:
        """Begin to close the connections with `ids`, or all, and return how many. Raise `ValueError`."""
        check_close(code, reason)
        connections = self._connections
        chosen: Iterable[Connection | None] = connections if ids is None else map(connections.get, dict.fromkeys(ids))
        closing = [conn for conn in chosen if conn is not None]
        for conn in closing:
            conn.close_nowait(code, reason)
        return len(closing)

    # Requests of other nodes

    async def _answer_search(self, arguments: dict[str, Any]) -> int:
        return len(await self.matching(arguments_of(Search, arguments).search))

    async def _answer_rows(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        asked = arguments_of(Rows, arguments)
        matches = await self.matching(asked.search)
        return [self.row(conn) for conn in matches[asked.offset : asked.offset + min(asked.limit, MAX_ROWS)]]

    async def _answer_describe(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        return self.describe(arguments_of(Describe, arguments).id)

    async def _answer_close(self, arguments: dict[str, Any]) -> int:
        asked = arguments_of(Close, arguments)
        try:
            return self.close(asked.ids, asked.code, asked.reason)
        except ValueError as exc:
            raise EnvelopeError("arguments", str(exc)) from exc

    async def _answer_samples(self, arguments: dict[str, Any]) -> Samples:
        del arguments
        return self.samples()

    async def _answer_totals(self, arguments: dict[str, Any]) -> dict[str, float]:
        del arguments
        return self.totals()

    async def _answer_send(self, arguments: dict[str, Any]) -> Sequence[Any]:
        asked = arguments_of(Send, arguments)
        try:
            message: object = asked.payload
            if asked.kind == "text":
                message = asked.payload.decode()
            elif asked.kind == "json":
                message = json.loads(asked.payload)
            data = json.loads(asked.data)
        except (ValueError, RecursionError) as exc:
            raise EnvelopeError("arguments", str(exc)) from exc
        if not isinstance(data, dict):
            raise EnvelopeError("arguments", "data is not a JSON object")
        return list(await self._send_message(message, asked.ids, data))


def info_of(version: str, state: str, **counts: int) -> Info:
    """Return what this process reports about itself."""
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

"""The connections of a gateway in all its processes: counted, searched, paged, closed from any of them; and the
processes themselves. Without a broker there is one process, and nothing here waits."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from wsgateway.auth.masking import shown_headers, shown_parameters, shown_subprotocols
from wsgateway.closing import check_close
from wsgateway.cluster.cluster import Cluster, SingleNode
from wsgateway.cluster.envelopes import Info
from wsgateway.cluster.nodes import NodeState, node_of
from wsgateway.cluster.questions import Close, Describe, Rows, Search, Send, arguments_of
from wsgateway.config.settings import Settings
from wsgateway.exceptions import EnvelopeError, MessageError, NodeError, NodeLate
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Sending
from wsgateway.logs import log_failures
from wsgateway.messages import Sent, encode
from wsgateway.metrics import Metrics, Samples, samples

CHUNK = 2000
"""Connections that are searched without letting the loop serve others in between."""

MAX_ROWS = 1000
"""Connections that are described at once."""


class ListedGateway(Sending, Protocol):
    """What the directory needs of a gateway."""

    settings: Settings
    metrics: Metrics

    @property
    def state(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def cluster(self) -> Cluster | SingleNode: ...

    def messages_out(self, conn: Connection) -> int: ...


class CloseCounts(NamedTuple):
    """How many connections are being closed, and whether every process has answered."""

    closed: int
    complete: bool


class Directory:
    """One gateway, whole. A process that does not answer in time is left out, and logged."""

    def __init__(self, gateway: ListedGateway) -> None:
        self._gateway = gateway
        self._counting: asyncio.Future[dict[str, dict[str, float]]] | None = None
        self.operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "search": self._search,
            "rows": self._rows,
            "describe": self._describe,
            "close": self._close,
            "samples": self._samples,
            "totals": self._totals,
            "send": self._send,
        }
        """What other processes may ask this one for."""

    @property
    def _cluster(self) -> Cluster | SingleNode:
        return self._gateway.cluster

    # The processes

    def info(self) -> Info:
        """What this process says of itself."""
        gateway, metrics = self._gateway, self._gateway.metrics
        return info_of(
            gateway.version,
            str(gateway.state),
            connections=len(gateway.connections),
            messages_in=metrics.messages_in,
            messages_out=metrics.messages_out,
            dropped=sum(metrics.dropped.values()),
            slow=metrics.slow,
            errors=sum(metrics.hook_errors.values()),
        )

    async def nodes(self) -> list[dict[str, Any]]:
        """Every process, this one first; of the others what they have said last. Empty without a broker."""
        cluster = self._cluster
        if not cluster.has_broker:
            return []
        counted = await self._counted(cluster)
        now = time.monotonic()
        found = [_shown_node(cluster.node, self.info(), NodeState.ALIVE, 0.0)] if cluster.is_serving else []
        for node in cluster.nodes.shown():
            shown = _shown_node(node.id, node.info, node.state, now - node.seen)
            if node.state is NodeState.ALIVE and node.id in counted:
                shown["connections"] = int(counted[node.id]["connections"])
            found.append(shown)
        return found

    async def totals(self) -> dict[str, float]:
        """What all processes do, added up: `connections`, and counters from which a page makes rates."""
        own = await self._totals({})
        others = (await self._counted(self._cluster)).values()
        return {name: value + sum(found.get(name, 0) for found in others) for name, value in own.items()}

    async def _counted(self, cluster: Cluster | SingleNode) -> dict[str, dict[str, float]]:
        """Return the totals of every other process. Concurrent callers share one request."""
        if not cluster.has_broker:
            return {}
        if self._counting is None:
            self._counting = asyncio.ensure_future(cluster.ask_all("totals"))
            self._counting.add_done_callback(self._was_counted)
        return await asyncio.shield(self._counting)

    def _was_counted(self, _: object) -> None:
        self._counting = None

    async def samples(self) -> list[Samples]:
        """The metrics of each process."""
        own = await self._samples({})
        return [*([own] if self._cluster.is_serving else []), *(await self._cluster.ask_all("samples")).values()]

    # The connections

    async def page(self, search: str, offset: int, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """How many connections match `search`, and those from `offset` on. Their order is the same everywhere."""
        own = await self._matching(search)
        cluster = self._cluster
        totals: dict[str, int] = await cluster.ask_all("search", search=search)
        totals[cluster.node] = len(own)
        rows: list[dict[str, Any]] = []
        passed = 0
        for node_id, total in sorted(totals.items()):
            missing, skip = limit - len(rows), max(0, offset - passed)
            if missing > 0 and skip < total and node_id == cluster.node:
                rows += [self._shown(conn) for conn in own[skip : skip + missing]]
            elif missing > 0 and skip < total:
                try:
                    rows += await cluster.ask(node_id, "rows", search=search, offset=skip, limit=missing)
                except NodeError:
                    pass  # it has gone meanwhile
            passed += total
        return passed, rows

    async def describe(self, conn_id: str) -> dict[str, Any] | None:
        """One connection with its headers, wherever it is; None if it is not open."""
        cluster = self._cluster
        if cluster.is_remote(conn_id):
            description: dict[str, Any] | None = await cluster.ask(node_of(conn_id), "describe", id=conn_id)
            return description
        return await self._describe({"id": conn_id})

    async def close(self, ids: Sequence[str] | None, code: int, reason: str) -> CloseCounts:
        """Begin to close the connections with `ids`, or all. Raises `ValueError`, and `NodeError` if one that has
        some of `ids` does not answer."""
        check_close(code, reason)
        cluster = self._cluster
        if ids is None:
            others: dict[str, int] = await cluster.ask_all("close", ids=None, code=code, reason=reason)
            everybody = cluster.is_up and len(others) >= len(cluster.nodes.alive())
            own_count = await self._close({"ids": None, "code": code, "reason": reason})
            return CloseCounts(sum(others.values()) + own_count, everybody)
        own, remote = cluster.split(ids)
        closed = await self._close({"ids": list(own), "code": code, "reason": reason})
        for node_id in dict.fromkeys(map(node_of, remote)):
            theirs = [conn_id for conn_id in remote if node_of(conn_id) == node_id]
            try:
                closed += await cluster.ask(node_id, "close", ids=theirs, code=code, reason=reason)
            except NodeError:
                if cluster.nodes.get(node_id) is not None:
                    raise
                # it has gone, and they with it
        return CloseCounts(closed, True)

    # Sending from a process that only watches

    async def send_elsewhere(
        self, message: object, connections: Iterable[Connection | str] | None, data: dict[str, Any] | None
    ) -> Sent:
        """Have a process that serves send `message` through its listener.

        Raises `NodeError` if none can be reached or its hook failed, and `MessageError`.
        """
        if message is None:
            raise MessageError("there is none")  # it could not be told from one that the listener drops
        frame, data_frame = encode(message), encode(data or {})
        assert frame is not None
        assert data_frame is not None
        ids = None if connections is None else [str(getattr(item, "id", item)) for item in connections]
        arguments = {
            "payload": frame.payload,  # as it is on the wire: MessagePack has no integers past 64 bits
            "kind": "text" if isinstance(message, str) else "bytes" if frame.text is None else "json",
            "ids": ids,
            "data": data_frame.text,
        }
        settings = self._gateway.settings
        refused = NodeError("none of the processes that serve this gateway can be reached")
        for node in self._cluster.nodes.alive():
            if node.info.state == "running" and not node.is_late:
                try:
                    seconds = settings.hook_timeout + 2 * settings.broker_timeout
                    return Sent(*await self._cluster.ask_within(seconds, node.id, "send", **arguments))
                except NodeLate:
                    raise  # it may have sent it
                except NodeError as exc:
                    refused = exc  # as when it has begun to stop: another may serve
        raise refused

    # What this process does for others

    async def _send(self, arguments: dict[str, Any]) -> list[Any]:
        asked = arguments_of(Send, arguments)
        payload = asked.payload
        read: dict[str, Callable[[], object]] = {
            "text": payload.decode,
            "bytes": lambda: payload,
            "json": lambda: json.loads(payload),
        }
        try:
            message, data = read[asked.kind](), json.loads(asked.data)
        except (ValueError, RecursionError) as exc:
            raise EnvelopeError("arguments", str(exc)) from exc
        if not isinstance(data, dict):
            raise EnvelopeError("arguments", "data is not a JSON object")
        return list(await self._gateway.send(message, connections=asked.ids, data=data))

    async def _totals(self, arguments: dict[str, Any]) -> dict[str, float]:
        del arguments
        metrics = self._gateway.metrics
        hooks = metrics.hook_seconds.values()
        return {
            "connections": len(self._gateway.connections),
            "in": metrics.messages_in,
            "out": metrics.messages_out,
            "dropped": sum(metrics.dropped.values()),
            "hooks": sum(sum(histogram.buckets) for histogram in hooks),
            "hook_seconds": sum(histogram.total for histogram in hooks),
        }

    async def _search(self, arguments: dict[str, Any]) -> int:
        return len(await self._matching(arguments_of(Search, arguments).search))

    async def _rows(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        asked = arguments_of(Rows, arguments)
        found = await self._matching(asked.search)
        return [self._shown(conn) for conn in found[asked.offset : asked.offset + min(asked.limit, MAX_ROWS)]]

    async def _describe(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        conn = self._gateway.connections.get(arguments_of(Describe, arguments).id)
        if conn is None:
            return None
        return {
            **self._shown(conn),
            "headers": shown_headers(conn.headers),
            "query": shown_parameters(conn.query_string),
            "subprotocols": shown_subprotocols(conn.subprotocols),
        }

    async def _close(self, arguments: dict[str, Any]) -> int:
        asked = arguments_of(Close, arguments)
        code, reason, ids = asked.code, asked.reason, asked.ids
        try:
            check_close(code, reason)
        except ValueError as exc:
            raise EnvelopeError("arguments", str(exc)) from exc
        connections = self._gateway.connections
        chosen: Iterable[Connection | None] = connections if ids is None else map(connections.get, dict.fromkeys(ids))
        closing = [conn for conn in chosen if conn is not None]
        for conn in closing:
            conn.close_nowait(code, reason)
        return len(closing)

    async def _samples(self, arguments: dict[str, Any]) -> Samples:
        del arguments
        gateway, cluster = self._gateway, self._cluster
        if cluster.has_broker:
            gateway.metrics.broker_up = cluster.is_up
            gateway.metrics.nodes = 1 + len(cluster.nodes.alive())
        return samples(
            gateway.metrics,
            gateway=gateway.id,
            node=cluster.node,
            connections=len(gateway.connections),
            waiting=sum(conn.queued_messages for conn in gateway.connections),
            log_failures=log_failures(),
        )

    def _shown(self, conn: Connection) -> dict[str, Any]:
        """A connection as JSON carries it: `age` in seconds, the user that the listener has set as text."""
        return {
            "id": conn.id,
            "address": conn.address,
            "path": conn.path,
            "transport": conn.transport,
            "age": round(max(0.0, time.monotonic() - conn.opened_clock), 3),
            "queue": {"messages": conn.queued_messages, "bytes": conn.queued_bytes},
            "user": None if conn.user is None else str(conn.user),
            "messages_in": conn.messages_in,
            "messages_out": self._gateway.messages_out(conn),
            "dropped": conn.dropped,
        }

    async def _matching(self, search: str) -> list[Connection]:
        if not search:
            return list(self._gateway.connections)
        search = search.casefold()
        found = []
        for number, conn in enumerate(self._gateway.connections, 1):
            if search in searchable(conn):
                found.append(conn)
            if number % CHUNK == 0:
                await asyncio.sleep(0)
        return found


def info_of(version: str, state: str, **counts: int) -> Info:
    """What this process says of itself."""
    return Info(
        host=socket.gethostname(),
        pid=os.getpid(),
        version=version,
        age=time.monotonic() - _BEGAN,
        state=state,
        **counts,
    )


_BEGAN = time.monotonic()


def _shown_node(node_id: str, info: Info, state: NodeState, silent: float) -> dict[str, Any]:
    return {
        "id": node_id,
        "state": str(state) if state is not NodeState.ALIVE else info.state,
        "host": info.host,
        "pid": info.pid,
        "version": info.version,
        "age": round(info.age + silent, 3),
        "silent": round(max(0.0, silent), 3),
        "connections": info.connections if state is NodeState.ALIVE else 0,
        "messages_in": info.messages_in,
        "messages_out": info.messages_out,
        "dropped": info.dropped,
        "slow": info.slow,
        "hook_errors": info.errors,
    }


def searchable(conn: Connection) -> str:
    """What a search looks into."""
    user = "" if conn.user is None else str(conn.user)
    return "\n".join((conn.id, conn.address, conn.path, user)).casefold()

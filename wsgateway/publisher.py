"""A process that only publishes, such as a worker of a task queue, a cron job, or a management command. It requires the
URL of the broker, but not the address of a gateway."""

from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Self, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from wsgateway.cluster.brokers import opener
from wsgateway.cluster.cluster import Cluster
from wsgateway.exceptions import BrokerError, MessageError
from wsgateway.hub.loops import Home, wrong_loop
from wsgateway.hub.pubsub import publish_to_nodes
from wsgateway.hub.target import TargetOptions, check_known
from wsgateway.logs import GatewayLog
from wsgateway.messages import Deliveries, Sent, encode
from wsgateway.metrics import Metrics
from wsgateway.text import mask_url


class Publisher:
    """Sends to the clients of every node of a gateway, without its listener.

        async with Publisher("redis://localhost", gateway="chat") as publisher:
            await publisher.asend({"price": 42})

        with Publisher("redis://localhost", gateway="chat") as publisher:
            publisher.send({"price": 42})

    Without `async`, a publisher runs a thread of its own and may be used from several threads. Keep it open, because
    joining takes longer than sending.
    """

    def __init__(self, broker: str, *, gateway: str = "default", timeout: float = 1.0) -> None:
        """`broker` is the URL of the gateway's broker; sending waits at most `timeout` seconds for counts.

        Raise `ConfigError` for a URL that cannot be used, and if its driver is not installed.
        """
        self._open = opener(broker)
        self._name = mask_url(broker)
        self._gateway = gateway
        self._timeout = timeout
        self._cluster: Cluster | None = None
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._home: Home | None = None

    async def asend(self, message: object, **target: Unpack[TargetOptions]) -> Sent:
        """Send `message` to every connection, or to those with the ids `connections`, and wait for the counts.

        Raise `MessageError` if the message cannot be encoded, `TypeError` if `connections` are not ids, `BrokerError`
        if the broker is unavailable, and `RuntimeError` if the publisher is not open or was opened on another event
        loop. Raise `ValueError` for another argument of `wsgateway.client.send`, such as `channel`, because a publisher
        does not reach channels yet.
        """
        connections = _connections_of(target)
        if self._home is not None and not self._home.is_here():
            instead = "in a thread, open it with `with Publisher(...)` and use publisher.send(...)"
            raise wrong_loop("publisher.asend", instead, owner="the publisher")
        encoded = encode(message)
        if encoded is None:
            raise MessageError("None is not a message, send a value")
        if self._cluster is None:
            raise RuntimeError("open the publisher first: async with Publisher(...) as publisher")
        if not self._cluster.is_up:
            raise BrokerError(f"the broker {self._name} is unavailable: {self._cluster.failure}")
        ids = None if connections is None else _ids(connections)
        return await publish_to_nodes(self._cluster, encoded, ids, Deliveries(0, 0, 0)).wait()

    def send(self, message: object, **target: Unpack[TargetOptions]) -> Sent:
        """Call `asend` from code without `async`."""
        if self._portal is None:
            raise RuntimeError("open the publisher first: with Publisher(...) as publisher")
        portal = self._portal

        async def asend() -> Sent:
            return await self.asend(message, **target)

        return portal.call(asend)

    async def __aenter__(self) -> Self:
        self._cluster = Cluster(
            self._open,
            gateway_id=self._gateway,
            broker=self._name,
            local=None,
            metrics=Metrics(),
            log=GatewayLog(self._gateway),
            timeout=self._timeout,
        )
        self._home = Home()
        await self._cluster.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        cluster, self._cluster, self._home = self._cluster, None, None
        if cluster is not None:
            await cluster.aclose()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(self._portal.wrap_async_context_manager(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        self._portal = None


def _connections_of(target: TargetOptions) -> Iterable[object] | None:
    """Return the connections of `target`. Raise `ValueError` if it has other keys."""
    check_known(target)
    others = [name for name in target if name != "connections"]
    if others:
        raise ValueError(
            f"{' and '.join(others)}: a publisher reaches connections, not channels and users; use "
            f"wsgateway.client.send(url, message, {others[0]}=…)"
        )
    return target.get("connections")


def _ids(connections: Iterable[object]) -> list[str]:
    """Return each id once. Raise `TypeError`."""
    ids = [] if isinstance(connections, (str, bytes)) else list(connections)
    if isinstance(connections, (str, bytes)) or not all(isinstance(conn_id, str) for conn_id in ids):
        raise TypeError(f"connections: {connections!r} is not a list of connection ids")
    return list(dict.fromkeys(map(str, ids)))

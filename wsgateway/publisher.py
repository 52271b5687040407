"""A process that only publishes, such as a worker of a task queue, a cron job, or a management command. It requires the
URL of the broker, but not the address of a gateway."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from wsgateway.cluster.brokers import opener
from wsgateway.cluster.cluster import Cluster
from wsgateway.exceptions import BrokerError
from wsgateway.gateway.relay import Relay, encoded
from wsgateway.hub.loops import Home, wrong_loop
from wsgateway.hub.target import Everybody, Target, TargetOptions, target_of
from wsgateway.logs import GatewayLog
from wsgateway.messages import Sent
from wsgateway.metrics import Metrics
from wsgateway.text import mask_url

HOOK_TIMEOUT = 30.0
"""Seconds that `send` waits for the listener at most. A publisher does not know the `hook_timeout` of the gateway."""


class Publisher:
    """Sends to the clients of every node of a gateway, through one of its nodes.

        async with Publisher("redis://localhost", gateway="chat") as publisher:
            await publisher.apublish({"price": 42}, channel="prices")

        with Publisher("redis://localhost", gateway="chat") as publisher:
            publisher.publish({"order": 7}, user="ann")

    Without `async`, a publisher runs a thread of its own and may be used from several threads. Keep it open, because
    joining takes longer than sending.
    """

    def __init__(self, broker: str, *, gateway: str = "default", timeout: float = 1.0) -> None:
        """`broker` is the URL of the gateway's broker. Publishing waits at most `timeout` seconds for a node.

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
        self._relay = Relay(gateway, self._current, patience=timeout)

    async def apublish(self, message: object, **target: Unpack[TargetOptions]) -> Sent:
        """Publish `message` as `Gateway.publish` does: without the listener's `on_message`, and without counts.

        The keyword arguments are those of `Gateway.publish`; `connections` are ids. The settings of the channel, its
        history, and its hooks are those of the gateway.

        Raise the errors of `Gateway.publish`, `BrokerError` if the broker is unavailable, `NodeError` if no process
        that serves the gateway can be reached, and `RuntimeError` if the publisher is not open or was opened on another
        event loop. Raise `NodeLate` if the answer does not come in time: the message may have been published. With an
        `idempotency_key`, another process is asked then, and the message is published once.
        """
        self._check_loop("publisher.apublish", "publisher.publish")
        to, payload = _target_of(target), encoded(message)
        self._check_broker()
        return await self._relay.publish(payload, to, seconds=self._timeout)

    async def asend(
        self, message: object, *, data: dict[str, Any] | None = None, **target: Unpack[TargetOptions]
    ) -> Sent:
        """Send `message` as `Gateway.send` does: through the listener's `on_message`, and with counts.

        Wait for the hook, too, at most 30 s. Raise the errors of `Gateway.send` and of `apublish`.
        """
        self._check_loop("publisher.asend", "publisher.send")
        to, payload = _target_of(target), encoded(message)
        self._check_broker()
        return await self._relay.send(payload, to, data, seconds=HOOK_TIMEOUT + 2 * self._timeout)

    def publish(self, message: object, **target: Unpack[TargetOptions]) -> Sent:
        """Call `apublish` from code without `async`."""
        return self._call(lambda: self.apublish(message, **target))

    def send(self, message: object, *, data: dict[str, Any] | None = None, **target: Unpack[TargetOptions]) -> Sent:
        """Call `asend` from code without `async`."""
        return self._call(lambda: self.asend(message, data=data, **target))

    def _current(self) -> Cluster:
        assert self._cluster is not None
        return self._cluster

    def _call(self, sending: Callable[[], Awaitable[Sent]]) -> Sent:
        if self._portal is None:
            raise RuntimeError("open the publisher first: with Publisher(...) as publisher")
        return self._portal.call(sending)

    def _check_loop(self, method: str, in_thread: str) -> None:
        if self._home is not None and not self._home.is_here():
            instead = f"in a thread, open it with `with Publisher(...)` and use {in_thread}(...)"
            raise wrong_loop(method, instead, owner="the publisher")
        if self._cluster is None:
            raise RuntimeError("open the publisher first: async with Publisher(...) as publisher")

    def _check_broker(self) -> None:
        cluster = self._current()
        if not cluster.is_up:
            raise BrokerError(f"the broker {self._name} is unavailable: {cluster.failure}")

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


def _target_of(options: TargetOptions) -> Target:
    """Return the target for the arguments of a method. Raise what `target_of` raises, and `TypeError` for objects."""
    connections = options.get("connections")
    if connections is not None and not isinstance(connections, Everybody):
        ids = [] if isinstance(connections, (str, bytes)) else list(connections)
        if isinstance(connections, (str, bytes)) or not all(isinstance(conn_id, str) for conn_id in ids):
            raise TypeError(f"connections: {connections!r} is not a list of connection ids")
        options = {**options, "connections": list(dict.fromkeys(ids))}
    return target_of(**options) or Target()

"""A gateway that worker processes serve, as their parent sees it over the broker. It has no listener and no clients."""

from importlib.metadata import version
from typing import Any, Unpack

from wsgateway.cluster.brokers import opener
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.single import AnyCluster, SingleNode
from wsgateway.config.settings import Settings
from wsgateway.exceptions import GatewayNotRunning
from wsgateway.gateway.parts import create_parts, open_log
from wsgateway.gateway.registry import GatewayState
from wsgateway.gateway.relay import Relay, encoded
from wsgateway.gateway.trend import Sampler
from wsgateway.hub.target import Target, TargetOptions, target_of
from wsgateway.messages import Sent
from wsgateway.text import mask_url


class Observer:
    """Offers what a supervisor uses of a `Gateway`: state, inspection, and `send`, which a worker carries out."""

    def __init__(self, settings: Settings) -> None:
        """Raise `ConfigError` if the log cannot be written, or the broker's package is not installed."""
        self.settings = settings
        self.version = version("wsgateway")
        self.state = GatewayState.STOPPED
        self.failure = ""
        self.cluster: AnyCluster = SingleNode()
        parts = create_parts(
            settings,
            version=self.version,
            state=lambda: self.state,
            cluster=lambda: self.cluster,
        )
        self._relay = Relay(settings.id, lambda: self.cluster, patience=settings.broker_timeout)
        self.metrics = parts.metrics
        self.log = parts.log
        self.inspector = parts.inspector
        self.trend = parts.trend
        self._sampler: Sampler | None = None
        self.connections = parts.hub.connections
        """Always empty."""
        open_log(settings)
        self.log.info("initialized")

    @property
    def id(self) -> str:
        return self.settings.id

    @property
    def reads_data(self) -> bool:
        """Whether the workers may have a hook that reads the `data` of `send`."""
        return self.settings.listener is not None

    async def start(self, broker: str) -> None:
        """Watch the workers over `broker` until `stop`. `mark_running` or `fail` has to follow."""
        self.state, self.failure = GatewayState.STARTING, ""
        cluster = Cluster(
            opener(broker),
            gateway_id=self.id,
            broker=mask_url(broker),
            local=None,
            metrics=self.metrics,
            log=self.log,
            timeout=self.settings.broker_timeout,
        )
        self.cluster = cluster
        await cluster.start()

    def mark_running(self) -> None:
        """Become RUNNING, because the workers serve."""
        self.state = GatewayState.RUNNING
        self._sampler = Sampler(self.trend, self.inspector.reported_totals)

    async def stop(self) -> None:
        """Leave the cluster. If the gateway has failed meanwhile, it stays FAILED until it is stopped again."""
        if self._sampler is not None:
            self._sampler.stop()
        cluster, self.cluster = self.cluster, SingleNode()
        await cluster.aclose()
        has_failed = cluster.has_broker and self.failure
        self.state = GatewayState.FAILED if has_failed else GatewayState.STOPPED

    def prepare(self) -> None:
        """Show the state STARTING already while the port is bound. `start` or `fail` has to follow."""
        self.state = GatewayState.STARTING

    def fail(self, reason: str) -> None:
        """Become FAILED because of `reason`, which the log and the panel show."""
        text = "failed: %s" if self.state is GatewayState.RUNNING else "cannot start: %s"
        self.state, self.failure = GatewayState.FAILED, reason
        self.log.error(text, reason)

    async def send(
        self, message: object, *, data: dict[str, Any] | None = None, **target: Unpack[TargetOptions]
    ) -> Sent:
        """Have a worker call its `on_message` with `message`, and send the result.

        Raise `GatewayNotRunning`, the errors of `Gateway.send`, `NodeError` if no worker can be reached, and `NodeLate`
        if the worker does not answer in time.
        """
        to = target_of(**target) or Target()
        if not self.cluster.has_broker:
            raise GatewayNotRunning(self.id)
        seconds = self.settings.hook_timeout + 2 * self.settings.broker_timeout
        return await self._relay.send(encoded(message), to, data, seconds=seconds)

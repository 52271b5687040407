"""A gateway that worker processes serve, as their parent sees it over the broker. It has no listener and no clients."""

from importlib.metadata import version
from typing import Any, Unpack

from wsgateway.cluster.brokers import opener
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.questions import Send, SendRefusal
from wsgateway.cluster.single import AnyCluster, SingleNode
from wsgateway.config.settings import Settings
from wsgateway.exceptions import GatewayConflict, GatewayNotRunning, MessageError, NodeError, NodeLate, Refused
from wsgateway.gateway.http.send import one_process_only
from wsgateway.gateway.parts import create_parts, open_log
from wsgateway.gateway.registry import GatewayState
from wsgateway.hub.target import Target, TargetOptions, target_of
from wsgateway.messages import Sent, encode
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
            send=lambda message, target, data: self.send(message, data=data, **target),
        )
        self.metrics = parts.metrics
        self.log = parts.log
        self.inspector = parts.inspector
        self.connections = parts.hub.connections
        """Always empty."""
        open_log(settings)
        self.log.info("initialized")

    @property
    def id(self) -> str:
        return self.settings.id

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

    async def stop(self) -> None:
        """Leave the cluster. If the gateway has failed meanwhile, it stays FAILED until it is stopped again."""
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

        Raise `GatewayNotRunning`, `MessageError` if it cannot be encoded, `Refused` if the hook refuses it,
        `GatewayConflict` for a channel or a user, whose connections are in several workers, and `NodeError` if no
        worker can be reached or its hook failed. Raise `ValueError` and `TypeError` as `Gateway.send` does.
        """
        to = target_of(**target) or Target()
        if to.channel or to.user:
            raise GatewayConflict(one_process_only(self.id, "channel" if to.channel else "user"))
        if not self.cluster.has_broker:
            raise GatewayNotRunning(self.id)
        if message is None:
            # None could not be distinguished from a message that the listener drops
            raise MessageError("the message is None; send a value")
        encoded, encoded_data = encode(message), encode(data or {})
        assert encoded is not None
        assert encoded_data is not None
        question = Send(
            payload=encoded.payload,  # encoded, because integers in MessagePack have 64 bits at most
            kind=encoded.kind.value,
            ids=None if to.connections is None else [str(getattr(item, "id", item)) for item in to.connections],
            data=encoded_data.payload.decode(),
            event_name=to.name,
        )
        seconds = self.settings.hook_timeout + 2 * self.settings.broker_timeout
        refused = NodeError("no worker of this gateway can be reached")
        for node in self.cluster.nodes.alive():
            if node.info.state == GatewayState.RUNNING and not node.is_late:
                try:
                    report = await self.cluster.ask_within(seconds, node.id, question)
                except NodeLate:
                    raise  # the worker may have sent the message
                except NodeError as exc:
                    refused = exc  # as when it has begun to stop; another worker may serve
                    continue
                if isinstance(report, SendRefusal):
                    raise Refused(report.status, report.reason)
                return Sent(*report)
        raise refused

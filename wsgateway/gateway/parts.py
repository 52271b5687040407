"""The parts of a gateway that exist from its creation, whether it runs or not. Knows no HTTP and no states."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsgateway.cluster.brokers import Open, opener
from wsgateway.cluster.history.memory import MemoryHistory
from wsgateway.cluster.history.store import new_epoch
from wsgateway.cluster.single import AnyCluster
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ConfigError
from wsgateway.gateway.answers import Answers
from wsgateway.gateway.channels import ChannelAnswers
from wsgateway.gateway.choosing import Choosing
from wsgateway.gateway.emulation import Emulation
from wsgateway.gateway.inspector import Inspector
from wsgateway.gateway.overview import Overview
from wsgateway.gateway.posts import Posts
from wsgateway.gateway.registry import GatewayState
from wsgateway.gateway.relay import PublishMessage, Relayed, SendMessage
from wsgateway.gateway.requests import ClientRequests
from wsgateway.gateway.trend import Trend
from wsgateway.hub.channels import Channels
from wsgateway.hub.hub import Hub
from wsgateway.limits import RateLimits
from wsgateway.logs import GatewayLog, log_to_file, mask_frames
from wsgateway.metrics import Metrics
from wsgateway.protocols.session import Session
from wsgateway.transports.framing import PLAIN
from wsgateway.transports.posted import PostedStreams


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a gateway that exist from its creation."""

    settings: Settings
    version: str
    metrics: Metrics
    log: GatewayLog
    hub: Hub
    history: MemoryHistory
    channels: Channels
    answers: Answers
    inspector: Inspector
    trend: Trend
    rates: RateLimits
    open_link: Open | None
    posts: Posts
    requests: ClientRequests
    choosing: Choosing
    overview: Overview
    emulation: Emulation


def create_parts(
    settings: Settings,
    *,
    version: str,
    state: Callable[[], GatewayState],
    cluster: Callable[[], AnyCluster],
    send: SendMessage | None = None,
    publish: PublishMessage | None = None,
    sessions: Callable[[], Mapping[str, Session]] = dict,
    posted: Callable[[], PostedStreams | None] = lambda: None,
) -> Parts:
    """Create the parts that exist from the beginning. Raise `ConfigError` if the broker's package is not installed.

    `send` and `publish` send messages of other processes. A process that serves no clients has neither. `sessions`
    returns the sessions of streams by their secrets, and `posted` the streams whose clients post frames.
    """
    metrics, log = Metrics(), GatewayLog(settings.id)
    hub = Hub(metrics, log, plain=PLAIN)
    history = MemoryHistory(settings.history_bytes, now=time.monotonic, new_epoch=new_epoch)
    channels = Channels(hub, settings, metrics, history)
    posts = Posts(sessions, cluster, settings)
    requests = ClientRequests(hub.connections, cluster, settings)
    choosing = Choosing(hub, sessions, cluster)
    emulation = Emulation(posted, state=state, cluster=cluster, settings=settings)
    answers = Answers(
        settings.id,
        version=version,
        hub=hub,
        metrics=metrics,
        state=state,
        cluster=cluster,
        relayed=None if send is None or publish is None else Relayed(send, publish, log),
        channels=ChannelAnswers(hub, channels, history),
        revocations=channels.revocations,
        posts=posts,
        requests=requests,
        choosing=choosing,
        emulation=emulation,
    )
    return Parts(
        settings=settings,
        version=version,
        metrics=metrics,
        log=log,
        hub=hub,
        history=history,
        channels=channels,
        answers=answers,
        inspector=Inspector(answers, cluster, log),
        trend=Trend(),
        rates=RateLimits(settings.send_rate, settings.send_burst),
        open_link=opener(settings.broker) if settings.broker else None,
        posts=posts,
        requests=requests,
        choosing=choosing,
        overview=Overview(answers, cluster, log),
        emulation=emulation,
    )


def open_log(settings: Settings) -> None:
    """Write the log also to the `log_file` of `settings`. Raise `ConfigError` if it cannot be written.

    Mask the tokens of Centrifuge clients in the lines of a server, if there can be such clients.
    """
    if "centrifuge" in settings.protocols:
        mask_frames()
    if settings.log_file:
        try:
            log_to_file(Path(settings.log_file))
        except OSError as exc:
            text = f"log_file: {settings.log_file!r} cannot be written: {exc.strerror}"
            raise ConfigError([text]) from exc

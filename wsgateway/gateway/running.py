"""All that exists only while a gateway runs, made and released as one. Knows neither its states nor ASGI."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from wsgateway.auth.rules import Rules
from wsgateway.cluster.brokers import Open
from wsgateway.cluster.cluster import Cluster, Local, SingleNode
from wsgateway.config.exposure import outside_of_process
from wsgateway.config.settings import Settings, serves_outside
from wsgateway.gateway.admission import Admission
from wsgateway.gateway.answers import Answers
from wsgateway.gateway.drain import Drain
from wsgateway.gateway.watchdog import Watchdog
from wsgateway.hub.hub import Hub
from wsgateway.listeners.dispatcher import Dispatcher
from wsgateway.listeners.event import EventGateway
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog, mask_url
from wsgateway.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Parts:
    """What a gateway has from the beginning, and its running parts need."""

    settings: Settings
    hub: Hub
    answers: Answers
    metrics: Metrics
    log: GatewayLog
    open_link: Open | None


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a gateway that exist only while it runs."""

    hooks: Hooks
    cluster: Cluster | SingleNode
    dispatcher: Dispatcher
    drain: Drain
    admission: Admission
    watchdog: Watchdog
    metrics: Metrics

    def watch_loop(self) -> None:
        """Report from now on when the event loop is blocked."""
        self.watchdog.watch(self.metrics, self.hooks.close)

    def abandon(self) -> None:
        """Release what outlives the event loop, which was closed."""
        self.watchdog.unwatch(self.metrics)
        self.hooks.close()


@asynccontextmanager
async def running(
    gateway: EventGateway, parts: Parts, rules: Rules, *, watchdog: Watchdog, reload: bool
) -> AsyncIterator[Running]:
    """Make the parts of `gateway`, and join its cluster. On the way out leave the cluster, then release the parts.

    With `reload` the named module of the listener is loaded anew. Raise `ListenerError`, and whatever the listener's
    own code raises.
    """
    settings, hub, metrics, log = parts.settings, parts.hub, parts.metrics, parts.log
    async with AsyncExitStack() as stack:
        stack.callback(watchdog.unwatch, metrics)
        hooks = Hooks(settings.listener, settings, log, reload=reload)
        stack.callback(hooks.close)
        cluster = _cluster_of(parts)
        stack.push_async_callback(cluster.aclose)
        dispatcher = Dispatcher(
            gateway, hub=hub, listener=hooks, settings=settings, metrics=metrics, log=log, cluster=cluster
        )
        drain = Drain(dispatcher, settings, log)
        admission = Admission(
            hub=hub,
            dispatcher=dispatcher,
            drain=drain,
            rules=rules,
            settings=settings,
            metrics=metrics,
            log=log,
            node=cluster.node,
        )
        await cluster.start()
        try:
            yield Running(hooks, cluster, dispatcher, drain, admission, watchdog, metrics)
        except GeneratorExit:  # the event loop ends before the gateway was stopped: nothing can be awaited any more
            stack.pop_all()
            raise


def _cluster_of(parts: Parts) -> Cluster | SingleNode:
    """Return the nodes of a gateway, which without a broker is one."""
    if parts.open_link is None:
        return SingleNode()
    answers, settings = parts.answers, parts.settings
    return Cluster(
        parts.open_link,
        gateway_id=settings.id,
        broker=mask_url(settings.broker or ""),
        local=Local(parts.hub.deliver_to_ids, answers.info, answers.operations),
        metrics=parts.metrics,
        log=parts.log,
        timeout=settings.broker_timeout,
    )


def log_exposure(settings: Settings, rules: Rules, log: GatewayLog, *, is_served_alone: bool) -> None:
    """Log what is open to whom, and that several processes do not reach each other's clients without a broker."""
    for opening in rules.openings(serves_outside(settings) or outside_of_process()):
        log.log(logging.WARNING if opening.is_loud else logging.INFO, "%s", opening.text)
    count = several_workers(sys.argv, os.environ)
    if count > 1 and not settings.broker and not is_served_alone:  # `wsgateway serve` has no such count
        log.warning(
            "%d worker processes and no broker: a message reaches only the clients of the process it comes to, "
            'set broker = "ipc://" (docs/processes.md)',
            count,
        )


def several_workers(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Return how many processes of this application the server that was started with `argv` runs, if that says so.

    uvicorn and gunicorn hand their command line on to their workers, and read `WEB_CONCURRENCY`.
    """
    count = environ.get("WEB_CONCURRENCY", "")
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word in ("--workers", "-w"):
            count = following
        elif word.startswith("--workers="):
            count = word.partition("=")[2]
    return int(count) if count.isascii() and count.isdecimal() and len(count) < 6 else 1


def watchdog_of(loop: asyncio.AbstractEventLoop, others: Sequence[Running]) -> Watchdog:
    """Return the watchdog of `loop`, which all gateways on it share."""
    return next((other.watchdog for other in others if other.watchdog.loop is loop), None) or Watchdog(loop)

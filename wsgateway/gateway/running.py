"""The parts of a gateway that exist only while it runs, created and released together.

Knows neither the states of a gateway nor ASGI.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass

from wsgateway.auth.rules import Rules
from wsgateway.cluster.cluster import Cluster
from wsgateway.cluster.history.memory import MemoryHistory
from wsgateway.cluster.history.store import new_epoch
from wsgateway.cluster.history.stores import open_store
from wsgateway.cluster.local import Local
from wsgateway.cluster.single import AnyCluster, SingleNode
from wsgateway.config.channels import histories_in
from wsgateway.config.exposure import outside_of_process, worker_count
from wsgateway.config.namespaces import Namespaces, warnings_of
from wsgateway.config.settings import Settings, serves_outside
from wsgateway.exceptions import ChannelError, HookError, ListenerError, StartError
from wsgateway.gateway.admission import Admission
from wsgateway.gateway.drain import Drain
from wsgateway.gateway.keys import open_identity
from wsgateway.gateway.parts import Parts
from wsgateway.gateway.trend import Sampler
from wsgateway.gateway.watchdog import Calls, Watchdog
from wsgateway.gateway.wheel import Wheel, tick_for
from wsgateway.hub.following import Following
from wsgateway.hub.presence import SharedPresence
from wsgateway.hub.pubsub import PubSub
from wsgateway.hub.shared_channel import Subscribers
from wsgateway.hub.shared_history import SharedHistory
from wsgateway.listeners.dispatcher import Dispatcher
from wsgateway.listeners.event import EventGateway
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog
from wsgateway.metrics import Metrics
from wsgateway.protocols.centrifuge.execution import broadcast_channel
from wsgateway.text import mask_url

SLICE = 500
"""Entries of a wheel that are called without letting the event loop serve others in between. Each may write a ping."""


class Ticker:
    """Advances the wheel of one gateway on its event loop, while there is an entry in it."""

    def __init__(self, tick: float) -> None:
        self.wheel = Wheel(tick, self._tick_later)
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # else everything is called in the context of the first client
        self._next: asyncio.Handle | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Call no entry any more."""
        self._is_stopped = True
        self.wheel.clear()
        if self._next is not None:
            self._next.cancel()

    def _tick_later(self) -> None:
        if not self._is_stopped:
            due = self.wheel.next_tick(self._loop.time())
            self._next = self._loop.call_at(due, self._tick, context=self._context)

    def _tick(self) -> None:
        is_more_due = True
        try:
            is_more_due = self.wheel.advance(self._loop.time(), SLICE)
        finally:
            if is_more_due:
                self._next = self._loop.call_soon(self._tick, context=self._context)
            elif not self.wheel.is_empty:
                self._tick_later()


SWEEP_INTERVAL = 30.0
"""Seconds between two removals of what has expired from the history."""


class Sweep:
    """Removes what has expired from the history, while the gateway runs."""

    def __init__(self, history: MemoryHistory) -> None:
        self._history = history
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(SWEEP_INTERVAL, self._sweep, context=Context())

    def stop(self) -> None:
        self._next.cancel()

    def _sweep(self) -> None:
        self._next = self._loop.call_later(SWEEP_INTERVAL, self._sweep, context=Context())
        self._history.expire()


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a gateway that exist only while it runs."""

    hooks: Hooks
    cluster: AnyCluster
    pubsub: PubSub
    dispatcher: Dispatcher
    drain: Drain
    admission: Admission
    watchdog: Watchdog
    metrics: Metrics

    def watch_loop(self) -> None:
        """Report from now on when the event loop is blocked."""
        loop, cluster = self.watchdog.loop, self.cluster
        self.watchdog.watch(self.metrics, Calls(self.hooks.close, lambda: cluster.loop_blocked(loop)))

    def abandon(self) -> None:
        """Release what outlives the event loop, which was closed."""
        self.watchdog.unwatch(self.metrics)
        self.hooks.close()


@asynccontextmanager
async def assemble(
    gateway: EventGateway, parts: Parts, rules: Rules, *, watchdog: Watchdog, reload: bool
) -> AsyncIterator[Running]:
    """Create the parts of `gateway`, and join its cluster. On exit, leave the cluster, then release the parts.

    With `reload` the named module of the listener is loaded again. Raise `ListenerError`, and whatever the listener's
    own code raises.
    """
    settings, hub, metrics, log = parts.settings, parts.hub, parts.metrics, parts.log
    async with AsyncExitStack() as stack:
        stack.callback(watchdog.unwatch, metrics)
        identity = await stack.enter_async_context(open_identity(settings, log))
        hooks = Hooks(settings.listener, settings, log, reload=reload)
        stack.callback(hooks.close)
        cluster = _cluster_of(parts)
        stack.push_async_callback(cluster.aclose)
        channels = parts.channels
        pubsub = PubSub(hub, cluster, channels, metrics)
        dispatcher = Dispatcher(
            gateway, pubsub=pubsub, channels=channels, hooks=hooks, settings=settings, metrics=metrics, log=log
        )
        channels.watcher = dispatcher
        stack.callback(setattr, channels, "watcher", None)
        for text in warnings_of(
            settings.channels, has_on_subscribe=hooks["on_subscribe"] is not None or settings.checks_tokens
        ):
            log.warning("%s", text)
        _warn_of_broadcast_channel(settings, log)
        if isinstance(cluster, Cluster):
            await stack.enter_async_context(_sharing(parts, cluster, pubsub))
        stack.callback(Sweep(parts.history).stop)
        stack.callback(Sampler(parts.trend, parts.inspector.reported_totals).stop)
        ticker = Ticker(tick_for(min(settings.ping_interval, settings.pong_timeout)))
        stack.callback(ticker.stop)
        drain = Drain(dispatcher.runner, settings, log)
        admission = Admission(
            gateway=gateway,
            hub=hub,
            channels=channels,
            dispatcher=dispatcher,
            drain=drain,
            rules=rules,
            settings=settings,
            metrics=metrics,
            log=log,
            wheel=ticker.wheel,
            identity=identity,
            node=cluster.node,
        )
        await cluster.start()
        try:
            yield Running(hooks, cluster, pubsub, dispatcher, drain, admission, watchdog, metrics)
        except GeneratorExit:  # the event loop ends before the gateway was stopped, so nothing can be awaited any more
            stack.pop_all()
            raise


def _warn_of_broadcast_channel(settings: Settings, log: GatewayLog) -> None:
    """Warn if the channel of broadcasts has the name of a channel that the application may use."""
    name = broadcast_channel(settings)
    if not name or "centrifuge" not in settings.protocols or not settings.channels:
        return
    try:
        pattern = Namespaces(settings.channels).namespace_of(name)
    except ChannelError:
        return
    log.warning(
        'Centrifuge clients receive broadcasts in the channel "%s", which [channels."%s"] matches: set '
        "centrifuge_channel to a name that no namespace matches",
        name,
        pattern,
    )


@asynccontextmanager
async def _sharing(parts: Parts, cluster: Cluster, pubsub: PubSub) -> AsyncIterator[None]:
    """Share the channels of a gateway with its other nodes."""
    settings, channels = parts.settings, parts.channels
    store = None
    if histories_in(settings.channels):
        store = open_store(
            settings.broker or "",
            gateway=cluster.names.gateway,
            channels=settings.channels,
            history_bytes=settings.history_bytes,
            new_epoch=new_epoch,
            log=parts.log,
        )
    history = None if store is None else SharedHistory(store, cluster, parts.metrics, parts.log)
    subscribers = Subscribers(
        pubsub.deliver, channels.to_notify, channels.lose, lambda: cluster.is_up, channels.count_of
    )
    presence = SharedPresence(cluster, parts.hub, channels.find, parts.log)
    following = Following(
        channels.namespaces,
        cluster,
        history,
        presence,
        subscribers,
        max_bytes=settings.outbox_bytes,
        metrics=parts.metrics,
        log=parts.log,
    )
    if history is not None:
        await history.start()
    channels.following = cluster.routing.events = following
    try:
        yield
    finally:
        channels.following = cluster.routing.events = None
        await following.aclose()
        if history is not None:
            await history.aclose()


def _cluster_of(parts: Parts) -> AnyCluster:
    """Return the cluster of a gateway, which has a single node without a broker."""
    if parts.open_link is None:
        return SingleNode()
    answers, settings = parts.answers, parts.settings
    return Cluster(
        parts.open_link,
        gateway_id=settings.id,
        broker=mask_url(settings.broker or ""),
        local=Local(parts.hub.deliver_to_ids, answers.info, answers.answering, parts.hub.deliver_to_user),
        metrics=parts.metrics,
        log=parts.log,
        timeout=settings.broker_timeout,
    )


def reason_of(error: Exception) -> str:
    """Return why a gateway could not start, for people."""
    match error:
        case HookError():
            return f"on_start failed: {error.__cause__!r}"
        case ListenerError() | StartError():
            return str(error)
        case _:
            return repr(error)


def check_processes(settings: Settings, *, is_served_alone: bool) -> None:
    """Raise `StartError` if several processes serve a gateway with a history, and no broker keeps it for all."""
    histories, count = histories_in(settings.channels), worker_count(sys.argv, os.environ)
    if histories and count > 1 and not settings.broker and not is_served_alone:  # `wsgateway serve` has no such count
        raise StartError(
            f"{histories} would be kept by each of {count} worker processes alone, so set broker to ipc:// or redis:// "
            "to keep it for all, or serve with one worker, or set history = 0 (docs/how-to/processes.md#which-broker)"
        )


def log_exposure(settings: Settings, rules: Rules, log: GatewayLog, *, is_served_alone: bool) -> None:
    """Log which access is open, and warn if several processes run without a broker."""
    for opening in rules.openings(serves_outside(settings) or outside_of_process()):
        log.log(logging.WARNING if opening.is_loud else logging.INFO, "%s", opening.text)
    count = worker_count(sys.argv, os.environ)
    if count > 1 and not settings.broker and not is_served_alone:  # `wsgateway serve` has no such count
        log.warning(
            "%d worker processes and no broker: a message reaches only the clients of the process that receives it, "
            'set broker = "ipc://" (docs/how-to/processes.md)',
            count,
        )

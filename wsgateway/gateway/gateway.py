"""One gateway put together: an ASGI application with states, `send` and a lifespan. Also the registry of started
gateways, by id, which is the package's one piece of module state."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack
from weakref import WeakValueDictionary

from starlette.types import Receive, Scope, Send

from wsgateway.auth.rules import Rules
from wsgateway.cluster.brokers import Open, opener
from wsgateway.cluster.cluster import Cluster, Local, SingleNode
from wsgateway.cluster.nodes import node_of, several_workers
from wsgateway.config.exposure import outside_of_process, own_uid
from wsgateway.config.settings import Options, Settings, serves_outside
from wsgateway.exceptions import (
    ConfigError,
    GatewayError,
    GatewayNotFound,
    GatewayNotRunning,
    GatewayStopping,
    HookError,
    ListenerError,
    Refusal,
    StartError,
)
from wsgateway.gateway.admission import Admission, deny
from wsgateway.gateway.drain import Drain
from wsgateway.gateway.http.paths import relative_path, relative_scope, sender_of
from wsgateway.gateway.http.routes import router
from wsgateway.gateway.inspector import Directory
from wsgateway.gateway.registry import GatewayState
from wsgateway.gateway.watchdog import Watchdog
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Connections, Hub
from wsgateway.hub.loops import Home, call_from_thread, call_on, wrong_loop
from wsgateway.hub.recording import Recording
from wsgateway.hub.unawaited import is_development, watched
from wsgateway.limits import Rates
from wsgateway.listeners.dispatcher import Dispatcher, check_recipients
from wsgateway.listeners.loader import Hooks
from wsgateway.logs import GatewayLog, flush_log, log_to_file, say_if_unseen
from wsgateway.messages import Sent
from wsgateway.metrics import Metrics
from wsgateway.text import mask_url
from wsgateway.transports.takeover import EXTENSION

_ACTIVE = (GatewayState.STARTING, GatewayState.RUNNING, GatewayState.STOPPING)

_started: WeakValueDictionary[str, "Gateway"] = WeakValueDictionary()


class Gateway:
    """A WebSocket gateway: mount it, `app.mount("/live", gateway)`, or serve it alone.

    `options` are the fields of `wsgateway.config.settings.Settings`, or `settings` all of them; nothing is read from
    files or the environment. Raises `ConfigError` with every mistake at once. The listener is made at the start.

    It runs on the event loop that starts it. Once that loop is closed it is as new: its id is free, its connections
    are forgotten, and it may be started on another loop.
    """

    def __init__(
        self, listener: object = None, *, settings: Settings | None = None, **options: Unpack[Options]
    ) -> None:
        if settings is not None and (options or listener is not None):
            raise TypeError("give either settings, or a listener and single options")
        # Settings converts lists and texts, which its fields do not say
        self.settings = settings or Settings(listener=listener, **options)  # type: ignore[arg-type]
        self.metrics = Metrics()
        self.log = GatewayLog(self.settings.id)
        self.rules = Rules(self.settings, uid=own_uid())
        self.sends = Rates(self.settings.send_rate, self.settings.send_burst)
        self.version = version("wsgateway")
        self.failure = ""
        self._state = GatewayState.STOPPED
        self.cluster: Cluster | SingleNode = SingleNode()
        self._open_link = opener(self.settings.broker) if self.settings.broker else None
        self._hub = Hub(self.metrics, self.log)
        self.directory = Directory(self)
        self._router = router(self)
        self._lock = asyncio.Lock()
        self._never_started = True
        self._is_watching = False
        self._reload = False
        self._home: Home | None = None
        self._forgetting = threading.Lock()
        self._events: Dispatcher | None = None
        self._listener: Hooks | None = None
        self._websockets: Admission | None = None
        self._drain: Drain | None = None
        self._watchdog: Watchdog | None = None
        self._asked_by_hooks: set[asyncio.Task[None]] = set()
        self._where = ""
        if self.settings.log_file:
            self._open_log()
        if is_development(verbose=self.settings.verbose):
            for name in ("send", "start", "stop", "restart"):
                setattr(self, name, watched(getattr(self, name), self.log, what=f"gateway.{name}"))
        self.log.info("initialized")

    def _open_log(self) -> None:
        path = Path(self.settings.log_file or "")
        try:
            log_to_file(path)
        except OSError as exc:
            raise ConfigError([f"log_file: {str(path)!r} cannot be written: {exc.strerror}"]) from exc

    def __repr__(self) -> str:
        return f"<Gateway {self.id!r} {self.state}>"

    @property
    def id(self) -> str:
        return self.settings.id

    @property
    def state(self) -> GatewayState:
        if self._has_lost_loop and self._state in _ACTIVE:
            return GatewayState.STOPPED
        return self._state

    @state.setter
    def state(self, state: GatewayState) -> None:
        self._state = state

    @property
    def connections(self) -> Connections:
        """The open connections, a live view."""
        if self._has_lost_loop:
            self._forget_loop()
        return self._hub.connections

    @property
    def has_running_peers(self) -> bool:
        """Whether other processes serve this gateway too."""
        return any(node.info.state == GatewayState.RUNNING for node in self.cluster.nodes.alive())

    def messages_out(self, conn: Connection) -> int:
        """Messages written to `conn` so far."""
        return self._hub.messages_out(conn)

    def node_of(self, conn_id: str) -> str:
        """The id of the other process that has the connection; empty for one of this process."""
        return node_of(conn_id) if self.cluster.is_remote(conn_id) else ""

    @contextmanager
    def recording(self, conn: Connection) -> Iterator[Recording]:
        """Record what happens to `conn` meanwhile. Costs every other connection nothing."""
        try:
            yield self._hub.record(conn)
        finally:
            self._hub.forget(conn)

    # Sending

    async def send(
        self,
        message: object,
        *,
        connections: Iterable[Connection | str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Sent:
        """Push `message` through `on_message`, to `connections` (or ids of them), or to those the listener chooses.

        Waits for the hook, never for a client. Raises `GatewayNotRunning`, `MessageError` (a `ValueError`) if it
        cannot be encoded, `TypeError` if `connections` is one connection or id or not iterable, `HookError` if the
        listener failed, and `RuntimeError` on another event loop than the gateway's.
        """
        home = self._home
        if home is not None and not home.is_here() and self._runs_elsewhere():
            raise wrong_loop("gateway.send", "in a thread, use gateway.send_from_thread(...)")
        if connections is not None:
            check_recipients("connections", connections)
        if self._is_watching:
            return await self.directory.send_elsewhere(message, connections, data)
        if self._never_started:
            await self._start_unasked()
        if self._events is None or self._state in (GatewayState.STOPPED, GatewayState.FAILED):
            raise GatewayNotRunning(self.id)
        if (
            self._state is GatewayState.STOPPING and not self._events.inside_hook()
        ):  # an on_client_close may say good-bye
            raise GatewayStopping(self.id)
        return await self._events.send(message, connections, data)

    def send_from_thread(
        self,
        message: object,
        *,
        connections: Iterable[Connection | str] | None = None,
        data: dict[str, Any] | None = None,
    ) -> Sent:
        """`send`, for a `def` hook, a `def` route handler or any other thread than the loop's.

        Raises what `send` raises, and `RuntimeError` on the loop's own thread, or if the loop ends meanwhile.
        """
        home = self._home
        if home is None or self.state in (GatewayState.STOPPED, GatewayState.FAILED):
            raise GatewayNotRunning(self.id)
        return call_from_thread(home, lambda: self.send(message, connections=connections, data=data))

    def find(self, gateway_id: str) -> "Gateway":
        """The gateway of this process that was started with that id, in any case. Raises `GatewayNotFound`."""
        return find(gateway_id)

    # Starting and stopping

    async def start(self) -> None:
        """Make the listener, call `on_start`, run. Does nothing while running.

        Raises `StartError`, and `RuntimeError` while it runs on another event loop.
        """
        self._enter_loop("gateway.start")
        async with self._lock:
            if self.state is GatewayState.RUNNING:
                return
            self._never_started = False
            self.state, self.failure = GatewayState.STARTING, ""
            say_if_unseen()
            self.log.info("starting%s", self._where)
            try:
                await self._start()
            except HookError as exc:
                await self._leave_cluster()
                self.fail(f"on_start failed: {exc.__cause__!r}")
                raise StartError(f"gateway [{self.id}] cannot start: {self.failure}") from exc
            except (ListenerError, StartError) as exc:
                self.fail(str(exc))
                raise StartError(f"gateway [{self.id}] cannot start: {self.failure}") from exc
            except Exception as exc:  # what the listener's own code raises where nobody expects it
                await self._leave_cluster()
                self.fail(repr(exc))
                raise StartError(f"gateway [{self.id}] cannot start: {self.failure}") from exc
            except BaseException:
                await self._leave_cluster()
                if self._listener is not None:
                    self._listener.close()
                self.state, self._never_started = GatewayState.STOPPED, True
                raise
            self.state = GatewayState.RUNNING
            self.log.info("started%s", self._where)
            self.cluster.notify()

    async def _start(self) -> None:
        running = _started.get(self.id.casefold())
        if running is not None and running is not self and running.state is GatewayState.RUNNING:
            raise StartError(f"another gateway with id [{self.id}] is running in this process")
        loop = asyncio.get_running_loop()
        self._listener = Hooks(self.settings.listener, self.settings, self.log, reload=self._reload)
        self._reload = True
        self.cluster = self._new_cluster()
        self._events = Dispatcher(
            self,
            hub=self._hub,
            listener=self._listener,
            settings=self.settings,
            metrics=self.metrics,
            log=self.log,
            cluster=self.cluster,
        )
        self._drain = Drain(self._events, self.settings, self.log)
        self._websockets = Admission(
            hub=self._hub,
            dispatcher=self._events,
            drain=self._drain,
            rules=self.rules,
            settings=self.settings,
            metrics=self.metrics,
            log=self.log,
            node=self.cluster.node,
        )
        await self.cluster.start()
        await self._events.run("on_start")
        for opening in self.rules.openings(serves_outside(self.settings) or outside_of_process()):
            self.log.log(logging.WARNING if opening.is_loud else logging.INFO, "%s", opening.text)
        count = several_workers(sys.argv, os.environ)
        if (
            count > 1 and not self.cluster.has_broker and not self._where
        ):  # our own server knows nothing of such a count
            self.log.warning(
                "%d worker processes and no broker: a message reaches only the clients of the process it comes to, "
                'set broker = "ipc://" (docs/processes.md)',
                count,
            )
        self._watchdog = _watchdog_of(loop)
        self._watchdog.watch(self.metrics, self._listener.close)
        _started[self.id.casefold()] = self

    def _new_cluster(self) -> Cluster | SingleNode:
        """Return the processes of this gateway, which without a broker is one."""
        if self._open_link is None:
            return SingleNode()
        local = Local(self._hub.deliver_to_ids, self.directory.info, self.directory.operations)
        return self._cluster_over(self._open_link, self.settings.broker or "", local=local)

    def _cluster_over(self, open_link: Open, broker: str, *, local: Local | None) -> Cluster:
        return Cluster(
            open_link,
            gateway_id=self.id,
            broker=mask_url(broker),
            local=local,
            metrics=self.metrics,
            log=self.log,
            timeout=self.settings.broker_timeout,
        )

    async def watch(self, broker: str) -> None:
        """Watch the nodes of this gateway over `broker` until `stop`, without a listener or clients."""
        self._enter_loop("gateway.watch")
        async with self._lock:
            self.failure = ""
            self._never_started, self._is_watching = False, True
            self.cluster = self._cluster_over(opener(broker), broker, local=None)
            await self.cluster.start()
            self.state = GatewayState.RUNNING

    async def _leave_cluster(self) -> None:
        cluster, self.cluster = self.cluster, SingleNode()
        await cluster.aclose()

    async def _start_unasked(self) -> None:
        self.log.warning("nobody ran the gateway's lifespan: it starts now and is never stopped (docs/mounting.md)")
        try:
            await self.start()
        except StartError:
            pass  # it has failed, which every answer says from now on

    def bound_to(self, url: str, host: str | None) -> None:
        """It is going to be served at `url`, on the address `host`, None on a Unix socket."""
        self._where = f" on {url}"
        self.rules = Rules(self.settings, bound_host=host, uid=own_uid())

    def fail(self, reason: str) -> None:
        """It cannot run, because of `reason`, which the log, `/ready` and the panel show."""
        self.state, self.failure = GatewayState.FAILED, reason
        self.log.error("cannot start: %s", reason)
        if self._listener is not None:
            self._listener.close()

    async def stop(self) -> None:
        """Close every connection with 1012, run every `on_client_close` and `on_stop`. Does nothing while stopped.

        Takes `drain` seconds at most, and `LINGER` more for hooks that still run then. From within a hook of this
        gateway it only begins to stop, since it would wait for the hook that calls it. Raises `RuntimeError` while it
        runs on another event loop.
        """
        self._enter_loop("gateway.stop")
        await self._outside_hooks(self._stop())

    async def restart(self) -> None:
        """Stop, load the listener's named module anew, start. Raises what `start` raises. Within a hook as `stop`."""
        self._enter_loop("gateway.restart")
        await self._outside_hooks(self._restart())

    async def _outside_hooks(self, action: Coroutine[Any, Any, None]) -> None:
        if self._events is not None and self._events.inside_hook():
            task = asyncio.create_task(action)
            self._asked_by_hooks.add(task)
            task.add_done_callback(self._asked_by_hooks.discard)
        else:
            await action

    async def _restart(self) -> None:
        self.log.info("restarting%s", self._where)
        await self._stop()
        try:
            await self.start()
        except StartError:
            if asyncio.current_task() not in self._asked_by_hooks:
                raise  # else nobody waits for it, and the log has the reason

    async def _stop(self) -> None:
        async with self._lock:
            if self._is_watching:
                await self._leave_cluster()
                self._is_watching = False
                self.state = GatewayState.FAILED if self.failure else GatewayState.STOPPED
                return
            if self.state is not GatewayState.RUNNING:
                if self.state is GatewayState.FAILED:
                    self.state = GatewayState.STOPPED
                return
            assert self._events is not None
            assert self._drain is not None
            assert self._listener is not None
            self.state = GatewayState.STOPPING
            self.log.info("stopping%s, %d connections are closed", self._where, len(self.connections))
            self.cluster.notify()
            self._drain.begin()
            await self._drain.wait()
            try:
                await self._events.run("on_stop")
            except GatewayError:
                pass  # it is logged, and the gateway stops all the same
            await self._leave_cluster()
            self._listener.close()
            if self._watchdog is not None:
                self._watchdog.forget(self.metrics)
                self._watchdog = None
            self.state = GatewayState.STOPPED
            self.log.info("stopped%s", self._where)
            await asyncio.to_thread(flush_log)  # some servers end the process by a signal next, without `atexit`

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Runs the gateway: `Starlette(lifespan=gateway.lifespan)`, or `async with gateway.lifespan():` in another."""
        del app
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    # Its event loop

    @property
    def _has_lost_loop(self) -> bool:
        return self._home is not None and self._home.loop.is_closed()

    def _runs_elsewhere(self) -> bool:
        """Return whether it runs on another event loop than the caller. Forget one that was closed."""
        if self._has_lost_loop:
            self._forget_loop()
        return self._home is not None and not self._home.is_here() and self._state in _ACTIVE

    def _enter_loop(self, what: str) -> None:
        """Belong to the caller's event loop from now on. Raise `RuntimeError` while it runs on another one."""
        if self._runs_elsewhere():
            instead = f"call it there, in a thread with asyncio.run_coroutine_threadsafe({what}(...), loop)"
            raise wrong_loop(what, instead)
        if self._home is None or not self._home.is_here():
            self._home, self._lock = Home(), asyncio.Lock()

    def _forget_loop(self) -> None:
        """Become as new, because the event loop that it belonged to was closed."""
        with self._forgetting:
            if not self._has_lost_loop:
                return  # another thread was faster
            if self._state in _ACTIVE:
                self.log.warning(
                    "its event loop was closed before the gateway was stopped, so on_client_close and on_stop did not "
                    "run: use gateway.lifespan, or await gateway.stop()"
                )
            if self._watchdog is not None:
                self._watchdog.forget(self.metrics)
            if self._listener is not None:
                self._listener.close()
            self._hub.abandon()
            if _started.get(self.id.casefold()) is self:
                del _started[self.id.casefold()]
            self.directory = Directory(self)
            self.cluster = SingleNode()
            self._events = self._listener = self._websockets = self._drain = None
            self._watchdog = None
            self._asked_by_hooks.clear()
            self._never_started, self._is_watching, self._reload = True, False, False
            self._state, self.failure, self._home = GatewayState.STOPPED, "", None

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
            return
        home = self._home
        if home is not None and not home.is_here() and self._runs_elsewhere():
            extensions = {name: value for name, value in scope.get("extensions", {}).items() if name != EXTENSION}
            await call_on(home.loop, self, {**scope, "extensions": extensions}, receive, send)
            return
        if self._never_started:
            await self._start_unasked()
        if scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        else:
            await self._router(relative_scope(scope), receive, send)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = relative_path(scope)
        if path not in ("/", "/ws") and not path.startswith("/ws/"):
            text = f"there is no WebSocket at {path[:200]}, it is at /ws"
            await self._refuse(scope, receive, send, Refusal(404, "unknown_path", text, "wrong-path"))
        elif self.state is GatewayState.STARTING:
            async with self._lock:  # held until it has started
                pass
            await self._serve_websocket(scope, receive, send)
        elif self.state is not GatewayState.RUNNING or self._websockets is None:
            text = f"gateway [{self.id}] is {self.state}"
            await self._refuse(scope, receive, send, Refusal(503, "not_running", text, "not-running"))
        else:
            await self._websockets.admit(scope, receive, send, path=path)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        self.metrics.refusals[refusal.kind] += 1
        log = self.log.limited(f"handshake {refusal.kind}")
        log.warning("refused a handshake from %s: %s", sender_of(scope), refusal)
        await receive()
        with suppress(OSError):  # the client has disconnected
            await deny(scope, send, refusal.status, str(refusal))

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except (StartError, RuntimeError) as exc:
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


def _watchdog_of(loop: asyncio.AbstractEventLoop) -> Watchdog:
    """The one that another gateway of `loop` has, or a new one."""
    for known in _started.values():
        if known._watchdog is not None and known._watchdog.loop is loop:
            return known._watchdog
    return Watchdog(loop)


def find(gateway_id: str) -> Gateway:
    """The gateway of this process that was started with `gateway_id`, trimmed, in any case."""
    gateway = _started.get(gateway_id.strip().casefold())
    if gateway is None or gateway._has_lost_loop:
        running = [known.id for known in _started.values() if known.state is not GatewayState.STOPPED]
        raise GatewayNotFound(gateway_id.strip(), running)
    return gateway


async def send_gateway_message(gateway_id: str, data: dict[str, Any]) -> Sent:
    """Send `data["message"]` through the gateway with that id, as the ancestor's `sendGatewayMessage` did.

    `data["connections"]` names recipients, what else is in `data` the listener finds in `event.data`.
    Raises `GatewayNotFound` and what `Gateway.send` raises.
    """
    rest = {name: value for name, value in data.items() if name not in ("message", "connections")}
    return await find(gateway_id).send(data.get("message"), connections=data.get("connections"), data=rest)

"""One gateway: an ASGI application with states, `send` and a lifespan."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from typing import Any, Unpack

from starlette.types import Receive, Scope, Send

from wsgateway.auth.rules import Rules
from wsgateway.cluster.single import AnyCluster, SingleNode
from wsgateway.config.exposure import own_uid
from wsgateway.config.settings import Options, Settings
from wsgateway.exceptions import GatewayError, Refusal, Refused, StartError
from wsgateway.gateway.admission import CENTRIFUGE_PATH, Admission, refuse
from wsgateway.gateway.http.paths import relative_path, relative_scope
from wsgateway.gateway.http.routes import RouteContext, router
from wsgateway.gateway.http.send import SendGuard
from wsgateway.gateway.lifespan import run_lifespan
from wsgateway.gateway.messaging import Messaging
from wsgateway.gateway.parts import create_parts, open_log
from wsgateway.gateway.registry import GatewayState, registry
from wsgateway.gateway.running import Running, assemble, check_processes, log_exposure, reason_of
from wsgateway.hub.connection import Connection
from wsgateway.hub.hub import Connections
from wsgateway.hub.loops import Home, call_on, wrong_loop
from wsgateway.hub.recording import Recording
from wsgateway.hub.unawaited import is_development, watched
from wsgateway.logs import flush_log, warn_if_unseen
from wsgateway.transports.takeover import EXTENSION, STREAM_EXTENSION

_ACTIVE = (GatewayState.STARTING, GatewayState.RUNNING, GatewayState.STOPPING)


class Gateway(Messaging):
    """A WebSocket gateway. Mount it with `app.mount("/live", gateway)`, or serve it alone.

    `options` are settings, the fields of `Settings`. Instead of them, `settings` may contain all settings. Files and
    the environment are not read. Raise `ConfigError` with every mistake. A listener that is a class is called when the
    gateway starts.

    A gateway belongs to the event loop that starts it. When that loop is closed, the id becomes free, the connections
    are forgotten, and the gateway may be started on another loop.
    """

    def __init__(
        self, listener: object = None, *, settings: Settings | None = None, **options: Unpack[Options]
    ) -> None:
        if settings is not None and (options or listener is not None):
            raise TypeError("give either settings, or a listener and single options")
        # Settings converts lists and texts, which the types of its fields do not show
        self.settings = settings or Settings(listener=listener, **options)  # type: ignore[arg-type]
        self.version = version("wsgateway")
        self.failure = ""
        self._find_panel: Callable[[], str] = lambda: ""
        self._state = GatewayState.STOPPED
        self._url = ""
        self._is_new = True
        self._running: Running | None = None
        self._alone = SingleNode()
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._home: Home | None = None
        self._forgetting = threading.Lock()
        self._asked_by_hooks: set[asyncio.Task[None]] = set()
        self._parts = create_parts(
            self.settings,
            version=self.version,
            state=lambda: self.state,
            cluster=lambda: self.cluster,
            send=lambda message, target, data: self.send(message, data=data, **target),
            publish=lambda message, target: self.publish(message, **target),
            sessions=lambda: {} if self._running is None else self._running.admission.sessions,
            posted=lambda: None if self._running is None else self._running.admission.posted,
        )
        self._hub = self._parts.hub
        self.metrics = self._parts.metrics
        self.log = self._parts.log
        self.inspector = self._parts.inspector
        self.trend = self._parts.trend
        self._apply(Rules(self.settings, uid=own_uid()))
        open_log(self.settings)
        if is_development(verbose=self.settings.verbose):
            for name in ("send", "start", "stop", "restart"):
                setattr(self, name, watched(getattr(self, name), self.log, what=f"gateway.{name}"))
        self.log.info("initialized")

    def __repr__(self) -> str:
        return f"<Gateway {self.id!r} {self.state}>"

    @property
    def id(self) -> str:
        return self.settings.id

    @property
    def state(self) -> GatewayState:
        if self.has_lost_loop and self._state in _ACTIVE:
            return GatewayState.STOPPED
        return self._state

    @property
    def connections(self) -> Connections:
        """The open connections, a live view."""
        if self.has_lost_loop:
            self._forget_loop()
        return self._hub.connections

    @property
    def cluster(self) -> AnyCluster:
        """The nodes of this gateway; while it does not run, this process alone."""
        return self._alone if self._running is None else self._running.cluster

    @contextmanager
    def recording(self, conn: Connection) -> Iterator[Recording]:
        """Record what happens to `conn` in the `with` block. The other connections are not slowed down."""
        try:
            yield self._hub.record(conn)
        finally:
            self._hub.stop_recording(conn)

    # Sending

    def _check_loop(self, what: str, *, in_thread: str) -> None:
        home = self._home
        if home is not None and not home.is_here() and self._runs_elsewhere():
            raise wrong_loop(what, f"in a thread, use {in_thread}(...)" if in_thread else "", owner="the gateway")

    def _is_startable(self) -> bool:
        return self.state not in (GatewayState.STOPPED, GatewayState.FAILED)

    def find(self, gateway_id: str) -> "Gateway":
        """Return the gateway of this process that was started with that id, in any case. Raise `GatewayNotFound`."""
        gateway: Gateway = registry.find(gateway_id)
        return gateway

    # Starting and stopping

    async def start(self) -> None:
        """Make the listener, call `on_start`, and run. Do nothing while running.

        Raise `StartError`, and `RuntimeError` while the gateway runs on another event loop.
        """
        self._enter_loop("gateway.start")
        async with self._lock:
            if self._state is GatewayState.RUNNING:
                return
            self._state, self.failure = GatewayState.STARTING, ""
            warn_if_unseen()
            self.log.info("starting%s", self._where)
            was_new, self._is_new = self._is_new, False
            try:
                await self._start(reload=not was_new)
            except Exception as exc:  # also what the listener's own code raises
                self.fail(reason_of(exc))
                raise StartError(f"gateway [{self.id}] cannot start: {self.failure}") from exc
            except BaseException:
                self._state, self._is_new = GatewayState.STOPPED, True
                raise
            self._state = GatewayState.RUNNING
            self.log.info("started%s", self._where)
            self.cluster.notify()

    async def _start(self, *, reload: bool) -> None:
        registry.check_free(self)
        check_processes(self.settings, is_served_alone=bool(self._url))
        watchdog = registry.watchdog_of(asyncio.get_running_loop())
        async with AsyncExitStack() as stack:
            assembled = assemble(self, self._parts, self._rules, watchdog=watchdog, reload=reload)
            running = self._running = await stack.enter_async_context(assembled)
            stack.callback(setattr, self, "_running", None)
            await running.dispatcher.run("on_start")
            log_exposure(self.settings, self._rules, self.log, is_served_alone=bool(self._url))
            running.watch_loop()
            self._stack = stack.pop_all()
        registry.add(self)

    async def _start_unasked(self) -> None:
        self.log.warning(
            "the gateway's lifespan was not run: the gateway starts now and is never stopped (docs/how-to/mounting.md)"
        )
        with suppress(StartError):  # it has failed, which every answer reports from now on
            await self.start()

    @property
    def _where(self) -> str:
        return f" on {self._url}" if self._url else ""

    def bound_to(self, url: str, host: str | None) -> None:
        """Expect to be served at `url`, on the address `host`, None on a Unix socket."""
        self._url = url
        self._apply(Rules(self.settings, bound_host=host, uid=own_uid()))

    def _apply(self, rules: Rules) -> None:
        """Check callers of the HTTP routes, and clients of the next start, by `rules`."""
        self._rules = rules
        self.send_guard = SendGuard(self, rules, self._parts.rates, self.settings.max_send_size)
        self._router = router(
            RouteContext(
                self._parts,
                self,
                rules,
                status=lambda: (self.state, self.failure),
                cluster=lambda: self.cluster,
                send_guard=self.send_guard,
                find_guard=lambda gateway_id: self.find(gateway_id).send_guard,
                admission=self._admission,
                find_panel=lambda: self._find_panel(),
            )
        )

    def link_panel(self, find_panel: Callable[[], str]) -> None:
        """Let the test page link to the panel at the URL that `find_panel` returns, unless it is empty."""
        self._find_panel = find_panel

    def prepare(self) -> None:
        """Show the state STARTING already while a server binds the port. `start` or `fail` has to follow."""
        self._state = GatewayState.STARTING

    def fail(self, reason: str) -> None:
        """Become FAILED because of `reason`, which the log, `/ready` and the panel show."""
        self._state, self.failure = GatewayState.FAILED, reason
        self.log.error("cannot start: %s", reason)

    async def stop(self) -> None:
        """Close every connection with 1012, run every `on_client_close` and `on_stop`. Do nothing while stopped.

        Take at most `drain` seconds, and 2 s more for hooks that still run then. Within a hook of this gateway,
        only begin to stop, because waiting would wait for the calling hook. Raise `RuntimeError` while the gateway
        runs on another event loop.
        """
        self._enter_loop("gateway.stop")
        await self._outside_hooks(self._stop())

    async def restart(self) -> None:
        """Stop, load the listener's module again, and start. Raise what `start` raises. Within a hook, see `stop`."""
        self._enter_loop("gateway.restart")
        await self._outside_hooks(self._restart())

    async def _outside_hooks(self, action: Coroutine[Any, Any, None]) -> None:
        if self._running is not None and self._running.dispatcher.inside_hook():
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
                raise  # else no caller waits, and the log has the reason

    async def _stop(self) -> None:
        async with self._lock:
            running = self._running
            if self._state is GatewayState.FAILED:
                self._state = GatewayState.STOPPED
            if self._state is not GatewayState.RUNNING or running is None:
                return
            self._state = GatewayState.STOPPING
            try:
                async with self._stack.pop_all():
                    self.log.info("stopping%s, %d connections are closed", self._where, len(self.connections))
                    running.cluster.notify()
                    running.drain.begin()
                    await running.drain.wait()
                    with suppress(GatewayError):  # it is logged, and the gateway still stops
                        await running.dispatcher.run("on_stop")
            finally:  # also if the caller is cancelled
                self._state = GatewayState.STOPPED
                self.log.info("stopped%s", self._where)
            await asyncio.to_thread(flush_log)  # some servers end the process by a signal next, without `atexit`

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the gateway: `Starlette(lifespan=gateway.lifespan)`, or `async with gateway.lifespan():` in another."""
        del app
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    # Its event loop

    @property
    def has_lost_loop(self) -> bool:
        return self._home is not None and self._home.loop.is_closed()

    def _runs_elsewhere(self) -> bool:
        """Return whether the gateway runs on another event loop than the caller. Forget a loop that was closed."""
        if self.has_lost_loop:
            self._forget_loop()
        return self._home is not None and not self._home.is_here() and self._state in _ACTIVE

    def _enter_loop(self, what: str) -> None:
        """Belong to the caller's event loop from now on. Raise `RuntimeError` while running on another one."""
        if self._runs_elsewhere():
            raise wrong_loop(what, owner="the gateway")
        if self._home is None or not self._home.is_here():
            self._home, self._lock = Home(), asyncio.Lock()

    def _forget_loop(self) -> None:
        """Become like a new gateway, because the event loop was closed."""
        with self._forgetting:
            if not self.has_lost_loop:
                return  # another thread was faster
            if self._state in _ACTIVE:
                self.log.warning(
                    "its event loop was closed before the gateway was stopped, so on_client_close and on_stop did not "
                    "run: use gateway.lifespan, or await gateway.stop()"
                )
            if self._running is not None:
                self._running.abandon()
            self._hub.abandon()
            self._parts.channels.abandon()
            registry.remove(self)
            self._running, self._stack = None, AsyncExitStack()
            self._asked_by_hooks.clear()
            self._state, self._is_new, self.failure, self._home = GatewayState.STOPPED, True, "", None

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await run_lifespan(receive, send, start=self.start, stop=self.stop)
            return
        home = self._home
        if home is not None and not home.is_here() and self._runs_elsewhere():
            offered = scope.get("extensions", {}).items()  # a socket belongs to its own event loop
            extensions = {name: value for name, value in offered if name not in (EXTENSION, STREAM_EXTENSION)}
            await call_on(home.loop, self, {**scope, "extensions": extensions}, receive, send)
            return
        if self._is_new:
            await self._start_unasked()
        if scope["type"] == "websocket":
            await self._handle_websocket(scope, receive, send)
        else:
            await self._router(relative_scope(scope), receive, send)

    async def _handle_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = relative_path(scope)
        if path == CENTRIFUGE_PATH and "centrifuge" not in self.settings.protocols:
            text = f'add "centrifuge" to protocols to serve {path}'
            await self._refuse(scope, receive, send, Refusal(404, "unknown_path", text, "wrong-path"))
        elif path not in ("/", "/ws", CENTRIFUGE_PATH) and not path.startswith("/ws/"):
            also = (
                f", or at {CENTRIFUGE_PATH} for Centrifuge clients" if "centrifuge" in self.settings.protocols else ""
            )
            text = f"there is no WebSocket at {path[:200]}, it is at /ws{also}"
            await self._refuse(scope, receive, send, Refusal(404, "unknown_path", text, "wrong-path"))
        elif self.state is GatewayState.STARTING:
            async with self._lock:  # held until it has started
                pass
            await self._handle_websocket(scope, receive, send)
        elif self.state is not GatewayState.RUNNING or self._running is None:
            text = f"gateway [{self.id}] is {self.state}"
            await self._refuse(scope, receive, send, Refusal(503, "not_running", text, "not-running"))
        else:
            await self._running.admission.admit(scope, receive, send, path=path)

    async def _admission(self) -> Admission:
        """Return the admission of clients, once the gateway has started. Raise `Refused` unless it runs."""
        if self.state is GatewayState.STARTING:
            async with self._lock:  # held until it has started
                pass
        running = self._running
        if self.state is not GatewayState.RUNNING or running is None:
            text = f"gateway [{self.id}] is {self.state}"
            raise Refused.of(Refusal(503, "not_running", text, "not-running", (("retry-after", "5"),)))
        return running.admission

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        await refuse(scope, receive, send, refusal, metrics=self.metrics, log=self.log)

"""The gateways of a supervisor. An instance has a port of its own; the application serves an embedded gateway."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from wsgateway.config.settings import Settings
from wsgateway.config.values import Startup
from wsgateway.exceptions import GatewayConflict, StartError
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.registry import GatewayState
from wsgateway.server.serving import serving
from wsgateway.supervisor.observer import Observer
from wsgateway.supervisor.workers import Roll, Workers, serving_workers


class _Supervised:
    """The base of instances and embedded gateways."""

    gateway: Gateway | Observer
    url = ""

    @property
    def id(self) -> str:
        return self.gateway.id

    @property
    def settings(self) -> Settings:
        return self.gateway.settings

    @property
    def state(self) -> GatewayState:
        return self.gateway.state


class Instance(_Supervised):
    """One gateway of the settings file, with a port of its own. A `Supervisor` creates and owns it."""

    is_editable = True

    def __init__(
        self, settings: Settings, on_failure: "Callable[[Instance], None]", find_panel: Callable[[], str]
    ) -> None:
        """`on_failure` is called when the gateway has failed because its workers die one after the other.

        `find_panel` returns the URL of the panel, or an empty text. The test page links to it.
        """
        self._find_panel = find_panel
        self.gateway = self._create_gateway(settings)
        self.workers: Workers | None = None
        self.last_roll: Roll | None = None
        """The roll that runs, or the last one."""
        self._rolls = 0
        self._on_failure = on_failure
        self._lock = asyncio.Lock()
        self._stack: AsyncExitStack | None = None

    async def start(self) -> None:
        """Bind the port, then run. Do nothing if the gateway runs already.

        Raise `StartError`, and `GatewayConflict` if it is disabled.
        """
        async with self._lock:
            await self._start()

    async def stop(self) -> None:
        """Release the port, close every connection, run every `on_client_close`. Do nothing if it is stopped."""
        if self.workers is not None:
            self.workers.begin_end()  # ends a roll, which would hold the lock
        async with self._lock:
            await self._stop()

    async def drain(self) -> None:
        """Close every connection as `stop` does, but keep the port: `/ready` answers 503. `start` starts it again."""
        async with self._lock:
            if self.workers is not None:
                await self.workers.drain()
            await _drain(self.gateway)

    async def restart(self) -> None:
        """Stop, load the listener again, and start, from every state. Raise what `start` raises."""
        async with self._lock:
            self._check_enabled()
            await self._stop()
            await self._start()

    async def replace(self, settings: Settings) -> None:
        """Replace the gateway by one with `settings`, and start it if the old one ran. Raise `StartError`."""
        async with self._lock:
            was_running = self.state is GatewayState.RUNNING
            await self._stop()
            trend, self.gateway = self.gateway.trend, self._create_gateway(settings)
            self.gateway.trend.continue_from(trend)
            if was_running and settings.startup is not Startup.DISABLED:
                await self._start()

    async def roll(self) -> None:
        """Replace the workers one after the other. Raise `StartError`, and `GatewayConflict` without workers."""
        self._rolls += 1
        try:
            async with self._lock:
                self.last_roll = None
                if self.workers is None:
                    raise GatewayConflict(f"gateway [{self.id}] has no workers to replace: restart it, or set workers")
                self.last_roll = Roll(self.settings.workers)
                await self.workers.roll(self.last_roll)
        finally:
            self._rolls -= 1

    @property
    def is_rolling(self) -> bool:
        """Whether a roll runs, or waits until another action on this gateway has ended."""
        return self._rolls > 0

    def _create_gateway(self, settings: Settings) -> Gateway | Observer:
        """Return the gateway with `settings`, or the observer of its workers."""
        if settings.workers > 1:
            return Observer(settings)
        gateway = Gateway(settings=settings)
        gateway.link_panel(self._find_panel)
        return gateway

    def _check_enabled(self) -> None:
        if self.settings.startup is Startup.DISABLED:
            raise GatewayConflict(f"gateway [{self.id}] is disabled: set startup to automatic or manual first")

    async def _start(self) -> None:
        self._check_enabled()
        if self.state is GatewayState.RUNNING:
            return
        if self._stack is not None:
            await self._stop()  # it was drained and still has its port
        self.gateway.prepare()
        stack = AsyncExitStack()
        try:
            if isinstance(self.gateway, Observer):
                served = serving_workers(self.gateway, self.settings, self._workers_died)
                self.url, self.workers = await stack.enter_async_context(served)
            else:
                self.url = await stack.enter_async_context(serving(self.gateway, self.settings))
        except BaseException as exc:
            if not isinstance(exc, StartError):
                self.gateway.fail(str(exc) or type(exc).__name__)
            raise
        self._stack = stack

    async def _stop(self) -> None:
        await self._release()
        await self.gateway.stop()  # a failed gateway becomes STOPPED

    def _workers_died(self, reason: str) -> None:
        self.gateway.fail(reason)
        self._on_failure(self)

    async def release(self) -> None:
        """Release the port after the workers have died. The gateway stays FAILED, and may be started again."""
        async with self._lock:
            if self.state is GatewayState.FAILED:
                await self._release()

    async def _release(self) -> None:
        stack, self._stack = self._stack, None
        self.url, self.workers = "", None
        if stack is not None:
            await stack.aclose()


class Embedded(_Supervised):
    """A gateway that was created in code. The application binds its port and has its settings."""

    is_editable = False
    gateway: Gateway

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def start(self) -> None:
        await self.gateway.start()

    async def stop(self) -> None:
        await self.gateway.stop()

    async def drain(self) -> None:
        await _drain(self.gateway)

    async def restart(self) -> None:
        await self.gateway.restart()


async def _drain(gateway: Gateway | Observer) -> None:
    if gateway.state is not GatewayState.FAILED:  # a failed gateway keeps its failure
        await gateway.stop()

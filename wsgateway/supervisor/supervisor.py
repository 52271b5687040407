"""The gateways of a settings file: created, started, stopped, restarted, rolled, edited, and deleted.

Called by REST, the panel, and the command line. Does not know HTTP.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsgateway.config.settings import AdminSettings, Settings
from wsgateway.config.values import Startup
from wsgateway.exceptions import (
    ConfigError,
    GatewayConflict,
    GatewayError,
    GatewayNotFound,
    Mistake,
    StartError,
)
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.registry import GatewayState
from wsgateway.hub.loops import Home, wrong_loop
from wsgateway.logs import logger
from wsgateway.supervisor.changes import SHIPPED_LISTENER, check_names, check_remote_changes
from wsgateway.supervisor.instance import Embedded, Instance
from wsgateway.supervisor.patterns import is_allowed
from wsgateway.supervisor.store import Described, Store


class Supervisor:
    """Runs the gateways of a settings file in one process, each on its own port.

        async with Supervisor("wsgateway.toml") as supervisor:
            await supervisor.restart("chat")

    Entering starts the gateways whose `startup` is automatic. If one cannot start, it is FAILED, and the others run.
    Leaving stops them all. `gateways` were created in code. They can be listed, started, and stopped, but not edited.
    """

    def __init__(
        self,
        store: Store | str | Path | None = None,
        *,
        gateways: Iterable[Gateway] = (),
        admin: AdminSettings | None = None,
    ) -> None:
        """`store` is the settings file, or a `Store` if environment and flags apply, too.

        `admin` are the settings of the admin interface if there is no file.
        """
        self._store = Store(str(store)) if isinstance(store, (str, Path)) else store
        self._embedded = [Embedded(gateway) for gateway in gateways]
        self._instances: dict[str, Instance] = {}
        self._editing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._warned: tuple[str, ...] = ()
        self._actions: set[asyncio.Task[None]] = set()
        self._home: Home | None = None
        self.admin = admin or AdminSettings()
        self.panel_url = ""
        """URL of the panel, if it is served. The test pages of the gateways link to it."""
        self.all_failed = asyncio.Event()
        """Set when the last running gateway has failed because its workers died one after the other."""
        self.closing = asyncio.Event()
        """Set when the supervisor begins to stop, which ends event streams."""

    # The gateways

    def all(self) -> Sequence[Instance | Embedded]:
        """Return every gateway: those of the file in its order, then those created in code."""
        return [*self._instances.values(), *self._embedded]

    def find(self, gateway_id: str) -> Instance | Embedded:
        """Return the gateway with that id, in any case. Raise `GatewayNotFound`."""
        folded = gateway_id.strip().casefold()
        for supervised in self.all():
            if supervised.id.casefold() == folded:
                return supervised
        raise GatewayNotFound(gateway_id.strip(), [supervised.id for supervised in self.all()])

    def state(self, gateway_id: str) -> GatewayState:
        return self.find(gateway_id).state

    def may_name(self, listener: str) -> bool:
        """Return whether `listener` may be set remotely, because a gateway of the file or a pattern names it."""
        named = [instance.settings.listener for instance in self._instances.values()]
        return listener in (SHIPPED_LISTENER, *named) or is_allowed(listener, self.admin.listeners)

    @property
    def has_store(self) -> bool:
        """Whether there is a settings file, so gateways can be created, edited, and deleted."""
        return self._store is not None

    @property
    def embedded(self) -> Sequence[Embedded]:
        """The gateways that were created in code, and that the application serves."""
        return self._embedded

    def new_settings(self) -> Settings:
        """Return the settings of a new gateway: the shipped listener, and a port that no other gateway has. Blocks."""
        settings = Settings() if self._store is None else self._store.new_settings()
        taken = {supervised.settings.port for supervised in self.all()}
        port = next(port for port in range(settings.port, settings.port + 1000) if port not in taken)
        return replace(settings, listener=settings.listener or SHIPPED_LISTENER, port=port)

    def check_remote_changes(self, values: Mapping[str, Any], before: "Instance | Embedded | None" = None) -> None:
        """Raise `SettingForbidden` or `ConfigError` unless `values` may be set by a remote caller.

        `before` is the gateway that is edited.
        """
        own = None if before is None else before.settings.listener
        check_remote_changes(values, may_name=lambda listener: listener == own or self.may_name(listener))

    async def changed(self, seconds: float) -> None:
        """Wait until an action changes a gateway, the supervisor begins to stop, or `seconds` have passed."""
        event = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    def begin(self, action: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `action` in a task of the supervisor. The gateway's state and log show its failure."""
        task = asyncio.create_task(action)
        self._actions.add(task)
        task.add_done_callback(self._forget_action)
        return task

    def _forget_action(self, task: asyncio.Task[None]) -> None:
        self._actions.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio would log that the exception was never retrieved

    # Actions. Each may be called twice

    def _check_loop(self, name: str) -> None:
        """Raise `RuntimeError` on an event loop other than the one that entered the supervisor."""
        if self._home is not None and not self._home.is_here():
            raise wrong_loop(f"supervisor.{name}", owner="the supervisor")

    async def start(self, gateway_id: str) -> None:
        """Start the gateway. Raise `GatewayNotFound`, `GatewayConflict` if it is disabled, `StartError` if it fails.

        This and every other action raise `RuntimeError` on an event loop other than the supervisor's.
        """
        self._check_loop("start")
        await self._run_action(self.find(gateway_id).start())

    async def stop(self, gateway_id: str) -> None:
        """Stop the gateway. Raise `GatewayNotFound`."""
        self._check_loop("stop")
        await self._run_action(self.find(gateway_id).stop())

    async def restart(self, gateway_id: str) -> None:
        """Stop the gateway, and start it with its listener loaded again. Raise what `start` raises."""
        self._check_loop("restart")
        await self._run_action(self.find(gateway_id).restart())

    async def roll(self, gateway_id: str) -> None:
        """Replace the gateway's workers one after the other. Raise `GatewayConflict` if it has none, `StartError`."""
        self._check_loop("roll")
        await self._run_action(self._find_editable(gateway_id).roll())

    async def roll_all(self) -> None:
        """Roll every gateway that has workers, one after the other. Log each whose roll ends early."""
        self._check_loop("roll_all")
        for instance in tuple(self._instances.values()):
            if instance.workers is not None:
                try:
                    await self._run_action(instance.roll())
                except GatewayError as exc:
                    logger.error("[%s] not all workers were replaced, the others continue: %s", instance.id, exc)

    def _handle_failure(self, instance: Instance) -> None:
        self.begin(instance.release())
        if not any(supervised.state in (GatewayState.STARTING, GatewayState.RUNNING) for supervised in self.all()):
            self.all_failed.set()
        self._notify()

    async def drain(self) -> None:
        """Refuse new clients, and close all connections within `drain` seconds. The ports stay bound."""
        self._check_loop("drain")
        await self._run_action(_await_all([supervised.drain() for supervised in self.all()]))

    async def create(self, gateway_id: str, settings: Mapping[str, Any]) -> Instance:
        """Write a new gateway into the file. It is not started.

        Raise `GatewayConflict` if the id is taken, and `ConfigError`.
        """
        self._check_loop("create")
        async with self._editing:
            store = self._require_store()
            if any(supervised.id.casefold() == gateway_id.casefold() for supervised in self.all()):
                raise GatewayConflict(f"there is a gateway with id [{gateway_id}] already")
            Settings(id=gateway_id)  # raises `ConfigError` if it is not an id
            described = await asyncio.to_thread(store.put, gateway_id, settings)
            created = self._create_instance(described.gateways[gateway_id].settings)
            self._instances[gateway_id] = created
            logger.info("[%s] created", gateway_id)
        self._notify()
        return created

    def _create_instance(self, settings: Settings) -> Instance:
        return Instance(settings, self._handle_failure, lambda: self.panel_url)

    async def edit(self, gateway_id: str, changes: Mapping[str, Any]) -> None:
        """Write `changes` into the file, and restart the gateway if it runs. None resets a setting to its default.

        Raise `GatewayNotFound`, `GatewayConflict` for a gateway created in code, `ConfigError`, and `StartError` if the
        changed gateway cannot start.
        """
        self._check_loop("edit")
        instance = self._find_editable(gateway_id)
        check_names(changes)
        if changes.get("id", instance.id) != instance.id:
            raise ConfigError([Mistake("id", "", "it cannot be changed once the gateway is created")])
        async with self._editing:
            values = {name: value for name, value in changes.items() if name != "id"}
            described = await asyncio.to_thread(self._require_store().put, instance.id, values)
            settings = described.gateways[instance.id].settings
        if settings != instance.settings:
            await self._run_action(instance.replace(settings))

    async def delete(self, gateway_id: str) -> None:
        """Remove the gateway from the file, and stop it.

        Raise `GatewayNotFound`, `GatewayConflict` for a gateway created in code, and `ConfigError`.
        """
        self._check_loop("delete")
        instance = self._find_editable(gateway_id)
        async with self._editing:
            await asyncio.to_thread(self._require_store().remove, instance.id)
            self._instances.pop(instance.id, None)
        await self._run_action(instance.stop())
        logger.info("[%s] deleted", instance.id)

    async def reload(self) -> None:
        """Read the file again, and apply what has changed in it. Raise `ConfigError` if nothing was applied."""
        self._check_loop("reload")
        async with self._editing:
            described = await asyncio.to_thread(self._require_store().read)
            actions = self._apply(described)
        await self._run_action(_await_all(actions))
        logger.info("the settings file was read again, %d gateways were changed", len(actions))

    def _apply(self, described: Described) -> list[Coroutine[Any, Any, None]]:
        """Apply what the file describes now. Return the actions that have to be awaited for it."""
        for line in described.warnings:
            if line not in self._warned:
                logger.warning("%s", line)
        self._warned = described.warnings
        removed = [known for known in self._instances if known not in described.gateways]
        actions = [self._instances.pop(gateway_id).stop() for gateway_id in removed]
        for gateway_id, loaded in described.gateways.items():
            known = self._instances.get(gateway_id)
            if known is None:
                self._instances[gateway_id] = added = self._create_instance(loaded.settings)
                if loaded.settings.startup is Startup.AUTOMATIC:
                    actions.append(added.start())
            elif known.settings != loaded.settings:
                actions.append(known.replace(loaded.settings))
        self.admin = described.admin
        return actions

    def _find_editable(self, gateway_id: str) -> Instance:
        supervised = self.find(gateway_id)
        if isinstance(supervised, Embedded):
            raise GatewayConflict(f"gateway [{supervised.id}] is created in code, and can only be changed there")
        return supervised

    def _require_store(self) -> Store:
        if self._store is None:
            raise GatewayConflict("these gateways are created in code, there is no settings file to change")
        return self._store

    async def _run_action(self, action: Coroutine[Any, Any, None]) -> None:
        self._notify()
        try:
            await action
        finally:
            self._notify()

    def _notify(self) -> None:
        """Wake every `changed`."""
        self._changed.set()
        self._changed = asyncio.Event()

    # Start and stop

    def end_streams(self) -> None:
        """End all event streams, because the supervisor begins to stop."""
        self.closing.set()
        self._notify()

    def begin_end(self) -> None:
        """End all event streams, and begin to stop all gateways of the file."""
        self.end_streams()
        for instance in self._instances.values():
            self.begin(instance.stop())

    async def __aenter__(self) -> Self:
        self._home = Home()
        if self._store is not None:
            described = self._store.read()
            await _await_all(self._apply(described))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end_streams()
        await asyncio.gather(*self._actions, return_exceptions=True)
        await _await_all([instance.stop() for instance in self._instances.values()])


async def _await_all(actions: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all `actions`, also if some fail. Log their errors, except for a failed start, which is logged already."""
    for error in await asyncio.gather(*actions, return_exceptions=True):
        if isinstance(error, BaseException) and not isinstance(error, StartError):
            logger.error("a gateway could not be changed: %r", error, exc_info=error)

"""Gateways kept in a file, and their lives: created, started, stopped, restarted, edited, deleted. What REST, the
panel and the command line call. Knows nothing of HTTP."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsgateway.config.settings import SPECS, AdminSettings, Settings, no_such_setting
from wsgateway.config.values import Startup, convert_written
from wsgateway.exceptions import (
    ConfigError,
    GatewayConflict,
    GatewayError,
    GatewayNotFound,
    SettingForbidden,
    StartError,
)
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.registry import GatewayState
from wsgateway.hub.loops import Home, wrong_loop
from wsgateway.logs import logger
from wsgateway.supervisor.instance import Embedded, Instance
from wsgateway.supervisor.patterns import is_allowed
from wsgateway.supervisor.store import Described, Store

SHIPPED_LISTENER = "wsgateway.supervisor.starter:Listener"
"""The listener to begin from; `wsgateway init` writes a copy of it."""

HOST_ONLY = frozenset({"broker", "log_file", "uds", "uds_mode", "ssl_keyfile", "ssl_certfile"})
"""Settings that name files of the host, or what it connects to: changed in the settings file only, not from afar."""


class Supervisor:
    """Several gateways in one process, each on its port, kept in a settings file.

        async with Supervisor("wsgateway.toml") as supervisor:
            await supervisor.restart("chat")

    Entering starts all whose `startup` is automatic; one that fails is `failed`, and harms no other. Leaving stops
    all. `gateways` were made in code: they are listed, started and stopped, and cannot be edited.
    """

    def __init__(
        self,
        store: Store | str | Path | None = None,
        *,
        gateways: Iterable[Gateway] = (),
        admin: AdminSettings | None = None,
    ) -> None:
        """`store` is the settings file, or a `Store` where environment and flags count too.

        `admin` are the settings of the admin interface if there is no file.
        """
        self._store = Store(str(store)) if isinstance(store, (str, Path)) else store
        self._embedded = [Embedded(gateway) for gateway in gateways]
        self._instances: dict[str, Instance] = {}
        self._editing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._warned: tuple[str, ...] = ()
        self._begun: set[asyncio.Task[None]] = set()
        self._home: Home | None = None
        self.admin = admin or AdminSettings()
        self.gave_up = asyncio.Event()
        """Set when the workers of the last gateway that ran have died one after the other."""
        self.closing = asyncio.Event()
        """Set when the supervisor ends: streams end with it."""

    # Looking

    def all(self) -> Sequence[Instance | Embedded]:
        """Every gateway: those of the file in its order, then those made in code."""
        return [*self._instances.values(), *self._embedded]

    def find(self, gateway_id: str) -> Instance | Embedded:
        """The gateway with that id, in any case. Raises `GatewayNotFound`."""
        wanted = gateway_id.strip().casefold()
        for found in self.all():
            if found.id.casefold() == wanted:
                return found
        raise GatewayNotFound(gateway_id.strip(), [found.id for found in self.all()])

    def state(self, gateway_id: str) -> GatewayState:
        return self.find(gateway_id).state

    def may_name(self, listener: str) -> bool:
        """Return whether `listener` may be named remotely: one of the settings, or one that a pattern allows."""
        named = [found.settings.listener for found in self._instances.values()]
        return listener in (SHIPPED_LISTENER, *named) or is_allowed(listener, self.admin.listeners)

    @property
    def has_store(self) -> bool:
        """Whether gateways can be created, edited and deleted: with those made in code nobody can."""
        return self._store is not None

    @property
    def embedded(self) -> Sequence[Embedded]:
        """The gateways that somebody else serves."""
        return self._embedded

    def new_settings(self) -> Settings:
        """What a new gateway begins from: the shipped listener, and a port that no other here has. Blocks."""
        settings = Settings() if self._store is None else self._store.new_settings()
        taken = {found.settings.port for found in self.all()}
        port = next(port for port in range(settings.port, settings.port + 1000) if port not in taken)
        return replace(settings, listener=settings.listener or SHIPPED_LISTENER, port=port)

    def check_remote_changes(self, values: Mapping[str, Any], before: "Instance | Embedded | None" = None) -> None:
        """Refuse what may be set in the file only: files of the host, and listeners that nobody has allowed.

        `before` is the gateway that is edited. Raises `ConfigError`, `SettingForbidden`.
        """
        _check_names(values)
        forbidden = sorted(HOST_ONLY & values.keys())
        if forbidden:
            what = {"broker": "a server"}
            text = "names {}, which is only set in the settings file"
            raise SettingForbidden(
                [f"{name}: {text.format(what.get(name, 'a file of the host'))}" for name in forbidden]
            )
        _check_values(values)
        listener = values.get("listener")
        unchanged = before is not None and listener == before.settings.listener
        if not listener or unchanged or self.may_name(listener):
            return
        text = f"{listener[:100]!r} may not be named here; add it to listeners in [admin]"
        raise SettingForbidden([f"listener: {text}"])

    async def changed(self, seconds: float) -> None:
        """Wait until a gateway is changed by an action, the supervisor ends, or `seconds` are over."""
        event = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    def begin(self, action: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do `action`, whether somebody waits for it or not. Its failure is in the gateway's state and log."""
        task = asyncio.create_task(action)
        self._begun.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # it is asked for, so that asyncio does not complain that nobody has

    # Acting. Each can be awaited, and called twice

    def _check_loop(self, name: str) -> None:
        """Raise `RuntimeError` on another event loop than the one that entered it."""
        if self._home is not None and not self._home.is_here():
            what = f"supervisor.{name}"
            instead = f"call it there, in a thread with asyncio.run_coroutine_threadsafe({what}(...), loop)"
            raise wrong_loop(what, instead, owner="the supervisor")

    async def start(self, gateway_id: str) -> None:
        """Raises `GatewayNotFound`, `GatewayConflict` if it is disabled, `StartError` with the reason.

        This and every other action raise `RuntimeError` on another event loop than the supervisor's.
        """
        self._check_loop("start")
        await self._acted(self.find(gateway_id).start())

    async def stop(self, gateway_id: str) -> None:
        """Raises `GatewayNotFound`."""
        self._check_loop("stop")
        await self._acted(self.find(gateway_id).stop())

    async def restart(self, gateway_id: str) -> None:
        """Raises what `start` raises."""
        self._check_loop("restart")
        await self._acted(self.find(gateway_id).restart())

    async def roll(self, gateway_id: str) -> None:
        """Replace its workers one after the other. Raises `GatewayConflict` if it has none, `StartError`."""
        self._check_loop("roll")
        await self._acted(self._own(gateway_id).roll())

    async def roll_all(self) -> None:
        """`roll` every gateway that has workers, one after the other; one whose roll ends early is logged."""
        self._check_loop("roll_all")
        for instance in tuple(self._instances.values()):
            if instance.workers is not None:
                try:
                    await self._acted(instance.roll())
                except GatewayError as exc:
                    logger.error("[%s] not all workers were replaced, what ran runs on: %s", instance.id, exc)

    def _one_gave_up(self, instance: Instance) -> None:
        self.begin(instance.abandon())
        if not any(found.state is GatewayState.RUNNING for found in self.all()):
            self.gave_up.set()
        self._tell()

    async def drain(self) -> None:
        """Take no client any more, and close all that there are, within `drain` seconds. The ports stay bound."""
        self._check_loop("drain")
        await self._acted(_all([found.drain() for found in self.all()]))

    async def create(self, gateway_id: str, settings: Mapping[str, Any]) -> Instance:
        """Write a new gateway into the file. It is not started.

        Raises `GatewayConflict` if the id is taken, and `ConfigError`.
        """
        self._check_loop("create")
        async with self._editing:
            store = self._writable()
            if any(found.id.casefold() == gateway_id.casefold() for found in self.all()):
                raise GatewayConflict(f"there is a gateway with id [{gateway_id}] already")
            Settings(id=gateway_id)  # which refuses what is no id
            described = await asyncio.to_thread(store.put, gateway_id, settings)
            created = self._instances[gateway_id] = Instance(described.gateways[gateway_id].settings, self._one_gave_up)
            logger.info("[%s] created", gateway_id)
        self._tell()
        return created

    async def edit(self, gateway_id: str, changes: Mapping[str, Any]) -> None:
        """Write `changes` into the file; None takes a setting back to its default. What ran is started again.

        Raises `GatewayNotFound`, `GatewayConflict` for one made in code, `ConfigError`, and `StartError`, having
        changed it all the same.
        """
        self._check_loop("edit")
        instance = self._own(gateway_id)
        _check_names(changes)
        if changes.get("id", instance.id) != instance.id:
            raise ConfigError(["id: it is fixed once the gateway is created"])
        async with self._editing:
            values = {name: value for name, value in changes.items() if name != "id"}
            described = await asyncio.to_thread(self._writable().put, instance.id, values)
            settings = described.gateways[instance.id].settings
        if settings != instance.settings:
            await self._acted(instance.replace(settings))

    async def delete(self, gateway_id: str) -> None:
        """Stop it, and take it out of the file. Raises `GatewayNotFound`, `GatewayConflict` for one made in code."""
        self._check_loop("delete")
        instance = self._own(gateway_id)
        async with self._editing:
            await asyncio.to_thread(self._writable().remove, instance.id)
            self._instances.pop(instance.id, None)
        await self._acted(instance.stop())
        logger.info("[%s] deleted", instance.id)

    async def reload(self) -> None:
        """Read the file again, and touch only what changed. Raises `ConfigError`, and then nothing is changed."""
        self._check_loop("reload")
        async with self._editing:
            described = await asyncio.to_thread(self._writable().read)
            actions = self._adopt(described)
        await self._acted(_all(actions))
        logger.info("the settings file was read again, %d gateways were changed", len(actions))

    def _adopt(self, described: Described) -> list[Any]:
        """Take over what is described now; what has to be awaited for it."""
        for line in described.warnings:
            if line not in self._warned:
                logger.warning("%s", line)
        self._warned = described.warnings
        gone = [known for known in self._instances if known not in described.gateways]
        actions: list[Any] = [self._instances.pop(gateway_id).stop() for gateway_id in gone]
        for gateway_id, loaded in described.gateways.items():
            known = self._instances.get(gateway_id)
            if known is None:
                self._instances[gateway_id] = added = Instance(loaded.settings, self._one_gave_up)
                if loaded.settings.startup is Startup.AUTOMATIC:
                    actions.append(added.start())
            elif known.settings != loaded.settings:
                actions.append(known.replace(loaded.settings))
        self.admin = described.admin
        return actions

    def _own(self, gateway_id: str) -> Instance:
        found = self.find(gateway_id)
        if isinstance(found, Embedded):
            raise GatewayConflict(f"gateway [{found.id}] is made in code, and can only be changed there")
        return found

    def _writable(self) -> Store:
        if self._store is None:
            raise GatewayConflict("these gateways are made in code, there is no settings file to change")
        return self._store

    async def _acted(self, action: Coroutine[Any, Any, None]) -> None:
        self._tell()
        try:
            await action
        finally:
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Its own life

    def end_streams(self) -> None:
        """It is about to end: whoever watches should go."""
        self.closing.set()
        self._tell()

    def begin_end(self) -> None:
        """Stop taking clients at once, whatever else still has to end before the supervisor does."""
        self.end_streams()
        for instance in self._instances.values():
            self.begin(instance.stop())

    async def __aenter__(self) -> Self:
        self._home = Home()
        if self._store is not None:
            described = self._store.read()
            await _all(self._adopt(described))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end_streams()
        await asyncio.gather(*self._begun, return_exceptions=True)
        await _all([instance.stop() for instance in self._instances.values()])


def _check_names(values: Mapping[str, Any]) -> None:
    unknown = [name for name in values if name not in SPECS]
    if unknown:
        raise ConfigError([f"{name[:100]}: {no_such_setting(name)}" for name in unknown])


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for values that are not what their setting is. None takes one back to its default."""
    mistakes: list[str] = []
    for name, value in values.items():
        try:
            if value is not None:
                convert_written(SPECS[name], value)
        except ValueError as exc:
            mistakes.append(f"{name}: {exc}")
    if mistakes:
        raise ConfigError(mistakes)


async def _all(actions: Sequence[Any]) -> None:
    """Await all, none of which may keep another from being done. A failed start is in the gateway's state and log."""
    for found in await asyncio.gather(*actions, return_exceptions=True):
        if isinstance(found, BaseException) and not isinstance(found, StartError):
            logger.error("a gateway could not be changed: %r", found, exc_info=found)

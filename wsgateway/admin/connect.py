"""How a client reaches a gateway: its addresses as the reader of the panel sees them, and samples to copy.

Does not know pages.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.routing import BaseRoute, Mount

from wsgateway.config.addresses import is_loopback, url_host
from wsgateway.config.settings import Settings
from wsgateway.gateway.admission import CENTRIFUGE_PATH
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.registry import GatewayState
from wsgateway.supervisor.instance import Embedded, Instance

ANY_ADDRESS = ("0.0.0.0", "::", "")
"""Values of `host` with which a gateway listens on every address of its host."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One way to connect, ready to copy. `label` is the heading of its tab, and `hint` a sentence above it."""

    label: str
    text: str
    hint: str = ""

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")


@dataclass(frozen=True, slots=True)
class ConnectInfo:
    """How to connect to one gateway. `url` is where WebSockets connect; empty if it is not known, or if none do."""

    supervised: Instance | Embedded
    url: str = ""
    samples: Sequence[Sample] = ()
    test_page: str = ""
    notes: Sequence[str] = ()

    @property
    def id(self) -> str:
        return self.supervised.id


def connect_to(supervised: Instance | Embedded, scope: Mapping[str, Any]) -> ConnectInfo:
    """Return how the sender of `scope`, a request to the panel, connects to a gateway."""
    settings = supervised.settings
    if isinstance(supervised, Instance) and settings.uds:
        return _over_uds(supervised, settings.uds)
    base = _base_of(supervised, scope)
    if not base:
        text = (
            "The gateway gets a free port when it starts."
            if isinstance(supervised, Instance)
            else "The application decides at which path this gateway is mounted."
        )
        return ConnectInfo(supervised, notes=(text,))
    socket = "ws" + base.removeprefix("http")
    path = _path_of(settings)
    return ConnectInfo(
        supervised,
        f"{socket}{path}" if path else "",
        _samples(settings, base, socket),
        f"{base}/" if settings.test_page and supervised.state is GatewayState.RUNNING else "",
        tuple(_notes(supervised, urlsplit(base).hostname or "")),
    )


def _path_of(settings: Settings) -> str:
    """Return the path at which WebSockets connect to a gateway; empty if it does not serve them."""
    if {"plain", "v1"} & set(settings.protocols):
        return "/ws"
    return CENTRIFUGE_PATH if "centrifuge" in settings.protocols else ""


def _samples(settings: Settings, base: str, socket: str) -> tuple[Sample, ...]:
    samples = []
    if "v1" in settings.protocols:
        samples.append(_with_client_js(settings, base, socket))
    if "plain" in settings.protocols:
        samples += [_with_websocket(settings, socket), Sample("Python", _in_python(settings, f"{socket}/ws"))]
    if not samples:
        samples.append(
            _with_centrifuge(settings, socket) if "centrifuge" in settings.protocols else _with_sse(settings, base)
        )
    return (*samples, _with_curl(settings, f"{base}/send"))


def _with_client_js(settings: Settings, base: str, socket: str) -> Sample:
    token = ", { token: () => YOUR_TOKEN }" if settings.checks_tokens else ""
    text = (
        f"import {{ connect }} from {json.dumps(f'{base}/client.js')};\n\n"
        f"const live = connect({json.dumps(f'{socket}/ws')}{token});\n"
        'live.on("message", (message) => console.log(message));\n'
        'live.send("hello");'
    )
    return Sample("client.js", text, "A module that the gateway serves. It reconnects when the connection is lost.")


def _with_websocket(settings: Settings, socket: str) -> Sample:
    token = ', ["bearer", YOUR_TOKEN]' if settings.checks_tokens else ""
    text = (
        f"const socket = new WebSocket({json.dumps(f'{socket}/ws')}{token});\n"
        'socket.onopen = () => socket.send("hello");\n'
        "socket.onmessage = (event) => console.log(event.data);"
    )
    return Sample("WebSocket", text, "A plain WebSocket does not reconnect by itself.")


def _with_centrifuge(settings: Settings, socket: str) -> Sample:
    token = ", { token: YOUR_TOKEN }" if settings.checks_tokens else ""
    text = (
        'import { Centrifuge } from "centrifuge";\n\n'
        f"const client = new Centrifuge({json.dumps(socket + CENTRIFUGE_PATH)}{token});\n"
        "client.connect();"
    )
    return Sample("Browser", text)


def _with_sse(settings: Settings, base: str) -> Sample:
    text = (
        f"const source = new EventSource({json.dumps(f'{base}/sse')});\n"
        "source.onmessage = (event) => console.log(event.data);"
    )
    hint = "Send the token in the cookie that token_cookie names." if settings.checks_tokens else ""
    return Sample("Browser", text, hint)


def _in_python(settings: Settings, url: str) -> str:
    headers = ', additional_headers={"authorization": "Bearer YOUR_TOKEN"}' if settings.checks_tokens else ""
    return (
        "import asyncio\n\nfrom wsgateway.client import connect\n\n\n"
        "async def main() -> None:\n"
        f"    async with connect({json.dumps(url)}{headers}) as socket:\n"
        '        await socket.send("hello")\n'
        "        async for message in socket:\n"
        "            print(message)\n\n\n"
        "asyncio.run(main())"
    )


def _with_curl(settings: Settings, url: str, options: str = "") -> Sample:
    needs_key = bool(settings.api_key) or not settings.local_access
    key = "-H 'authorization: Bearer YOUR_API_KEY' " if needs_key else ""
    json_type = "-H 'content-type: application/json'"
    hint = "Without an api_key, only callers on the host of the gateway may push."
    if settings.api_key:
        hint = "Replace YOUR_API_KEY with one of the keys in api_key."
    elif needs_key:
        hint = "Set api_key in the settings first. Without it, every push is refused."
    return Sample(
        "curl",
        f'curl {options}{key}{json_type} -d \'{{"message": "hello"}}\' {shlex.quote(url)}',
        hint,
    )


def _over_uds(supervised: Instance, path: str) -> ConnectInfo:
    push = _with_curl(supervised.settings, "http://localhost/send", f"--unix-socket {shlex.quote(path)} ")
    return ConnectInfo(
        supervised,
        samples=(push,),
        notes=(f"The gateway listens on the Unix socket {path}. A proxy serves it to browsers.",),
    )


def _notes(supervised: Instance | Embedded, host: str) -> Iterable[str]:
    settings = supervised.settings
    if supervised.state is not GatewayState.RUNNING:
        yield "The gateway is not running, so clients cannot connect."
    elif isinstance(supervised, Instance) and is_loopback(settings.host) and is_loopback(host):
        yield "The gateway listens on a loopback address, so only programs on its host reach it."
    if settings.checks_tokens and not settings.anonymous:
        yield "Clients need a token."


def _base_of(supervised: Instance | Embedded, scope: Mapping[str, Any]) -> str:
    """Return the URL of a gateway without a slash at its end; empty if it is not known."""
    scheme, host, port = _origin_of(scope)
    if isinstance(supervised, Embedded):
        path = scope["wsgateway.mount"].path_of(supervised.gateway)
        return "" if path is None else f"{scheme}://{host}{port}{path}"
    settings = supervised.settings
    own_port = urlsplit(supervised.url).port if supervised.url else settings.port
    if not own_port:
        return ""
    scheme = "https" if settings.ssl_certfile else "http"
    is_same = settings.host in ANY_ADDRESS or (is_loopback(settings.host) and is_loopback(host))
    return f"{scheme}://{host if is_same else url_host(settings.host)}:{own_port}"


def _origin_of(scope: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return scheme, host, and port (with a colon) of the panel, as the request names them."""
    named = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    server = scope.get("server") or ("127.0.0.1", None)
    try:
        parts = urlsplit(f"//{named}")
        host, port = parts.hostname or str(server[0]), parts.port
    except ValueError:  # not a host
        host, port = str(server[0]), server[1]
    return scope.get("scheme", "http"), f"[{host}]" if ":" in host else host, f":{port}" if port else ""


@dataclass(frozen=True, slots=True)
class PanelMount:
    """Where a panel is mounted: the application that it was called by, if that has routes, and its own `root_path`."""

    app: object
    panel: object
    root_path: str

    def path_of(self, gateway: Gateway) -> str | None:
        """Return the path at which the same application mounts `gateway`; None if it does not mount it with `Mount`."""
        routes = getattr(self.app, "routes", ())
        own, path = _find_mount(routes, self.panel), _find_mount(routes, gateway)
        return None if own is None or path is None else self.root_path.removesuffix(own) + path


def _find_mount(routes: Iterable[BaseRoute], app: object) -> str | None:
    for route in routes:
        if isinstance(route, Mount):
            below = "" if route.app is app else _find_mount(route.routes, app)
            if below is not None:
                return route.path + below
    return None

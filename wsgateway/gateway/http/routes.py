"""The HTTP face of one gateway: `POST /send`, the test page, health, metrics and info. Errors are problem+json."""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html import escape
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from wsgateway.auth.rules import Rules
from wsgateway.cluster.cluster import Cluster, SingleNode
from wsgateway.exceptions import (
    DOCS,
    GatewayNotFound,
    GatewayNotRunning,
    GatewayStopping,
    HookError,
    MessageError,
    Refusal,
)
from wsgateway.gateway.http.paths import sender_of, way_up
from wsgateway.gateway.http.problems import (
    ProblemError,
    _field,
    _too_large,
    decode_fields,
    problem,
    query_int,
    read_json,
)
from wsgateway.gateway.http.testpage import _PAGE_HEADERS, _PAGE_TYPES, _PAGES
from wsgateway.gateway.inspector import Directory, ListedGateway
from wsgateway.limits import Rates
from wsgateway.logs import GatewayLog
from wsgateway.messages import Sent
from wsgateway.metrics import prometheus_text

IGNORED_KEYS = frozenset({"conn", "action", "webSocketServerAction"})
"""Keys of `/send` that are dropped: the listener's own, and those that steered the ancestor's server."""

INFO_FIELDS = ("id", "address", "path", "transport", "age", "queue")
"""What `/info` tells of a connection."""

MAX_PAGE = 1000
"""Connections in one page of `/info`."""


class RoutedGateway(ListedGateway, Protocol):
    """What the routes need of a gateway."""

    log: GatewayLog
    rules: Rules
    directory: Directory
    sends: Rates

    @property
    def failure(self) -> str: ...

    def find(self, gateway_id: str) -> "RoutedGateway": ...


@dataclass(frozen=True)
class Endpoint:
    """One route as an ASGI application: host, key, method, then the handler. Errors become problems.

    `guarded`: it needs a key. `any_host`: `allowed_hosts` does not count, because probes ask by address.
    """

    gateway: RoutedGateway
    handler: Callable[[Request], Awaitable[Response]]
    methods: tuple[str, ...] = ()
    guarded: bool = False
    any_host: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            self._check(request)
            response = await self.handler(request)
        except ProblemError as exc:
            response = self._refused(request, exc.refusal)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def _check(self, request: Request) -> None:
        rules = self.gateway.rules
        refusal = None if self.any_host else rules.check_host(request.scope)
        if refusal is None and self.guarded:
            refusal = rules.check_caller(request.scope)
        if refusal is None and self.methods and request.method not in self.methods:
            allow = ", ".join(self.methods)
            detail = f"{request.method[:20]} is not allowed here, only {allow}"
            refusal = Refusal(405, "method", detail, "wrong-method", (("allow", allow),))
        if refusal is not None:
            raise ProblemError(refusal)

    def _refused(self, request: Request, refusal: Refusal) -> Response:
        self.gateway.metrics.refusals[refusal.kind] += 1
        self.gateway.log.limited(f"{self.handler.__name__} {refusal.kind}").warning(
            "refused %s %s from %s: %s",
            request.method[:20],
            request.url.path[:200],
            sender_of(request.scope),
            refusal,
        )
        return problem(refusal)


def router(gateway: RoutedGateway) -> ASGIApp:
    """The routes of `gateway`, relative to where it is mounted."""
    routes = Routes(gateway)
    read = ("GET", "HEAD")
    table = {
        "/send": Endpoint(gateway, routes.send, ("POST",), guarded=True),
        "/health": Endpoint(gateway, routes.health, read, any_host=True),
        "/ready": Endpoint(gateway, routes.ready, read, any_host=True),
        "/metrics": Endpoint(gateway, routes.metrics, read, guarded=True),
        "/info": Endpoint(gateway, routes.info, read, guarded=True),
    }
    if gateway.settings.test_page:
        table["/"] = Endpoint(gateway, routes.page, read)
        table["/pages/connection"] = Endpoint(gateway, routes.page_connection, read)
        table["/pages/{name}"] = Endpoint(gateway, routes.page_file, read)
    table["/ws"] = table["/ws/{path:path}"] = Endpoint(gateway, routes.upgrade)
    unknown = Endpoint(gateway, routes.unknown)
    return Router([Route(path, app) for path, app in table.items()], redirect_slashes=False, default=unknown)


class Routes:
    """The handlers of one gateway's routes."""

    def __init__(self, gateway: RoutedGateway) -> None:
        self._gateway = gateway

    async def send(self, request: Request) -> Response:
        """Push a message (DESIGN 3.3)."""
        _check_rate(self._gateway, request)
        body = await read_json(request, self._gateway.settings.max_send_size)
        fields = decode_fields(body)
        gateway = self._addressed(request, _field(fields, "id", str), len(body))
        connections = _field(fields, "connections", list)
        if connections is not None and not all(isinstance(item, str) for item in connections):
            raise ProblemError(Refusal(422, "body", "connections: it has to be a list of connection ids", "bad-body"))
        message = fields.pop("message", None)
        data = {name: value for name, value in fields.items() if name not in IGNORED_KEYS}
        try:
            sent = await gateway.send(message, connections=connections, data=data)
        except GatewayStopping as exc:
            raise ProblemError(Refusal(503, "stopping", str(exc), "not-running", (("retry-after", "5"),))) from exc
        except GatewayNotRunning as exc:
            raise ProblemError(Refusal(409, "not_running", str(exc), "not-running")) from exc
        except MessageError as exc:
            raise ProblemError(Refusal(422, "body", f"message: {exc}", "bad-body")) from exc
        except HookError as exc:
            raise ProblemError(Refusal(500, "hook", str(exc), "hook-failed")) from exc
        return JSONResponse(shown_sent(gateway.id, sent, gateway.cluster))

    def _addressed(self, request: Request, gateway_id: str | None, size: int) -> RoutedGateway:
        """Return the gateway with that id, if by its own rules the caller may send it a body of `size` bytes."""
        if gateway_id is None:
            return self._gateway
        try:
            gateway = self._gateway.find(gateway_id)
        except GatewayNotFound as exc:
            raise ProblemError(Refusal(404, "unknown_gateway", str(exc), "unknown-gateway")) from exc
        if gateway is self._gateway:
            return gateway
        refusal = gateway.rules.check_host(request.scope) or gateway.rules.check_caller(request.scope)
        if refusal is not None:
            raise ProblemError(refusal)
        _check_rate(gateway, request)
        if size > gateway.settings.max_send_size:
            raise _too_large(gateway.settings.max_send_size)
        return gateway

    async def health(self, _: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Whether clients are taken: 503 with the reason in every other state, and without broker."""
        gateway = self._gateway
        if gateway.state == "running" and not gateway.cluster.is_up:
            detail = f"gateway [{gateway.id}] runs alone, its broker is away: the log has the reason"
            return problem(Refusal(503, "not_ready", detail, "broker"))
        if gateway.state == "running":
            return JSONResponse({"id": gateway.id, "state": gateway.state})
        reason = f": {gateway.failure}" if gateway.failure else ""
        return problem(Refusal(503, "not_ready", f"gateway [{gateway.id}] is {gateway.state}{reason}", "not-running"))

    async def metrics(self, _: Request) -> Response:
        """The counters, for Prometheus."""
        text = prometheus_text(await self._gateway.directory.samples())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def info(self, request: Request) -> Response:
        """Version, state, settings without secrets, and a page (`offset`, `limit`) of the connections."""
        gateway = self._gateway
        offset = query_int(request, "offset", 0, 0, 2**31)
        limit = query_int(request, "limit", 100, 1, MAX_PAGE)
        total, page = await gateway.directory.page("", offset, limit)
        info = {
            "id": gateway.id,
            "version": gateway.version,
            "state": gateway.state,
            "settings": gateway.settings.shown(),
            "caller": {
                "address": sender_of(request.scope),
                "local": gateway.rules.why_not_local(request.scope) is None,
            },
            "total": total,
            "offset": offset,
            "limit": limit,
            "connections": [{name: row[name] for name in INFO_FIELDS} for row in page],
        }
        if gateway.cluster.has_broker:
            info |= {"node": gateway.cluster.node, "nodes": await gateway.directory.nodes()}
        return JSONResponse(info)

    async def upgrade(self, request: Request) -> Response:
        """A plain request where a WebSocket belongs. The test page asks so why a handshake was refused."""
        refusal = self._gateway.rules.check_origin(request.scope)
        if refusal is None and "sec-websocket-key" in request.headers:
            detail = (
                "a handshake has Connection: Upgrade and Upgrade: websocket (RFC 6455 4.2.1); does a proxy drop them?"
            )
            refusal = Refusal(400, "upgrade", detail, "not-a-websocket", (("connection", "close"),))
        elif refusal is None:
            detail = "connect here with a WebSocket; its Origin and Host would be let in"
            refusal = Refusal(426, "upgrade", detail, "not-a-websocket", (("upgrade", "websocket"),))
        raise ProblemError(refusal)

    async def unknown(self, request: Request) -> Response:
        detail = f"there is nothing at {request.url.path[:200]}; clients connect to /ws, messages are posted to /send"
        raise ProblemError(Refusal(404, "unknown_path", detail, "wrong-path"))

    # The test page

    async def page(self, request: Request) -> Response:
        """The test page. It never holds a key: it asks for one."""
        gateway = self._gateway
        needs_key = bool(gateway.settings.api_key)
        refusal = None if needs_key else gateway.rules.check_caller(request.scope)
        facts = {
            "id": gateway.id,
            "version": gateway.version,
            "push_allowed": not needs_key and refusal is None,
            "push_refusal": None if refusal is None else refusal.detail,
            "connections": len(gateway.connections),
            "docs": DOCS,
        }
        base = escape(way_up(request.scope) + "/", quote=True)
        text = (_PAGES / "test.html").read_text(encoding="utf-8")
        text = text.replace("{{base}}", base).replace("{{page}}", json.dumps(facts).replace("<", "\\u003c"))
        return Response(text, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)

    async def page_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _PAGE_TYPES:
            return await self.unknown(request)
        text = (_PAGES / name).read_text(encoding="utf-8")
        return Response(text, media_type=_PAGE_TYPES[name], headers=_PAGE_HEADERS)

    async def page_connection(self, request: Request) -> Response:
        """The id of the connection that the test page has made, which it knows by its random path."""
        path = request.query_params.get("path", "")
        found = next((conn.id for conn in self._gateway.connections if conn.path == path), None)
        if found is None or not path.startswith("/ws/test-page/"):
            return problem(Refusal(404, "unknown_path", "no test page is connected at that path", "wrong-path"))
        return JSONResponse({"id": found})


def shown_sent(gateway_id: str, sent: Sent, cluster: Cluster | SingleNode) -> dict[str, Any]:
    """What `/send` answers; with a broker also how many processes have counted, and whether all did."""
    shown: dict[str, Any] = {"id": gateway_id, **sent._asdict()}
    if not cluster.has_broker:
        del shown["nodes"], shown["complete"]
    return shown


def _check_rate(gateway: RoutedGateway, request: Request) -> None:
    key = gateway.rules.key_of(request.scope["headers"])  # None for local callers, where there is no key
    if not gateway.sends.allows(key, time.monotonic()):
        detail = "too many calls with this key, try again later (send_rate)"
        raise ProblemError(Refusal(429, "send_rate", detail, "too-often", (("retry-after", "1"),)))

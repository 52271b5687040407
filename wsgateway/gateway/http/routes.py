"""The HTTP routes of one gateway: `POST /send`, `/info`, channels, health, test page, …. Errors are problem+json."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from msgspec import UNSET
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from wsgateway.auth.rules import Rules
from wsgateway.cluster.single import AnyCluster
from wsgateway.exceptions import DOCS, GatewayNotFound, GatewayNotRunning, GatewayStopping, Refusal, Refused
from wsgateway.gateway.admission import CENTRIFUGE_PATH, Admission
from wsgateway.gateway.answers import MAX_OFFSET, MAX_PAGE
from wsgateway.gateway.clients import LINES_STREAM, SSE_STREAM
from wsgateway.gateway.http import testpage
from wsgateway.gateway.http.channels import list_channels, show_history, show_presence
from wsgateway.gateway.http.description import description
from wsgateway.gateway.http.emulation import EmulationEndpoint, FramedStreamEndpoint
from wsgateway.gateway.http.paths import escaped_path, sender_of, way_up
from wsgateway.gateway.http.problems import answer, decode_fields, problem, query_int, read_json, report_refusal
from wsgateway.gateway.http.script import MEDIA_TYPES, script_response
from wsgateway.gateway.http.send import SendGuard, read_request, refusal_of_send, send_request, take_id
from wsgateway.gateway.http.server_api import METHODS, ServerApi
from wsgateway.gateway.http.streams import ClientContext, SessionEndpoint, StreamEndpoint
from wsgateway.gateway.messaging import Messaging
from wsgateway.gateway.parts import Parts
from wsgateway.gateway.registry import GatewayState
from wsgateway.gateway.shapes import Caller, InfoAnswer, ReadyAnswer, listed
from wsgateway.metrics import prometheus_text
from wsgateway.protocols.centrifuge.streams import Carrier

CENTRIFUGE_PATHS = (CENTRIFUGE_PATH, "/connection/sse", "/connection/http_stream", "/emulation")
"""The paths of Centrifuge clients."""


@dataclass(frozen=True, slots=True)
class RouteContext:
    """The parts of one gateway that its routes use. `status` returns its state, and why it has failed."""

    parts: Parts
    gateway: Messaging
    rules: Rules
    status: Callable[[], tuple[GatewayState, str]]
    cluster: Callable[[], AnyCluster]
    send_guard: SendGuard
    find_guard: Callable[[str], SendGuard]
    admission: Callable[[], Awaitable[Admission]]
    find_panel: Callable[[], str]

    @property
    def id(self) -> str:
        return self.parts.settings.id


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route as an ASGI application. Checks host, key, and method, then calls the handler. Errors become problems.

    With `needs_key`, the caller needs a key, if one is set. With `any_host`, `allowed_hosts` does not apply, because
    probes use an address.
    """

    context: RouteContext
    handler: Callable[[Request], Awaitable[Response]]
    methods: tuple[str, ...] = ()
    needs_key: bool = False
    any_host: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            self._check(request)
            response = await self.handler(request)
        except Refused as exc:
            response = self._report(request, exc.refusal)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    def _check(self, request: Request) -> None:
        rules = self.context.rules
        refusal = None if self.any_host else rules.check_host(request.scope)
        if refusal is None and self.needs_key:
            refusal = rules.check_caller(request.scope)
        if refusal is None and self.methods and request.method not in self.methods:
            allow = ", ".join(self.methods)
            detail = f"{request.method[:20]} is not allowed here, only {allow}"
            refusal = Refusal(405, "method", detail, "wrong-method", (("allow", allow),))
        if refusal is not None:
            raise Refused.of(refusal)

    def _report(self, request: Request, refusal: Refusal) -> Response:
        """Count and log `refusal`, and return the answer."""
        report_refusal(
            request.scope,
            refusal,
            f"{request.method[:20]} {request.url.path[:200]}",
            key=self.handler.__name__,
            metrics=self.context.parts.metrics,
            log=self.context.parts.log,
        )
        return problem(refusal)


API = "/api/"
"""The beginning of the routes of the server API."""


def router(context: RouteContext) -> ASGIApp:
    """Return the routes of a gateway, relative to where it is mounted."""
    routes = Routes(context)
    read = ("GET", "HEAD")
    table = {
        "/send": Endpoint(context, routes.send, ("POST",), needs_key=True),
        "/health": Endpoint(context, routes.health, read, any_host=True),
        "/ready": Endpoint(context, routes.ready, read, any_host=True),
        "/metrics": Endpoint(context, routes.metrics, read, needs_key=True),
        "/info": Endpoint(context, routes.info, read, needs_key=True),
        "/openapi.json": Endpoint(context, routes.description, read, needs_key=True),
        **{f"/{name}": Endpoint(context, routes.script, read) for name in MEDIA_TYPES},
        "/channels": Endpoint(context, routes.channels, read, needs_key=True),
        "/channels/{channel}/history": Endpoint(context, routes.channel_history, read, needs_key=True),
        "/channels/{channel}/presence": Endpoint(context, routes.channel_presence, read, needs_key=True),
    }
    api = Endpoint(context, routes.server_api, ("POST",), needs_key=True)
    table |= {f"{API}{name}": api for name in (*METHODS, "{method:path}")}
    if context.parts.settings.test_page:
        table["/"] = Endpoint(context, routes.page, read)
        table["/pages/connection"] = Endpoint(context, routes.page_connection, read)
        table["/pages/{name}"] = Endpoint(context, routes.page_file, read)
    table["/ws"] = table["/ws/{path:path}"] = Endpoint(context, routes.upgrade)
    exact: dict[str, ASGIApp] = {path: endpoint for path, endpoint in table.items() if "{" not in path}
    patterns = [Route(path, endpoint) for path, endpoint in table.items() if path not in exact]
    if "sse" in context.parts.settings.protocols:
        clients = ClientContext(context.parts, context.rules, context.admission)
        for path, protocol in (("/sse", SSE_STREAM), ("/stream", LINES_STREAM)):
            exact[path] = StreamEndpoint(clients, protocol)
            patterns.append(Route(path + "/{path:path}", exact[path]))
        patterns.append(Route("/session/{secret:path}", SessionEndpoint(clients)))
    if "centrifuge" in context.parts.settings.protocols:
        clients = ClientContext(context.parts, context.rules, context.admission)
        exact[CENTRIFUGE_PATH] = Endpoint(context, routes.upgrade)
        exact["/connection/sse"] = FramedStreamEndpoint(clients, Carrier.EVENTS)
        exact["/connection/http_stream"] = FramedStreamEndpoint(clients, Carrier.LINES)
        exact["/emulation"] = EmulationEndpoint(clients)
    else:
        exact |= dict.fromkeys(CENTRIFUGE_PATHS, Endpoint(context, routes.not_open))
    others = Router(patterns, redirect_slashes=False, default=Endpoint(context, routes.unknown))

    def route(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path: str = scope["path"]
        if path.startswith("/channels/"):
            scope = {**scope, "path": escaped_path(scope)}
        return exact.get(path, others)(scope, receive, send)

    return route


class Routes:
    """The handlers of one gateway's routes."""

    def __init__(self, context: RouteContext) -> None:
        self._context = context
        self._server_api = ServerApi(context.gateway, context.parts)

    async def send(self, request: Request) -> Response:
        """Send a message through the gateway, or through the one that the body names, under its own rules."""
        context, scope = self._context, request.scope
        context.send_guard.check_rate(scope)
        body = await read_json(request, context.send_guard.max_size, "max_send_size")
        fields = decode_fields(body)
        gateway_id = take_id(fields)
        send_guard = context.send_guard if gateway_id is None else self._find_guard(gateway_id)
        if send_guard.gateway is not context.send_guard.gateway:
            send_guard.check_caller(scope)
            send_guard.check_rate(scope)
            send_guard.check_size(len(body))
        return answer(await send_request(send_guard.gateway, read_request(fields)))

    def _find_guard(self, gateway_id: str) -> SendGuard:
        try:
            return self._context.find_guard(gateway_id)
        except GatewayNotFound as exc:
            raise Refused.of(Refusal(404, "unknown_gateway", str(exc), "unknown-gateway")) from exc

    async def server_api(self, request: Request) -> Response:
        """Run a method of the server API. The status is 200 once it runs, whatever its result."""
        context, scope = self._context, request.scope
        guard = context.send_guard
        guard.check_rate(scope)
        fields = decode_fields(await read_json(request, guard.max_size, "max_send_size"))
        state, _ = context.status()
        if state is not GatewayState.RUNNING:
            is_stopping = state is GatewayState.STOPPING
            error = GatewayStopping(context.id) if is_stopping else GatewayNotRunning(context.id)
            refusal = refusal_of_send(error)
            assert refusal is not None
            raise Refused.of(refusal)
        method = scope["path"].removeprefix(API)
        return answer(await self._server_api.call(method, fields, partial(guard.check_rate, scope)))

    async def health(self, _: Request) -> Response:
        """Answer that the process runs."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """Answer whether the gateway accepts clients: 503 with the reason in any other state or without the broker."""
        gateway_id = self._context.id
        state, failure = self._context.status()
        if state is not GatewayState.RUNNING:
            reason = f": {failure}" if failure else ""
            return problem(Refusal(503, "not_ready", f"gateway [{gateway_id}] is {state}{reason}", "not-running"))
        if not self._context.cluster().is_up:
            detail = f"gateway [{gateway_id}] runs alone, its broker is unavailable: the log has the reason"
            return problem(Refusal(503, "not_ready", detail, "broker"))
        return answer(ReadyAnswer(gateway_id, state))

    async def metrics(self, _: Request) -> Response:
        """Answer with the counters, for Prometheus."""
        text = prometheus_text(await self._context.parts.inspector.samples())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def info(self, request: Request) -> Response:
        """Answer with version, state, settings without secrets, and a page (`offset`, `limit`) of the connections."""
        context, cluster = self._context, self._context.cluster()
        offset = query_int(request, "offset", 0, 0, MAX_OFFSET)
        limit = query_int(request, "limit", 100, 1, MAX_PAGE)
        total, page = await context.parts.inspector.page("", offset, limit)
        is_local = context.rules.why_not_local(request.scope) is None
        info = InfoAnswer(
            id=context.id,
            version=context.parts.version,
            state=context.status()[0],
            settings=context.parts.settings.shown(),
            caller=Caller(sender_of(request.scope), is_local),
            total=total,
            offset=offset,
            limit=limit,
            connections=[listed(conn) for conn in page],
            node=cluster.node if cluster.has_broker else UNSET,
            nodes=await context.parts.inspector.nodes() if cluster.has_broker else UNSET,
        )
        return answer(info)

    async def description(self, _: Request) -> Response:
        """Answer with the OpenAPI description of `/send` and the server API."""
        return JSONResponse(description(version=self._context.parts.version))

    async def script(self, request: Request) -> Response:
        """Answer with `client.js` or its types."""
        return script_response(request, request.scope["path"].removeprefix("/"))

    async def channels(self, request: Request) -> Response:
        """Answer with a page of the channels."""
        return await list_channels(self._context.parts.inspector.channels, request)

    async def channel_history(self, request: Request) -> Response:
        """Answer with publications of a channel."""
        return await show_history(self._context.parts.inspector.channels, request)

    async def channel_presence(self, request: Request) -> Response:
        """Answer with a page of the members of a channel."""
        return await show_presence(self._context.parts.inspector.channels, request)

    async def upgrade(self, request: Request) -> Response:
        """Refuse a plain request to a WebSocket's path. The test page uses it to show why a handshake was refused."""
        refusal = self._context.rules.check_origin(request.scope)
        if refusal is None and "sec-websocket-key" in request.headers:
            detail = (
                "a handshake has Connection: Upgrade and Upgrade: websocket (RFC 6455 4.2.1); does a proxy drop them?"
            )
            refusal = Refusal(400, "upgrade", detail, "not-a-websocket", (("connection", "close"),))
        elif refusal is None:
            detail = "connect here with a WebSocket; its Origin and Host would be accepted"
            refusal = Refusal(426, "upgrade", detail, "not-a-websocket", (("upgrade", "websocket"),))
        raise Refused.of(refusal)

    async def unknown(self, request: Request) -> Response:
        """Refuse a path that does not exist."""
        detail = (
            f"there is nothing at {request.url.path[:200]}; clients connect to /ws, and backends post to /send or /api"
        )
        if "centrifuge" in self._context.parts.settings.protocols:
            detail += (
                "; Centrifuge clients connect to /connection/websocket and post to /emulation, "
                "so set their option emulationEndpoint to that path below the mount"
            )
        raise Refused.of(Refusal(404, "unknown_path", detail, "wrong-path"))

    async def not_open(self, request: Request) -> Response:
        """Refuse a path of a protocol that is not open."""
        detail = 'Centrifuge clients are not served here; to serve them, add "centrifuge" to protocols'
        raise Refused.of(Refusal(404, "unknown_path", detail, "wrong-path"))

    # The test page

    async def page(self, request: Request) -> Response:
        """Answer with the test page, which never contains a key, and for local callers links to the panel."""
        context = self._context
        needs_key = bool(context.parts.settings.api_key)
        panel = context.find_panel() if context.rules.why_not_local(request.scope) is None else ""
        refusal = None if needs_key else context.rules.check_caller(request.scope)
        facts: dict[str, object] = {
            "id": context.id,
            "version": context.parts.version,
            "push_allowed": not needs_key and refusal is None,
            "push_refusal": None if refusal is None else refusal.detail,
            "connections": len(context.parts.hub.connections),
            "docs": DOCS,
            "panel": f"{panel}/gateways/{context.id}" if panel else "",
        }
        return testpage.page(facts, base=way_up(request.scope) + "/")

    async def page_file(self, request: Request) -> Response:
        """Answer with a script or a style sheet of the test page."""
        name = request.path_params["name"]
        return testpage.page_file(name) if name in testpage.PAGE_TYPES else await self.unknown(request)

    async def page_connection(self, request: Request) -> Response:
        """Answer with the id of the connection that the test page has opened at a random path, null if it is not open.

        A 404 would be an error in the console of the browser whenever a hook closes the connection at once.
        """
        path = request.query_params.get("path", "")
        connections = self._context.parts.hub.connections if path.startswith("/ws/test-page/") else ()
        conn_id = next((conn.id for conn in connections if conn.path == path), None)
        return JSONResponse({"id": conn_id})

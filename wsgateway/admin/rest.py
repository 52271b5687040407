"""REST over a supervisor's gateways, under `/api`. One table of operations is the router, the rights and the
OpenAPI description. Errors are problem+json."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from wsgateway.admin import openapi
from wsgateway.auth.admin import AdminRules
from wsgateway.config.exposure import outside_of_process, own_uid
from wsgateway.config.values import Startup
from wsgateway.exceptions import (
    ConfigError,
    GatewayConflict,
    GatewayError,
    GatewayNotFound,
    Refusal,
    Refused,
    SettingForbidden,
    StartError,
)
from wsgateway.gateway.admission import deny
from wsgateway.gateway.http.paths import sender_of
from wsgateway.gateway.http.problems import answer, problem, query_int, read_fields
from wsgateway.gateway.http.send import push, read_request, refusal_of
from wsgateway.gateway.shapes import ConnectionList, NodeList
from wsgateway.logs import Log, tail
from wsgateway.supervisor.instance import Embedded, Instance
from wsgateway.supervisor.supervisor import Supervisor

MAX_BODY = 1048576
MAX_WAIT = 60.0
"""Seconds that a request may wait for what it has begun."""

RATE_INTERVAL = 1.0
"""Seconds between two events of the stream."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the interface. `writes`: it needs a token with full rights."""

    method: str
    path: str
    name: str
    summary: str
    writes: bool
    answers: Mapping[int, str] = field(default_factory=dict)
    """The schema, of `openapi.SCHEMAS`, of each answer that is no error; empty: it has no JSON body."""
    errors: tuple[int, ...] = ()
    body: str = ""
    query: tuple[str, ...] = ()


ONE = "/api/gateways/{gateway_id}"
CLIENTS = ONE + "/connections"
STARTED = {200: "Gateway", 202: "Gateway"}

OPERATIONS = (
    Operation("GET", "/api/gateways", "list_gateways", "All gateways", False, {200: "GatewayList"}),
    Operation("POST", "/api/gateways", "create_gateway", "Create a gateway", True, {201: "Gateway", 202: "Gateway"},
              (400, 403, 408, 409, 413, 415, 422), "NewGateway", ("wait",)),
    Operation("GET", ONE, "show_gateway", "One gateway with its settings", False, {200: "Gateway"}, (404,)),
    Operation("PATCH", ONE, "edit_gateway", "Change settings; null takes one back to its default", True, STARTED,
              (400, 403, 404, 408, 409, 413, 415, 422), "Changes", ("wait",)),
    Operation("DELETE", ONE, "delete_gateway", "Stop a gateway and delete it", True, {202: "Gateway", 204: ""},
              (404, 409, 422), query=("wait",)),
    Operation("POST", ONE + "/start", "start_gateway", "Start", True, STARTED, (404, 409, 422), query=("wait",)),
    Operation("POST", ONE + "/stop", "stop_gateway", "Stop", True, STARTED, (404, 409, 422), query=("wait",)),
    Operation("POST", ONE + "/restart", "restart_gateway", "Restart", True, STARTED, (404, 409, 422), query=("wait",)),
    Operation("POST", ONE + "/roll", "roll_gateway", "Replace its workers one after the other", True, STARTED,
              (404, 409, 422), query=("wait",)),
    Operation("POST", "/api/reload", "reload", "Read the settings file again", True,
              {200: "GatewayList", 202: "GatewayList"}, (409, 422), query=("wait",)),
    Operation("GET", ONE + "/nodes", "list_nodes", "The processes that it runs in; none without a broker", False,
              {200: "NodeList"}, (404,)),
    Operation("POST", "/api/drain", "drain", "Take no client any more, and close all, over time", True,
              {200: "Drained", 202: "Drained"}, (422,), query=("wait",)),
    Operation("GET", CLIENTS, "list_connections", "A page of the connections", False, {200: "ConnectionList"},
              (404, 422), query=("offset", "limit", "search")),
    Operation("GET", CLIENTS + "/{connection_id}", "show_connection", "One connection", False,
              {200: "Connection"}, (404, 503)),
    Operation("POST", CLIENTS + "/close", "close_connections", "Close connections, or all", True, {200: "Closed"},
              (400, 404, 408, 413, 415, 422, 503), "Close"),
    Operation("DELETE", CLIENTS + "/{connection_id}", "close_connection", "Close one connection", True,
              {204: ""}, (404, 503)),
    Operation("POST", ONE + "/send", "send", "Push a message", True, {200: "Sent"},
              (400, 404, 408, 409, 413, 415, 422, 500, 503), "Message"),
    Operation("GET", "/api/log", "show_log", "The end of the log", False, {200: "Log"}, (422,),
              query=("lines", "gateway", "level")),
    Operation("GET", "/api/events", "events", "States and rates, as server-sent events", False,
              {200: "text/event-stream"}),
    Operation("GET", "/api/openapi.json", "description", "This description", False, {200: "Description"}),
)  # fmt: skip


class Api:
    """The interface of one supervisor, as an ASGI application."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        bound_host: str | None = None,
        has_password: Callable[[], bool] = lambda: False,
    ) -> None:
        """`has_password` tells whether the panel has one, which then does not leave this interface open either."""
        self.supervisor = supervisor
        self.log = Log()
        self._bound_host = bound_host
        self._has_password = has_password
        self._admin = supervisor.admin
        self._rules = self._make_rules()
        handlers = Handlers(supervisor)
        paths = dict.fromkeys(operation.path for operation in OPERATIONS)
        routes = []
        for path in sorted(paths, key=lambda path: path.count("{")):  # `/connections/close` before `/{connection_id}`
            table = {operation.method: operation for operation in OPERATIONS if operation.path == path}
            routes.append(Route(path, _Endpoint(self, table, handlers)))
        routes_of_sockets = [WebSocketRoute("/{path:path}", self._no_socket)]
        self._app = Starlette(routes=[*routes, *routes_of_sockets], exception_handlers={404: self._nothing_here})

    def check(self, scope: Scope, *, writes: bool) -> Refusal | None:
        """None for a caller that may. The rules are made anew when a reload has taken over other ones."""
        if self._admin is not self.supervisor.admin:
            self._admin = self.supervisor.admin
            self._rules = self._make_rules()
        return self._rules.check(scope, writes=writes, has_password=self._has_password())

    def _make_rules(self) -> AdminRules:
        outside = outside_of_process()
        return AdminRules(self._admin, bound_host=self._bound_host, outside=outside, uid=own_uid())

    def refuse(self, scope: Scope, refusal: Refusal) -> Response:
        """Log `refusal`, and return it as an answer."""
        what = f"{scope.get('method', 'a WebSocket')[:20]} {scope['path'][:200]}"
        log = self.log.limited(f"admin {refusal.kind} {refusal.status}")
        log.warning("admin: refused %s from %s: %s", what, sender_of(scope), refusal)
        return problem(refusal)

    async def _nothing_here(self, request: Request, _: Exception) -> Response:
        detail = f"there is nothing at {request.url.path[:200]}; /api/openapi.json describes what there is"
        return self.refuse(request.scope, Refusal(404, "unknown_path", detail, "wrong-path"))

    async def _no_socket(self, socket: WebSocket) -> None:
        refusal = Refusal(404, "unknown_path", f"there is no WebSocket at {socket.url.path[:200]}", "wrong-path")
        self.refuse(socket.scope, refusal)
        await socket.receive()
        await deny(socket.scope, socket.send, refusal.status, str(refusal))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


@dataclass(frozen=True)
class _Endpoint:
    """The operations of one path. Default deny: the guard is asked before anything else, for a wrong method too."""

    api: Api
    table: Mapping[str, Operation]
    handlers: "Handlers"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        if response is not None:
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        operation = self.table.get(request.method)
        refusal = self.api.check(request.scope, writes=operation is None or operation.writes)
        if refusal is None and operation is None:
            allow = ", ".join(self.table)
            refusal = Refusal(405, "method", f"only {allow} is possible here", "wrong-method", (("allow", allow),))
        if refusal is None:
            assert operation is not None
            handler: Callable[[Request], Awaitable[Response]] = getattr(self.handlers, operation.name)
            try:
                return await handler(request)
            except ClientDisconnect:
                return None
            except GatewayError as exc:
                refusal = _refusal_of(exc)
        return self.api.refuse(request.scope, refusal)


def _refusal_of(error: GatewayError) -> Refusal:
    match error:
        case Refused():
            return error.refusal
        case GatewayNotFound():
            return Refusal(404, "unknown_gateway", str(error), "unknown-gateway")
        case GatewayConflict() | StartError():
            return Refusal(409, "conflict", str(error), "not-running")
        case SettingForbidden():
            return Refusal(403, "settings", str(error), "settings")
        case ConfigError():
            return Refusal(422, "settings", str(error), "settings")
        case _:
            refusal = refusal_of(error)
            if refusal is None:
                raise error
            return refusal


class Handlers:
    """What each operation does, under its name."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    # Gateways

    async def list_gateways(self, _: Request) -> Response:
        return JSONResponse(await self._list())

    async def _list(self) -> dict[str, Any]:
        return {"gateways": [await shown_gateway(found) for found in self._supervisor.all()]}

    async def show_gateway(self, request: Request) -> Response:
        return JSONResponse(await shown_gateway(self._found(request), settings=True))

    async def create_gateway(self, request: Request) -> Response:
        fields = await read_fields(request, MAX_BODY)
        gateway_id = fields.pop("id", None)
        if not isinstance(gateway_id, str):
            raise Refused.of(Refusal(422, "body", "id: the new gateway needs one, a text", "bad-body"))
        self._supervisor.check_from_afar(fields)
        _query_seconds(request)  # before anything is made
        settings = {name: value for name, value in fields.items() if value is not None}
        created = await self._supervisor.create(gateway_id.strip(), settings)
        if created.settings.startup is not Startup.AUTOMATIC:
            return JSONResponse(await self._shown(created.id), 201)
        return await self._acted(
            request, self._supervisor.start(created.id), lambda: self._shown(created.id), done=201, failing=201
        )

    async def edit_gateway(self, request: Request) -> Response:
        found = self._found(request)
        changes = await read_fields(request, MAX_BODY)
        self._supervisor.check_from_afar(changes, before=found)
        return await self._acted(request, self._supervisor.edit(found.id, changes), lambda: self._shown(found.id))

    async def delete_gateway(self, request: Request) -> Response:
        found = self._found(request)
        return await self._acted(request, self._supervisor.delete(found.id), lambda: shown_gateway(found), done=204)

    async def start_gateway(self, request: Request) -> Response:
        found = self._found(request)
        return await self._acted(request, self._supervisor.start(found.id), lambda: self._shown(found.id))

    async def stop_gateway(self, request: Request) -> Response:
        found = self._found(request)
        return await self._acted(request, self._supervisor.stop(found.id), lambda: self._shown(found.id))

    async def restart_gateway(self, request: Request) -> Response:
        found = self._found(request)
        return await self._acted(request, self._supervisor.restart(found.id), lambda: self._shown(found.id))

    async def roll_gateway(self, request: Request) -> Response:
        found = self._found(request)
        return await self._acted(request, self._supervisor.roll(found.id), lambda: self._shown(found.id))

    async def reload(self, request: Request) -> Response:
        return await self._acted(request, self._supervisor.reload(), self._list)

    async def drain(self, request: Request) -> Response:
        async def count() -> int:
            totals = [await found.gateway.inspector.totals() for found in self._supervisor.all()]
            return int(sum(counted["connections"] for counted in totals))

        async def show() -> dict[str, Any]:
            return {"closed": max(0, before - await count()), **await self._list()}

        before = await count()
        return await self._acted(request, self._supervisor.drain(), show)

    def _found(self, request: Request) -> Instance | Embedded:
        return self._supervisor.find(request.path_params["gateway_id"])

    async def _shown(self, gateway_id: str) -> dict[str, Any]:
        return await shown_gateway(self._supervisor.find(gateway_id), settings=True)

    async def _acted(
        self,
        request: Request,
        action: Coroutine[Any, Any, None],
        show: Callable[[], Awaitable[dict[str, Any]]],
        *,
        done: int = 200,
        failing: int | None = None,
    ) -> Response:
        """Begin `action`. With `?wait=seconds` the answer comes when it is done, else, or past that, it is 202.

        What is refused at once (an unknown id, a wrong setting) is answered at once, whatever `wait` says. `failing`
        is the status for a start that failed; None: 409.
        """
        try:
            wait = _query_seconds(request)
        except Refused:
            action.close()
            raise
        task = self._supervisor.begin(action)
        finished, _ = await asyncio.wait({task}, timeout=max(wait, AT_ONCE))
        if not finished:
            return JSONResponse(await show(), 202, headers={"location": request.url.path})
        if failing is not None and isinstance(task.exception(), StartError):
            return JSONResponse(await show(), failing)  # it is there, and says why it has failed
        task.result()
        return Response(status_code=204) if done == 204 else JSONResponse(await show(), done)

    # Connections

    async def list_nodes(self, request: Request) -> Response:
        return answer(NodeList(await self._found(request).gateway.inspector.nodes()))

    async def list_connections(self, request: Request) -> Response:
        inspector = self._found(request).gateway.inspector
        offset = query_int(request, "offset", 0, 0, 2**31)
        limit = query_int(request, "limit", 100, 1, 1000)
        total, page = await inspector.page(request.query_params.get("search", ""), offset, limit)
        return answer(ConnectionList(total, offset, limit, page))

    async def show_connection(self, request: Request) -> Response:
        shown = await self._found(request).gateway.inspector.describe(request.path_params["connection_id"])
        if shown is None:
            raise _NO_CONNECTION
        return answer(shown)

    async def close_connection(self, request: Request) -> Response:
        inspector = self._found(request).gateway.inspector
        if not (await inspector.close([request.path_params["connection_id"]], 1000, "")).closed:
            raise _NO_CONNECTION
        return Response(status_code=204)

    async def close_connections(self, request: Request) -> Response:
        inspector = self._found(request).gateway.inspector
        fields = await read_fields(request, MAX_BODY)
        wanted, everybody = fields.get("connections"), fields.get("all", False)
        code, reason = fields.get("code", 1000), fields.get("reason", "")
        if not (everybody is True and wanted is None) and not (everybody is False and isinstance(wanted, list)):
            raise Refused.of(Refusal(422, "body", 'say which: {"connections": [ids]} or {"all": true}', "bad-body"))
        if not isinstance(code, int) or isinstance(code, bool) or not isinstance(reason, str):
            raise Refused.of(Refusal(422, "body", "code is a number, reason a text", "bad-body"))
        try:
            closing = await inspector.close(None if wanted is None else [str(item) for item in wanted], code, reason)
        except ValueError as exc:
            raise Refused.of(Refusal(422, "body", str(exc), "bad-body")) from exc
        return answer(closing)

    async def send(self, request: Request) -> Response:
        gateway = self._found(request).gateway
        fields = await read_fields(request, MAX_BODY)
        return answer(await push(gateway, read_request(fields)))

    # The log and the stream

    async def show_log(self, request: Request) -> Response:
        lines = query_int(request, "lines", 100, 1, 1000)
        wanted = request.query_params.get("gateway")
        level = request.query_params.get("level", "INFO").upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise Refused.of(Refusal(422, "query", "level: DEBUG, INFO, WARNING or ERROR", "bad-body"))
        return JSONResponse({"lines": await asyncio.to_thread(tail, lines, gateway=wanted, level=level)})

    async def events(self, _: Request) -> Response:
        return StreamingResponse(self._stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _stream(self) -> AsyncIterator[str]:
        while not self._supervisor.closing.is_set():
            yield f"event: gateways\ndata: {json.dumps(await self._list())}\n\n"
            await self._supervisor.changed(RATE_INTERVAL)

    async def description(self, request: Request) -> Response:
        del request
        return JSONResponse(openapi.description(OPERATIONS, version=version("wsgateway")))


_NO_CONNECTION = Refused.of(Refusal(404, "unknown_connection", "no connection with that id is open", "wrong-path"))

AT_ONCE = 0.05
"""Seconds in which a mistake is found that is answered without `wait`."""


async def shown_gateway(found: Instance | Embedded, *, settings: bool = False) -> dict[str, Any]:
    """A gateway as the interface shows it: what it does, and with `settings` how it is set, without secrets."""
    gateway = found.gateway
    totals = await gateway.inspector.totals()
    shown: dict[str, Any] = {
        "id": gateway.id,
        "state": str(gateway.state),
        "failure": gateway.failure or None,
        "url": found.url or None,
        "port": found.settings.port,
        "startup": str(found.settings.startup),
        "editable": found.is_editable,
        "connections": totals["connections"],
        "messages_in": totals["in"],
        "messages_out": totals["out"],
        "dropped": totals["dropped"],
    }
    return {**shown, "settings": found.settings.shown()} if settings else shown


def _query_seconds(request: Request) -> float:
    text = request.query_params.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise Refused.of(Refusal(422, "query", f"wait: seconds, from 0 to {MAX_WAIT:g}", "bad-body"))
    return seconds

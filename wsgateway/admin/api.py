"""REST over a supervisor's gateways, below `/api`: calls the operation of each request whose sender has access.

Errors are problem+json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from wsgateway.admin import openapi
from wsgateway.admin.credentials import Credentials
from wsgateway.admin.handlers import Handlers
from wsgateway.admin.rest import OPERATIONS, Operation
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
from wsgateway.gateway.http.paths import escaped_path, sender_of
from wsgateway.gateway.http.problems import deny, problem
from wsgateway.gateway.http.send import refusal_of_send
from wsgateway.logs import Log
from wsgateway.supervisor.supervisor import Supervisor


class Api:
    """The interface of one supervisor, as an ASGI application."""

    def __init__(self, supervisor: Supervisor, credentials: Credentials) -> None:
        self._credentials = credentials
        self._log = Log()
        handlers = Handlers(supervisor, _describe)
        paths = dict.fromkeys(operation.path for operation in OPERATIONS)
        routes = []
        for path in sorted(paths, key=lambda path: path.count("{")):  # `/connections/close` before `/{connection_id}`
            table = {operation.method: operation for operation in OPERATIONS if operation.path == path}
            routes.append(Route(path, OperationEndpoint(self, table, handlers)))
        sockets = [WebSocketRoute("/{path:path}", self._refuse_websocket)]
        self._app = Starlette(routes=[*routes, *sockets], exception_handlers={404: self._refuse_path})

    def check(self, scope: Scope, *, writes: bool) -> Refusal | None:
        """Return None if the caller has the required access, else the refusal."""
        has_password = self._credentials.passwords.is_set()
        return self._credentials.rules.check(scope, writes=writes, has_password=has_password)

    def refuse(self, scope: Scope, refusal: Refusal) -> Response:
        """Log `refusal`, and return it as an answer."""
        request = f"{scope.get('method', 'a WebSocket')[:20]} {scope['path'][:200]}"
        log = self._log.limited(f"admin {refusal.kind} {refusal.status}")
        log.warning("admin: refused %s from %s: %s", request, sender_of(scope), refusal)
        return problem(refusal)

    async def _refuse_path(self, request: Request, _: Exception) -> Response:
        detail = f"there is nothing at {request.url.path[:200]}; /api/openapi.json lists every path"
        return self.refuse(request.scope, Refusal(404, "unknown_path", detail, "wrong-path"))

    async def _refuse_websocket(self, socket: WebSocket) -> None:
        refusal = Refusal(404, "unknown_path", f"there is no WebSocket at {socket.url.path[:200]}", "wrong-path")
        self.refuse(socket.scope, refusal)
        await socket.receive()
        await deny(socket.scope, socket.send, refusal.status, str(refusal))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if b"%2" in scope.get("raw_path", b"") and scope["type"] == "http":  # a slash or a percent sign in a name
            scope = {**scope, "path": escaped_path(scope)}
        await self._app(scope, receive, send)


@dataclass(frozen=True)
class OperationEndpoint:
    """The operations of one path. Access is checked before anything else, also for a method that no operation has."""

    api: Api
    table: Mapping[str, Operation]
    handlers: Handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        if response is not None:
            await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response | None:
        operation = self.table.get(request.method)
        refusal = self.api.check(request.scope, writes=operation is None or operation.writes)
        if refusal is not None:
            return self.api.refuse(request.scope, refusal)
        if operation is None:
            allow = ", ".join(self.table)
            detail = f"{request.method[:20]} is not allowed here, only {allow}"
            refusal = Refusal(405, "method", detail, "wrong-method", (("allow", allow),))
            return self.api.refuse(request.scope, refusal)
        try:
            return await operation.handler(self.handlers, request)
        except ClientDisconnect:
            return None
        except GatewayError as exc:
            return self.api.refuse(request.scope, _refusal_of(exc))


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
            refusal = refusal_of_send(error)
            if refusal is None:
                raise error
            return refusal


def _describe() -> dict[str, Any]:
    return openapi.description(OPERATIONS, version=version("wsgateway"))

"""The panel as an ASGI application: its routes, and the parts that are common to all answers."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from wsgateway.admin.authentication import Authentication, HostGuard
from wsgateway.admin.connect import PanelMount
from wsgateway.admin.credentials import Credentials
from wsgateway.admin.live import MAX_VIEWERS, push_figures
from wsgateway.admin.logins import cookie_name
from wsgateway.admin.pages.table import PAGES
from wsgateway.admin.site import Page, Site, refused
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.config.settings import AdminSettings
from wsgateway.exceptions import Refusal, Refused
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.http.paths import relative_scope, sender_of, way_up
from wsgateway.gateway.http.problems import deny, read_body
from wsgateway.logs import Log
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.text import escape_controls

MAX_FORM = 262144
"""Bytes of a submitted form."""

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",  # with no-referrer a form's Origin would be null
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

READ_ONLY = "You have read-only access, but this page requires full access."
GUARDED = (
    "This panel belongs to an application, and its guard did not give you access. Log in to the application as "
    "a user with access, then reload this page."
)

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""Methods that the panel answers or refuses itself, before the router does."""


class Panel:
    """The panel of a supervisor, or of gateways that were created in code: `app.mount("/panel", Panel([gateway]))`.

    `guard` returns the access of each request, and replaces the login. Without a guard, the panel asks for the password
    of `password_hash` (printed by `wsgateway password --hash`). Without a password, only callers on this host have
    access. `allowed_origins` are the origins of the panel's own pages, if a proxy serves them under a scheme or name
    that the application does not know. `local_access` is whether callers on this host need neither guard nor password.
    If it is not given, they need one as soon as `allowed_origins`, a gateway's settings, `FORWARDED_ALLOW_IPS`, or the
    server's command line shows that other hosts are served, too. The `[admin]` table of a supervisor sets both.
    """

    def __init__(
        self,
        gateways: Supervisor | Iterable[Gateway],
        *,
        guard: HostGuard | None = None,
        password_hash: str = "",
        read_password_hash: str = "",
        allowed_origins: Iterable[str] = (),
        local_access: bool | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        if isinstance(gateways, Supervisor):
            supervisor = gateways
        else:
            admin = AdminSettings(
                password_hash=password_hash,
                read_password_hash=read_password_hash,
                password_file="",
                allowed_origins=tuple(allowed_origins),
                local_access=local_access,
            )
            supervisor = Supervisor(gateways=gateways, admin=admin)
        self._supervisor = supervisor
        credentials = credentials or Credentials(supervisor, is_guarded=guard is not None)
        self._authentication = Authentication(credentials, guard)
        self._log = Log()
        self._templates = Environment(
            loader=PackageLoader("wsgateway.admin"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_printable,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._viewers = 0
        self._site = Site(supervisor, self._authentication)
        self._app = Starlette(
            routes=[
                *(self._route(path) for path in dict.fromkeys(page.path for page in PAGES)),
                WebSocketRoute("/live", self._live),
                WebSocketRoute("/{path:path}", self._refuse_websocket),
                Mount("/static", StaticFiles(packages=[("wsgateway.admin", "static")])),
            ],
            exception_handlers={404: self._refuse_path, 405: self._refuse_method},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        cookie = cookie_name(scope.get("root_path", "").rstrip("/"))
        scope = {
            **relative_scope(scope),
            "wsgateway.base": way_up(scope),
            "wsgateway.cookie": cookie,
            "wsgateway.mount": PanelMount(scope.get("app"), self, scope.get("root_path", "").rstrip("/")),
        }
        await self._app(scope, receive, with_headers)

    # Pages

    def _route(self, path: str) -> Route:
        table = {page.method: page for page in PAGES if page.path == path}

        async def endpoint(request: Request) -> Response:
            try:
                return await self._answer(request, table)
            except ClientDisconnect:
                return Response(status_code=400)  # the client has disconnected

        return Route(path, endpoint, methods=METHODS)

    async def _answer(self, request: Request, table: Mapping[str, Page]) -> Response:
        """Answer with a page. Access is checked before anything else."""
        visit = self._begin_visit(request)
        try:
            visit = replace(visit, access=await self._authentication.access_of(request))
            page = table.get("GET" if request.method == "HEAD" else request.method)
            if page is None:
                raise refused(405, f"This page does not accept {request.method}.")
            if visit.access is Access.NONE and page.access is not Access.NONE and visit.asks_for_password:
                return visit.redirect("/login")
            if visit.access < page.access:
                raise refused(403, READ_ONLY if visit.access else GUARDED)
            if request.method == "POST":
                visit = replace(visit, form=await self._read_form(visit))
            response = await page.view(self._site, visit)
        except Refused as exc:
            response = self._refuse(visit, exc.refusal)
        if visit.has_new_login and "set-cookie" not in response.headers:
            self._authentication.remember(response, visit, visit.login)
        return response

    def _begin_visit(self, request: Request) -> Visit:
        authentication = self._authentication
        known = authentication.login_of(request)
        login = known or authentication.logins.begin()
        return Visit(request, login, known is None, authentication.asks_for_password, self._render)

    async def _read_form(self, visit: Visit) -> dict[str, list[str]]:
        """Return the submitted form. Raise `Refused` unless it belongs to this session."""
        request = visit.request
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise refused(415, "This page accepts only a form.")
        body = await read_body(request, MAX_FORM)
        try:
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=5000)
        except ValueError as exc:
            raise refused(400, "The form cannot be read: it has to be percent-encoded UTF-8.") from exc
        form: dict[str, list[str]] = {}
        for name, value in pairs:
            form.setdefault(name, []).append(value)
        if not self._authentication.logins.is_own_form(visit.login, form.pop("csrf", [""])[0]):
            raise refused(
                403,
                "This form does not belong to your session, or is too old: go back, reload the page, and try again.",
            )
        return form

    def _render(self, visit: Visit, template: str, status: int, values: dict[str, Any]) -> Response:
        html = self._templates.get_template(template).render(
            root=visit.base,
            base=".",  # links are relative to `<base>`, in the fragments of another page too
            here=visit.here,
            csrf=self._authentication.logins.csrf_of(visit.login),
            may_write=visit.access is Access.FULL,
            may_read=visit.access is not Access.NONE,
            asks_for_password=visit.asks_for_password,
            is_guarded=self._authentication.is_guarded,
            has_store=self._supervisor.has_store,
            **values,
        )
        return HTMLResponse(html, status)

    def _refuse(self, visit: Visit, refusal: Refusal) -> Response:
        """Log `refusal`, and return its page."""
        self._log_refusal(visit.request.scope, refusal)
        title = "Not found" if refusal.status == 404 else "Refused"
        has_access = visit.access is not Access.NONE or refusal.status != 403
        return visit.page("message.html", status=refusal.status, title=title, text=str(refusal), has_access=has_access)

    async def _refuse_path(self, request: Request, _: Exception) -> Response:
        text = f"There is nothing at {request.url.path[:200]}."
        return self._refuse(self._begin_visit(request), Refusal(404, "page", text))

    async def _refuse_method(self, request: Request, _: Exception) -> Response:
        text = f"This page does not accept {request.method[:20]}."
        return self._refuse(self._begin_visit(request), Refusal(405, "page", text))

    def _log_refusal(self, scope: Scope, refusal: Refusal) -> None:
        request = f"{scope.get('method', 'a WebSocket')[:20]} {scope['path'][:200]}"
        log = self._log.limited(f"{scope['type']} {refusal.status}")
        log.warning("panel: refused %s from %s: %s", request, sender_of(scope), refusal)

    # WebSockets

    async def _live(self, socket: WebSocket) -> None:
        refusal = await self._why_not_live(socket)
        if refusal is not None:
            await self._deny(socket, refusal)
            return

        async def may_read() -> bool:
            try:
                return await self._authentication.access_of(socket) is not Access.NONE
            except Refused:
                return False

        self._viewers += 1
        try:
            await push_figures(socket, self._supervisor, may_read)
        finally:
            self._viewers -= 1

    async def _why_not_live(self, socket: WebSocket) -> Refusal | None:
        try:
            if await self._authentication.access_of(socket) is Access.NONE:
                return Refusal(403, "page", "You may not see this page.")
        except Refused as exc:
            return exc.refusal
        return Refusal(503, "page", f"{MAX_VIEWERS} pages are open already.") if self._viewers >= MAX_VIEWERS else None

    async def _refuse_websocket(self, socket: WebSocket) -> None:
        await self._deny(socket, Refusal(404, "page", f"There is no WebSocket at {socket.url.path[:200]}."))

    async def _deny(self, socket: WebSocket, refusal: Refusal) -> None:
        self._log_refusal(socket.scope, refusal)
        await socket.receive()
        await deny(socket.scope, socket.send, refusal.status, str(refusal))


def _printable(value: object) -> object:
    """Return `value` without control characters, because a user may copy the text of a client into a terminal."""
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value

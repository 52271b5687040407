"""The panel as an ASGI application: who may see which page, and what goes around every answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from wsgateway import exceptions
from wsgateway.admin.live import MAX_VIEWERS, watch
from wsgateway.admin.passwords import Passwords
from wsgateway.admin.sessions import MAX_AGE, Login, Sessions, cookie_name, date_of_cookies
from wsgateway.admin.views import PAGES, Page, Refused, Views, Visit
from wsgateway.auth.admin import Access, AdminRules
from wsgateway.config.exposure import outside_of_process, own_uid
from wsgateway.config.settings import AdminSettings, serves_outside
from wsgateway.gateway.admission import deny
from wsgateway.gateway.gateway import Gateway
from wsgateway.gateway.http.paths import relative_scope, sender_of, way_up
from wsgateway.gateway.http.problems import read_body
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

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""What is answered by the panel itself, with its rules, and not by the router."""

HostGuard = Callable[[HTTPConnection], Awaitable[Access] | Access]
"""A guard of the application that mounts the panel: what the sender of a request may do."""


class Panel:
    """The panel of a supervisor, or of gateways that were made in code: `app.mount("/panel", Panel([gateway]))`.

    `guard`, where given, decides who may do what, and replaces the log-in. Without one a `password_hash` (made by
    `wsgateway password --hash`) is asked for, and without that local callers only are let in. `allowed_origins` are
    those of the panel's own pages, where a proxy serves them under a scheme or name that the application does not
    know. `local_access` says whether callers on this host need neither guard nor password; without a word on it they
    do as soon as `allowed_origins`, a gateway's settings, `FORWARDED_ALLOW_IPS` or the server's command line says that
    others are served too. For a supervisor its `[admin]` says both.
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
        passwords: Passwords | None = None,
        bound_host: str | None = None,
    ) -> None:
        if isinstance(gateways, Supervisor):
            self.supervisor = gateways
        else:
            self.supervisor = Supervisor(gateways=gateways)
            self.supervisor.admin = AdminSettings(allowed_origins=tuple(allowed_origins), local_access=local_access)
        self.passwords = passwords or Passwords(full=password_hash, read=read_password_hash)
        self._guard = guard
        self._bound_host = bound_host
        self._log = Log()
        self._admin = self.supervisor.admin
        self._rules = self._make_rules()
        self._templates = Environment(
            loader=PackageLoader("wsgateway.admin"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_printable,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.sessions = Sessions(
            lambda: self.passwords.secret(repr((self._admin.token, self._admin.read_token))), self.passwords.has_ended
        )
        self._viewers = 0
        views = Views(self.supervisor, self)
        self._app = Starlette(
            routes=[
                *(self._route(path, views) for path in dict.fromkeys(page.path for page in PAGES)),
                WebSocketRoute("/live", self._live),
                WebSocketRoute("/{path:path}", self._no_socket),
                Mount("/static", StaticFiles(packages=[("wsgateway.admin", "static")])),
            ],
            exception_handlers={404: self._nothing_here, 405: self._wrong_method},
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
        scope = {**relative_scope(scope), "wsgateway.base": way_up(scope), "wsgateway.cookie": cookie}
        await self._app(scope, receive, with_headers)

    # Who may

    @property
    def asks_for_password(self) -> bool:
        return self._guard is None and (self.passwords.is_set() or self.rules.has_token)

    @property
    def rules(self) -> AdminRules:
        """Made anew when a reload has taken over other settings."""
        if self._admin is not self.supervisor.admin:
            self._admin = self.supervisor.admin
            self._rules = self._make_rules()
        return self._rules

    def _make_rules(self) -> AdminRules:
        outside = outside_of_process()
        for made in self.supervisor.made_in_code:  # they share the panel's server
            outside = outside or serves_outside(made.settings)
        rules = AdminRules(self._admin, bound_host=self._bound_host, outside=outside, uid=own_uid())
        if rules.outside is not None and self._guard is None and not self.passwords.is_set() and not rules.has_token:
            level, text = (logging.WARNING, LOUD) if rules.local_access else (logging.INFO, CLOSED)
            self._log.log(level, text, rules.outside)
        return rules

    def session_of(self, connection: HTTPConnection) -> Login | None:
        return self.sessions.read(connection.cookies.get(connection.scope["wsgateway.cookie"], ""))

    async def access_of(self, connection: HTTPConnection) -> Access:
        """What the sender may do. Raises `Refused` where nobody from there may do anything."""
        refusal = self.rules.check_page(connection.scope)
        if refusal is not None:
            raise Refused(refusal.status, str(refusal))
        if self._guard is not None:
            found = self._guard(connection)
            return Access(await found if isinstance(found, Awaitable) else found)
        if self.asks_for_password:
            session = self.session_of(connection)
            return Access.NONE if session is None else session.access
        reason = self.rules.why_not_local(connection.scope)
        if reason is not None:
            raise Refused(403, NOT_LOCAL.format(reason))
        return Access.FULL

    async def access_for(self, password: str) -> Access:
        """What `password`, or a token in its place, opens."""
        found = await asyncio.to_thread(self.passwords.access_of, password)
        return max(found, self.rules.access_of(password))

    async def end(self, session: Login) -> None:
        """Log `session` out, in other processes with the same password file too, and after a restart."""
        self.sessions.end(session)
        if session.access is not Access.NONE:
            now = date_of_cookies()
            await asyncio.to_thread(self.passwords.keep_ended, session.nonce, now=now, until=now + MAX_AGE)

    # Pages

    def _route(self, path: str, views: Views) -> Route:
        table = {page.method: page for page in PAGES if page.path == path}

        async def endpoint(request: Request) -> Response:
            try:
                return await self._answer(request, table, views)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return Route(path, endpoint, methods=METHODS)

    async def _answer(self, request: Request, table: dict[str, Page], views: Views) -> Response:
        """Default deny: who it is, is asked before anything else."""
        session = self.session_of(request) or self.sessions.begin()
        visit = Visit(request, session, Access.NONE, self.asks_for_password, {}, self.render)
        try:
            access = await self.access_of(request)
            page = table.get("GET" if request.method == "HEAD" else request.method)
            visit = Visit(request, session, access, self.asks_for_password, {}, self.render)
            if page is None:
                raise Refused(405, f"This page cannot be asked with {request.method}.")
            if access < page.access:
                if access is Access.NONE and self.asks_for_password:
                    return RedirectResponse(f"{visit.base}/login", 303)
                raise Refused(403, "You may only look here." if access else "You may not see this page.")
            if request.method == "POST":
                form = await self._form(request, session)
                visit = Visit(request, session, access, self.asks_for_password, form, self.render)
            handler: Callable[[Visit], Awaitable[Response]] = getattr(views, page.name)
            response = await handler(visit)
        except exceptions.Refused as exc:
            self._log_refusal(request.scope, exc.refusal.status, str(exc.refusal))
            response = visit.page("message.html", status=exc.refusal.status, title="Refused", text=str(exc.refusal))
        except Refused as exc:
            self._log_refusal(request.scope, exc.status, str(exc))
            title = "Not here" if exc.status == 404 else "Refused"
            response = visit.page("message.html", status=exc.status, title=title, text=str(exc))
        if visit.cookie not in request.cookies or self.session_of(request) is None:
            self.remember(response, visit, session)
        return response

    async def _form(self, request: Request, session: Login) -> dict[str, list[str]]:
        """The submitted form. Raises `Refused` unless it is one of this session."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise Refused(415, "This takes a form only.")
        body = await read_body(request, MAX_FORM)
        try:
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=5000)
        except ValueError as exc:
            raise Refused(400, "The form cannot be read: it has to be percent-encoded UTF-8.") from exc
        form: dict[str, list[str]] = {}
        for name, value in pairs:
            form.setdefault(name, []).append(value)
        if not self.sessions.is_own_form(session, form.pop("csrf", [""])[0]):
            raise Refused(403, "This form is not of your session, or too old: go back, reload the page, try again.")
        return form

    def remember(self, response: Response, visit: "Visit", session: Login) -> None:
        """Let the browser keep `session`, unless this answer sets another one."""
        if "set-cookie" in response.headers:
            return
        response.set_cookie(
            visit.cookie,
            self.sessions.cookie_of(session),
            max_age=MAX_AGE,
            secure=visit.request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def render(self, visit: "Visit", template: str, status: int, values: dict[str, Any]) -> Response:
        html = self._templates.get_template(template).render(
            root=visit.base,
            base=".",  # links are relative to `<base>`, in the fragments of another page too
            here=visit.here,
            csrf=self.sessions.csrf_of(visit.session),
            may_write=visit.access is Access.FULL,
            may_read=visit.access is not Access.NONE,
            asks_for_password=visit.asks_for_password,
            is_guarded=self._guard is not None,
            **values,
        )
        return HTMLResponse(html, status)

    async def _nothing_here(self, request: Request, _: Exception) -> Response:
        return self._message(request, 404, "Not here", f"There is nothing at {request.url.path[:200]}.")

    async def _wrong_method(self, request: Request, _: Exception) -> Response:
        return self._message(request, 405, "Refused", f"This cannot be asked with {request.method[:20]}.")

    def _message(self, request: Request, status: int, title: str, text: str) -> Response:
        self._log_refusal(request.scope, status, text)
        visit = Visit(request, self.sessions.begin(), Access.NONE, self.asks_for_password, {}, self.render)
        return visit.page("message.html", status=status, title=title, text=text)

    def _log_refusal(self, scope: Scope, status: int, text: str) -> None:
        what = f"{scope.get('method', 'a WebSocket')[:20]} {scope['path'][:200]}"
        log = self._log.limited(f"{scope['type']} {status}")
        log.warning("panel: refused %s from %s: %s", what, sender_of(scope), text)

    # What is pushed

    async def _live(self, socket: WebSocket) -> None:
        refused = await self._why_not_live(socket)
        if refused is not None:
            await self._refuse(socket, refused)
            return

        async def may_look() -> bool:
            try:
                return await self.access_of(socket) is not Access.NONE
            except Refused:
                return False

        self._viewers += 1
        try:
            await watch(socket, self.supervisor, may_look)
        finally:
            self._viewers -= 1

    async def _why_not_live(self, socket: WebSocket) -> Refused | None:
        try:
            if await self.access_of(socket) is Access.NONE:
                return Refused(403, "You may not see this page.")
        except Refused as exc:
            return exc
        return Refused(503, f"{MAX_VIEWERS} pages are open already.") if self._viewers >= MAX_VIEWERS else None

    async def _no_socket(self, socket: WebSocket) -> None:
        await self._refuse(socket, Refused(404, f"There is no WebSocket at {socket.url.path[:200]}."))

    async def _refuse(self, socket: WebSocket, refused: Refused) -> None:
        self._log_refusal(socket.scope, refused.status, str(refused))
        await socket.receive()
        await deny(socket.scope, socket.send, refused.status, str(refused))


def _printable(value: object) -> object:
    """What a template prints, without control characters: what a client says may be copied into a terminal."""
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value


NOT_LOCAL = (
    "No password is set, so that only callers on this host are let in (local_access), and {}. To let others in, run: "
    "wsgateway password (for a mounted panel give it password_hash or guard)."
)

LOUD = (
    "panel: local_access is true although %s: callers on this host need no password, and if a proxy on this host adds "
    "no forwarded header, everybody on its other side is one of them; set a password (docs/admin.md#who-may)"
)

CLOSED = (
    "panel: no password is set, and nobody is let in, because %s: set one (wsgateway password), or local_access = true "
    "for callers on this host"
)

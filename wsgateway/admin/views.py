"""The pages of the panel, and what their forms do. One table says which there are, and who may ask for them."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from wsgateway.admin.forms import changes_in, form_of, sorted_mistakes
from wsgateway.admin.sessions import Login, Sessions, TooManyTries, Tries, client_of, sender_of
from wsgateway.auth.admin import Access
from wsgateway.config.settings import Settings
from wsgateway.config.values import Startup
from wsgateway.exceptions import (
    ConfigError,
    GatewayConflict,
    GatewayError,
    GatewayNotFound,
    GatewayNotRunning,
    HookError,
    MessageError,
    NodeError,
    StartError,
)
from wsgateway.gateway.http.problems import query_int
from wsgateway.gateway.shapes import ConnectionInfo, fields_of
from wsgateway.logs import LEVELS, Log, logger, tail
from wsgateway.messages import decode_json
from wsgateway.supervisor.instance import Embedded, Instance
from wsgateway.supervisor.supervisor import Supervisor

PAGE = 50
"""Connections on one page."""

MAX_LOOKS = 10_000
"""Connections of which is remembered what they had done when somebody looked."""

LOG_LINES = 300

WAIT = 2.0
"""Seconds in which what an action is refused for is found; what takes longer is seen in the states."""


class Refused(Exception):  # noqa: N818  as `wsgateway.Refused`
    """A page that is not shown, with the status of the answer and a sentence for the reader."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Page:
    """One page or action: `name` is its method in `Views`, `access` what it needs."""

    method: str
    path: str
    name: str
    access: Access


ONE = "/gateways/{gateway_id}"

PAGES = (
    Page("GET", "/", "gateways", Access.READ),
    Page("POST", "/", "act", Access.FULL),
    Page("GET", "/new", "new", Access.FULL),
    Page("POST", "/new", "create", Access.FULL),
    Page("GET", ONE, "gateway", Access.READ),
    Page("GET", ONE + "/edit", "edit", Access.FULL),
    Page("POST", ONE + "/edit", "save", Access.FULL),
    Page("POST", ONE + "/send", "send", Access.FULL),
    Page("POST", ONE + "/close", "close", Access.FULL),
    Page("GET", ONE + "/connections/{connection_id}", "connection", Access.READ),
    Page("GET", "/log", "log", Access.READ),
    Page("GET", "/login", "login", Access.NONE),
    Page("POST", "/login", "log_in", Access.NONE),
    Page("POST", "/logout", "log_out", Access.NONE),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: who asks, with what in the form."""

    request: Request
    session: Login
    access: Access
    asks_for_password: bool
    form: dict[str, list[str]] = field(repr=False)  # a password may be in it
    render: Callable[["Visit", str, int, dict[str, Any]], Response]

    @property
    def base(self) -> str:
        """Where the panel is mounted, relative to this page, without a slash at its end."""
        base: str = self.request.scope["wsgateway.base"]
        return base

    @property
    def cookie(self) -> str:
        """The name of the session's cookie."""
        name: str = self.request.scope["wsgateway.cookie"]
        return name

    @property
    def here(self) -> str:
        """This page, relative to `base`."""
        query = self.request.url.query
        return "." + quote(self.request.scope["path"]) + (f"?{query}" if query else "")

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        return self.render(self, template, status, values)

    def to(self, path: str) -> Response:
        """Go there, after a form."""
        return RedirectResponse(f"{self.base}{path}", 303)

    def field(self, name: str) -> str:
        """What the form says under `name`; of several the last."""
        return self.form.get(name, [""])[-1]


class LogIn(Protocol):
    """What the log-in needs of the panel."""

    sessions: Sessions

    async def access_for(self, password: str) -> Access: ...

    async def end(self, session: Login) -> None: ...

    def remember(self, response: Response, visit: Visit, session: Login) -> None: ...


ACTIONS = {"start": "Start", "stop": "Stop", "restart": "Restart", "delete": "Delete", "refresh": "Read the file again"}

ACTIONS_OF_ONE = {"roll": "Replace its processes"}
"""What is offered on a gateway's own page only."""

IN_CODE = ("start", "stop", "restart")
"""What can be done to gateways that were made in code."""


class Views:
    """Each page under its name."""

    def __init__(self, supervisor: Supervisor, log_in: LogIn) -> None:
        self._supervisor = supervisor
        self._log_in = log_in
        self._tries = Tries()
        self._log = Log()
        self._looks: dict[str, tuple[float, int, int]] = {}

    # Gateways

    async def gateways(self, visit: Visit, *, problems: Iterable[str] = (), status: int = 200) -> Response:
        has_store = self._supervisor.has_store
        return visit.page(
            "gateways.html",
            status=status,
            gateways=self._supervisor.all(),
            totals={found.id: await found.gateway.inspector.totals() for found in self._supervisor.all()},
            problems=list(problems),
            actions={name: ACTIONS[name] for name in ACTIONS if has_store or name in IN_CODE},
            may_create=has_store,
        )

    async def act(self, visit: Visit) -> Response:
        """Start, stop, restart, delete what is ticked, or read the file again. Stop and delete ask first."""
        action, wanted = visit.field("action"), visit.form.get("id", [])
        if action not in ACTIONS | ACTIONS_OF_ONE:
            raise Refused(422, "This action is not known.")
        if action == "refresh":
            return await self._acted(visit, [self._supervisor.reload()])
        if not wanted:
            return await self.gateways(visit, problems=["Tick the gateways first."], status=422)
        found = [self._found(gateway_id) for gateway_id in wanted]
        if action in ("stop", "delete") and visit.field("sure") != "yes":
            totals = [await supervised.gateway.inspector.totals() for supervised in found]
            count = sum(int(counted["connections"]) for counted in totals)
            return visit.page("confirm.html", action=action, label=ACTIONS[action], gateways=found, count=count)
        do = getattr(self._supervisor, action)
        return await self._acted(visit, [do(supervised.id) for supervised in found])

    async def _acted(self, visit: Visit, actions: list[Coroutine[Any, Any, None]]) -> Response:
        """Begin all, and say what is refused."""
        tasks = [self._supervisor.begin(action) for action in actions]
        await asyncio.wait(tasks, timeout=WAIT)
        errors = [task.exception() for task in tasks if task.done()]
        problems = [str(error) for error in errors if error is not None and not isinstance(error, StartError)]
        return await self.gateways(visit, problems=problems, status=409) if problems else visit.to("/")

    async def new(self, visit: Visit) -> Response:
        settings = await asyncio.to_thread(self._supervisor.new_settings)
        return self._form(visit, None, settings)

    async def create(self, visit: Visit) -> Response:
        before = await asyncio.to_thread(self._supervisor.new_settings)
        gateway_id = visit.field("id").strip()
        try:
            mistakes = _mistakes_of_id(gateway_id)
            try:
                changes = changes_in(self._single(visit), before)
            except ConfigError as exc:
                raise ConfigError([*mistakes, *exc.mistakes]) from exc
            if mistakes:
                raise ConfigError(mistakes)
            changes = {name: value for name, value in changes.items() if value is not None}
            changes.setdefault("listener", before.listener)
            changes.setdefault("port", before.port)
            self._supervisor.check_from_afar(changes)
            created = await self._supervisor.create(gateway_id, changes)
        except (ConfigError, GatewayConflict) as exc:
            return self._form(visit, None, before, exc)
        if created.settings.startup is Startup.AUTOMATIC:
            return await self._acted(visit, [self._supervisor.start(created.id)])
        return visit.to("/")

    async def edit(self, visit: Visit) -> Response:
        found = self._editable(visit)
        return self._form(visit, found, found.settings)

    async def save(self, visit: Visit) -> Response:
        found = self._editable(visit)
        try:
            changes = changes_in(self._single(visit), found.settings)
            self._supervisor.check_from_afar(changes, before=found)
            task = self._supervisor.begin(self._supervisor.edit(found.id, changes))
            done, _ = await asyncio.wait({task}, timeout=WAIT)
            if done:
                task.result()
        except StartError:
            pass  # it is changed, and its state says why it does not run
        except (ConfigError, GatewayConflict) as exc:
            return self._form(visit, found, found.settings, exc)
        return visit.to(f"/gateways/{found.id}")

    def _form(
        self, visit: Visit, edited: Instance | None, settings: Settings, error: GatewayError | None = None
    ) -> Response:
        mistakes = error.mistakes if isinstance(error, ConfigError) else ()
        others = [str(error)] if error is not None and not mistakes else sorted_mistakes(mistakes)[1]
        submitted = self._single(visit) if error is not None else None
        return visit.page(
            "form.html",
            status=200 if error is None else 422,
            edited=edited,
            gateway_id=edited.id if edited else visit.field("id"),
            groups=form_of(settings, submitted=submitted, mistakes=mistakes),
            problems=others,
            is_wrong=error is not None,
        )

    def _single(self, visit: Visit) -> dict[str, str]:
        return {name: values[-1] for name, values in visit.form.items()}

    def _found(self, gateway_id: str) -> Instance | Embedded:
        try:
            return self._supervisor.find(gateway_id)
        except GatewayNotFound as exc:
            raise Refused(404, str(exc)) from exc

    def _here(self, visit: Visit) -> Instance | Embedded:
        return self._found(visit.request.path_params["gateway_id"])

    def _editable(self, visit: Visit) -> Instance:
        found = self._here(visit)
        if isinstance(found, Embedded):
            raise Refused(409, f"Gateway [{found.id}] is made in code, and can only be changed there.")
        return found

    # One gateway

    async def gateway(
        self, visit: Visit, *, said: str = "", problems: Iterable[str] = (), status: int = 200
    ) -> Response:
        found = self._here(visit)
        offset = query_int(visit.request, "offset", 0, 0, 2**31)
        search = visit.request.query_params.get("search", "")[:200]
        inspector = found.gateway.inspector
        total, page = await inspector.page(search, offset, PAGE)
        return visit.page(
            "gateway.html",
            status=status,
            found=found,
            settings=found.settings.shown(),
            total=total,
            rows=[self._row(shown) for shown in page],
            totals=await inspector.totals(),
            nodes=await inspector.nodes(),
            offset=offset,
            size=PAGE,
            search=search,
            said=said,
            problems=list(problems),
            message=visit.field("message"),
            is_json=bool(visit.field("json")),
        )

    def _row(self, shown: ConnectionInfo) -> dict[str, Any]:
        """A connection as the list shows it; its rates are those since somebody looked last."""
        now, received, sent = time.monotonic(), shown.messages_in, shown.messages_out
        clock, before_in, before_out = self._looks.get(shown.id, (now - shown.age, 0, 0))
        seconds = max(now - clock, 0.001)
        if seconds >= 1:
            self._looks.pop(shown.id, None)
            self._looks[shown.id] = (now, received, sent)
            if len(self._looks) > MAX_LOOKS:
                del self._looks[next(iter(self._looks))]
        return {
            **fields_of(shown),
            "in_rate": (received - before_in) / max(seconds, 1),
            "out_rate": (sent - before_out) / max(seconds, 1),
        }

    async def send(self, visit: Visit) -> Response:
        """Push a message through the listener, to all or to those that are ticked."""
        found = self._here(visit)
        text = visit.field("message")
        chosen = visit.form.get("connection", []) if visit.field("to") == "ticked" else None
        try:
            message = decode_json(text.encode()) if visit.field("json") else text
            sent = await found.gateway.send(message, connections=chosen)
        except MessageError as exc:
            return await self.gateway(visit, problems=[f"The message cannot be sent: {exc}."], status=422)
        except UnicodeEncodeError:
            return await self.gateway(visit, problems=["The message is no text."], status=422)
        except (GatewayNotRunning, HookError, NodeError) as exc:
            return await self.gateway(visit, problems=[f"{exc}."], status=409)
        said = f"Recipients {sent.recipients}, queued {sent.queued}, dropped {sent.dropped}."
        return await self.gateway(visit, said=said)

    async def close(self, visit: Visit) -> Response:
        """Close one connection, or those that are ticked."""
        found = self._here(visit)
        only = visit.field("only")
        wanted = [only] if only else visit.form.get("connection", [])
        if not wanted:
            return await self.gateway(visit, problems=["Tick the connections first."], status=422)
        try:
            closing = await found.gateway.inspector.close(wanted, 1000, "closed by an administrator")
        except NodeError as exc:
            return await self.gateway(visit, problems=[f"{exc}."], status=503)
        logger.info("[%s] %d connections were closed in the panel", found.id, closing.closed)
        return visit.to(f"/gateways/{found.id}")

    async def connection(self, visit: Visit) -> Response:
        """One connection: what its request carried. Its figures and events are pushed while the page is open."""
        found = self._here(visit)
        try:
            shown = await found.gateway.inspector.describe(visit.request.path_params["connection_id"])
        except NodeError as exc:
            raise Refused(503, f"{exc}.") from exc
        if shown is None:
            raise Refused(404, "No connection with that id is open: it has ended, and nothing of it is kept.")
        node = found.gateway.inspector.node_of(shown.id)
        return visit.page("connection.html", found=found, row=self._row(shown), node=node)

    # The log

    async def log(self, visit: Visit) -> Response:
        query = visit.request.query_params
        level = query.get("level", "INFO")
        if level not in LEVELS:
            raise Refused(422, f"level: one of {', '.join(LEVELS)}.")
        gateway = query.get("gateway", "")
        lines = await asyncio.to_thread(tail, LOG_LINES, gateway=gateway or None, level=level)
        known = [found.id for found in self._supervisor.all()]
        return visit.page("log.html", lines=lines, level=level, levels=LEVELS, gateway=gateway, gateways=known)

    # Log-in

    async def login(self, visit: Visit, *, problem: str = "", status: int = 200) -> Response:
        if not visit.asks_for_password:
            return visit.to("/")
        return visit.page("login.html", status=status, problem=problem)

    async def log_in(self, visit: Visit) -> Response:
        scope = visit.request.scope
        client = client_of(scope)
        try:
            async with self._tries.slot(sender_of(scope)):
                access = await self._log_in.access_for(visit.field("password"))
        except TooManyTries:
            self._log.limited("many tries").warning("panel: too many passwords tried from %s", client)
            response = await self.login(visit, problem="Too many tries: wait some seconds, then try again.", status=429)
            response.headers["retry-after"] = "5"
            return response
        if access is Access.NONE:
            self._log.limited("wrong password").warning("panel: wrong password from %s", client)
            return await self.login(visit, problem="This is not the password.", status=401)
        response = visit.to("/")
        self._log_in.remember(response, visit, self._log_in.sessions.begin(access))
        logger.info("panel: logged in from %s, %s", client, "to read" if access is Access.READ else "with full rights")
        await self._log_in.end(visit.session)  # the browser forgets that cookie
        return response

    async def log_out(self, visit: Visit) -> Response:
        await self._log_in.end(visit.session)
        response = visit.to("/login")
        response.delete_cookie(visit.cookie)
        return response


def _mistakes_of_id(gateway_id: str) -> tuple[str, ...]:
    try:
        Settings(id=gateway_id)
    except ConfigError as exc:
        return exc.mistakes
    return ()

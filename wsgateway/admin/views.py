"""The pages of the panel, and what their forms do. One table at the end lists them, with the access they require."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from wsgateway.admin.authentication import Authentication
from wsgateway.admin.forms import by_field, changes_in, form_of, settings_in
from wsgateway.admin.logins import TooManyTries, Tries, counted_address
from wsgateway.admin.overview import overview_of
from wsgateway.admin.rates import MessageRates
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.config.settings import Settings
from wsgateway.config.values import Startup
from wsgateway.exceptions import (
    ConfigError,
    GatewayConflict,
    GatewayError,
    GatewayNotFound,
    MessageError,
    NodeError,
    Refusal,
    Refused,
    StartError,
)
from wsgateway.gateway.answers import MAX_OFFSET
from wsgateway.gateway.http.paths import sender_of
from wsgateway.gateway.http.problems import query_int
from wsgateway.gateway.http.send import SendRequest, send_request
from wsgateway.logs import LEVELS, Log, logger, tail
from wsgateway.messages import decode_json
from wsgateway.supervisor.instance import Embedded, Instance
from wsgateway.supervisor.supervisor import Supervisor

PAGE = 50
"""Connections on one page."""

LOG_LINES = 300
"""Lines of the log on its page."""

WAIT = 2.0
"""Seconds to wait for an action, so its page can show why it is refused. Later, the states show the outcome."""

LABELS = {"start": "Start", "stop": "Stop", "restart": "Restart", "delete": "Delete", "reload": "Reload configuration"}
"""The buttons of the list of gateways, by action."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page or action: its route, the method that answers, and the access that it requires."""

    method: str
    path: str
    view: "Callable[[Views, Visit], Awaitable[Response]]"
    access: Access


class Views:
    """The pages of one panel: a method for each."""

    def __init__(self, supervisor: Supervisor, authentication: Authentication) -> None:
        self._supervisor = supervisor
        self._authentication = authentication
        self._actions: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
            "start": supervisor.start,
            "stop": supervisor.stop,
            "restart": supervisor.restart,
            "delete": supervisor.delete,
            "roll": supervisor.roll,
        }
        self._tries = Tries()
        self._log = Log()
        self._rates = MessageRates()

    # Gateways

    async def gateways(self, visit: Visit, *, problems: Iterable[str] = (), status: int = 200) -> Response:
        return visit.page(
            "overview.html",
            status=status,
            overview=await overview_of(self._supervisor.all(), visit.request.scope),
            problems=list(problems),
            actions=LABELS,
            may_create=self._supervisor.has_store,
        )

    async def act(self, visit: Visit) -> Response:
        """Run an action on the selected gateways, or reload the settings file. Stop and delete ask for confirmation."""
        name, ids = visit.field("action"), visit.form.get("id", [])
        if name == "reload":
            return await self._run_actions(visit, [self._supervisor.reload()])
        action = self._actions.get(name)
        if action is None:
            raise refused(422, "This action is not known.")
        if not ids:
            return await self.gateways(visit, problems=["Select the gateways first."], status=422)
        selected = [self._find(gateway_id) for gateway_id in ids]
        if name in ("stop", "delete") and visit.field("sure") != "yes":
            totals = [await supervised.gateway.inspector.totals() for supervised in selected]
            count = sum(int(counts["connections"]) for counts in totals)
            return visit.page("confirm.html", action=name, label=LABELS[name], gateways=selected, count=count)
        return await self._run_actions(visit, [action(supervised.id) for supervised in selected])

    async def _run_actions(self, visit: Visit, actions: list[Coroutine[Any, Any, None]]) -> Response:
        """Begin all `actions`. Show the gateways, with the reason of each refused action."""
        tasks = [self._supervisor.begin(action) for action in actions]
        await asyncio.wait(tasks, timeout=WAIT)
        errors = [task.exception() for task in tasks if task.done()]
        problems = [str(error) for error in errors if error is not None and not isinstance(error, StartError)]
        return await self.gateways(visit, problems=problems, status=409) if problems else visit.redirect("/")

    async def new(self, visit: Visit) -> Response:
        settings = await asyncio.to_thread(self._supervisor.new_settings)
        return self._form(visit, None, settings)

    async def create(self, visit: Visit) -> Response:
        before = await asyncio.to_thread(self._supervisor.new_settings)
        try:
            settings = settings_in(visit.fields(), before)
            self._supervisor.check_remote_changes(settings)
            created = await self._supervisor.create(visit.field("id").strip(), settings)
        except (ConfigError, GatewayConflict) as exc:
            return self._form(visit, None, before, exc)
        if created.settings.startup is Startup.AUTOMATIC:
            return await self._run_actions(visit, [self._supervisor.start(created.id)])
        return visit.redirect("/")

    async def edit(self, visit: Visit) -> Response:
        edited = self._find_editable(visit)
        return self._form(visit, edited, edited.settings)

    async def save(self, visit: Visit) -> Response:
        edited = self._find_editable(visit)
        try:
            changes = changes_in(visit.fields(), edited.settings)
            self._supervisor.check_remote_changes(changes, before=edited)
            task = self._supervisor.begin(self._supervisor.edit(edited.id, changes))
            await asyncio.wait({task}, timeout=WAIT)
            if task.done():
                task.result()
        except StartError:
            pass  # it is changed; its state and failure show why it does not run
        except (ConfigError, GatewayConflict) as exc:
            return self._form(visit, edited, edited.settings, exc)
        return visit.redirect(f"/gateways/{edited.id}")

    def _form(
        self, visit: Visit, edited: Instance | None, settings: Settings, error: GatewayError | None = None
    ) -> Response:
        mistakes, problems = by_field(error.mistakes) if isinstance(error, ConfigError) else ({}, [])
        if error is not None and not isinstance(error, ConfigError):
            problems = [str(error)]
        return visit.page(
            "form.html",
            status=200 if error is None else 422,
            edited=edited,
            gateway_id=edited.id if edited else visit.field("id"),
            groups=form_of(settings, submitted=None if error is None else visit.fields(), mistakes=mistakes),
            problems=problems,
            is_wrong=error is not None,
        )

    def _find(self, gateway_id: str) -> Instance | Embedded:
        try:
            return self._supervisor.find(gateway_id)
        except GatewayNotFound as exc:
            raise refused(404, str(exc)) from exc

    def _find_here(self, visit: Visit) -> Instance | Embedded:
        return self._find(visit.request.path_params["gateway_id"])

    def _find_editable(self, visit: Visit) -> Instance:
        supervised = self._find_here(visit)
        if isinstance(supervised, Embedded):
            raise refused(409, f"Gateway [{supervised.id}] is created in code, and can only be changed there.")
        return supervised

    # One gateway

    async def gateway(
        self, visit: Visit, *, report: str = "", problems: Iterable[str] = (), status: int = 200
    ) -> Response:
        supervised = self._find_here(visit)
        offset = query_int(visit.request, "offset", 0, 0, MAX_OFFSET)
        search = visit.request.query_params.get("search", "")[:200]
        inspector = supervised.gateway.inspector
        total, page = await inspector.page(search, offset, PAGE)
        return visit.page(
            "gateway.html",
            status=status,
            supervised=supervised,
            settings=supervised.settings.shown(),
            total=total,
            rows=[self._rates.row_of(info) for info in page],
            totals=await inspector.totals(),
            nodes=await inspector.nodes(),
            offset=offset,
            size=PAGE,
            search=search,
            report=report,
            problems=list(problems),
            message=visit.field("message"),
            is_json=bool(visit.field("json")),
        )

    async def send(self, visit: Visit) -> Response:
        """Push a message through the listener, to all connections or to the selected ones."""
        gateway, text = self._find_here(visit).gateway, visit.field("message")
        ids = visit.form.get("connection", []) if visit.field("to") == "selected" else None
        try:
            message = decode_json(text.encode()) if visit.field("json") else text
            sent = await send_request(gateway, SendRequest(message, {} if ids is None else {"connections": ids}))
        except MessageError as exc:
            return await self.gateway(visit, problems=[f"The message cannot be sent: {exc}."], status=422)
        except Refused as exc:
            return await self.gateway(visit, problems=[f"{exc.refusal.detail}."], status=exc.status)
        except UnicodeEncodeError:
            return await self.gateway(visit, problems=["The message is not text."], status=422)
        report = f"Recipients {sent.recipients}, queued {sent.queued}, dropped {sent.dropped}."
        return await self.gateway(visit, report=report)

    async def close(self, visit: Visit) -> Response:
        """Close one connection, or the selected ones."""
        supervised = self._find_here(visit)
        only = visit.field("only")
        ids = [only] if only else visit.form.get("connection", [])
        if not ids:
            return await self.gateway(visit, problems=["Select the connections first."], status=422)
        closed = await supervised.gateway.inspector.close(ids, 1000, "closed by an administrator")
        if not closed.complete:
            return await self.gateway(visit, problems=["A node has not answered in time."], status=503)
        logger.info("[%s] %d connections were closed in the panel", supervised.id, closed.closed)
        return visit.redirect(f"/gateways/{supervised.id}")

    async def connection(self, visit: Visit) -> Response:
        """Show one connection and its handshake. Its figures and events are pushed while the page is open."""
        supervised = self._find_here(visit)
        try:
            info = await supervised.gateway.inspector.describe(visit.request.path_params["connection_id"])
        except NodeError as exc:
            raise refused(503, f"{exc}.") from exc
        if info is None:
            raise refused(404, "No connection with that id is open. Nothing is kept of closed connections.")
        return visit.page(
            "connection.html",
            supervised=supervised,
            row=self._rates.row_of(info),
            node=supervised.gateway.inspector.node_of(info.id),
        )

    # The log

    async def log(self, visit: Visit) -> Response:
        query = visit.request.query_params
        level = query.get("level", "INFO")
        if level not in LEVELS:
            raise refused(422, f"level: use one of {', '.join(LEVELS)}.")
        gateway = query.get("gateway", "")
        lines = await asyncio.to_thread(tail, LOG_LINES, gateway=gateway or None, level=level)
        known = [supervised.id for supervised in self._supervisor.all()]
        return visit.page("log.html", lines=lines, level=level, levels=LEVELS, gateway=gateway, gateways=known)

    # Login

    async def login(self, visit: Visit, *, problem: str = "", status: int = 200) -> Response:
        if not visit.asks_for_password:
            return visit.redirect("/")
        return visit.page("login.html", status=status, problem=problem)

    async def log_in(self, visit: Visit) -> Response:
        scope = visit.request.scope
        sender = sender_of(scope)
        try:
            async with self._tries.slot(counted_address(scope)):
                access = await self._authentication.access_for(visit.field("password"))
        except TooManyTries:
            self._log.limited("many tries").warning("panel: too many passwords tried from %s", sender)
            response = await self.login(visit, problem="Too many tries. Wait some seconds, then try again.", status=429)
            response.headers["retry-after"] = "5"
            return response
        if access is Access.NONE:
            self._log.limited("wrong password").warning("panel: wrong password from %s", sender)
            return await self.login(visit, problem="This is not the password.", status=401)
        response = visit.redirect("/")
        self._authentication.remember(response, visit, self._authentication.logins.begin(access))
        logger.info(
            "panel: logged in from %s, %s",
            sender,
            "with read-only access" if access is Access.READ else "with full access",
        )
        await self._authentication.end(visit.login)  # the browser has replaced its cookie
        return response

    async def log_out(self, visit: Visit) -> Response:
        await self._authentication.end(visit.login)
        response = visit.redirect("/login")
        response.delete_cookie(visit.cookie)
        return response


ONE = "/gateways/{gateway_id}"

PAGES = (
    Page("GET", "/", Views.gateways, Access.READ),
    Page("POST", "/", Views.act, Access.FULL),
    Page("GET", "/new", Views.new, Access.FULL),
    Page("POST", "/new", Views.create, Access.FULL),
    Page("GET", ONE, Views.gateway, Access.READ),
    Page("GET", ONE + "/edit", Views.edit, Access.FULL),
    Page("POST", ONE + "/edit", Views.save, Access.FULL),
    Page("POST", ONE + "/send", Views.send, Access.FULL),
    Page("POST", ONE + "/close", Views.close, Access.FULL),
    Page("GET", ONE + "/connections/{connection_id}", Views.connection, Access.READ),
    Page("GET", "/log", Views.log, Access.READ),
    Page("GET", "/login", Views.login, Access.NONE),
    Page("POST", "/login", Views.log_in, Access.NONE),
    Page("POST", "/logout", Views.log_out, Access.NONE),
)
"""Every page. A request with another method, or for another path, is refused."""


def refused(status: int, text: str) -> Refused:
    """Return the error that shows a page with `text`, a sentence for the reader."""
    return Refused.of(Refusal(status, "page", text))

"""The pages of the panel, and what their forms do. One table at the end lists them, with the access they require."""

import asyncio

from starlette.responses import Response

from wsgateway.admin.authentication import Authentication
from wsgateway.admin.logins import TooManyTries, Tries, counted_address
from wsgateway.admin.pages import channels, connections, editing, gateway, overview, sending
from wsgateway.admin.site import Page, Site, refused
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.gateway.http.paths import sender_of
from wsgateway.logs import LEVELS, Log, logger, tail
from wsgateway.supervisor.supervisor import Supervisor

LOG_LINES = 300
"""Lines of the log on its page."""


class Views(Site):
    """The log, the login, and what all pages share."""

    def __init__(self, supervisor: Supervisor, authentication: Authentication) -> None:
        super().__init__(supervisor, authentication)
        self._tries = Tries()
        self._log = Log()

    # The log

    async def log(self, visit: Visit) -> Response:
        query = visit.request.query_params
        level = query.get("level", "INFO")
        if level not in LEVELS:
            raise refused(422, f"level: use one of {', '.join(LEVELS)}.")
        gateway = query.get("gateway", "")
        lines = await asyncio.to_thread(tail, LOG_LINES, gateway=gateway or None, level=level)
        known = [supervised.id for supervised in self.supervisor.all()]
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
                access = await self.authentication.access_for(visit.field("password"))
        except TooManyTries:
            self._log.limited("many tries").warning("panel: too many passwords tried from %s", sender)
            response = await self.login(visit, problem="Too many tries. Wait some seconds, then try again.", status=429)
            response.headers["retry-after"] = "5"
            return response
        if access is Access.NONE:
            self._log.limited("wrong password").warning("panel: wrong password from %s", sender)
            return await self.login(visit, problem="This is not the password.", status=401)
        response = visit.redirect("/")
        self.authentication.remember(response, visit, self.authentication.logins.begin(access))
        logger.info(
            "panel: logged in from %s, %s",
            sender,
            "with read-only access" if access is Access.READ else "with full access",
        )
        await self.authentication.end(visit.login)  # the browser has replaced its cookie
        return response

    async def log_out(self, visit: Visit) -> Response:
        await self.authentication.end(visit.login)
        response = visit.redirect("/login")
        response.delete_cookie(visit.cookie)
        return response


PAGES = (
    *overview.PAGES,
    Page("GET", "/log", Views.log, Access.READ),
    Page("GET", "/login", Views.login, Access.NONE),
    Page("POST", "/login", Views.log_in, Access.NONE),
    Page("POST", "/logout", Views.log_out, Access.NONE),
    *editing.PAGES,
    *gateway.PAGES,
    *connections.PAGES,
    *channels.PAGES,
    *sending.PAGES,
)
"""Every page. A request with another method, or for another path, is refused."""

"""Logging in and out."""

from starlette.responses import Response

from wsgateway.admin.logins import TooManyTries, counted_address
from wsgateway.admin.site import Page, Site
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.gateway.http.paths import sender_of
from wsgateway.logs import logger


async def show(site: Site, visit: Visit, *, problem: str = "", status: int = 200) -> Response:
    if not visit.asks_for_password:
        return visit.redirect("/")
    return visit.page("login.html", status=status, problem=problem)


async def log_in(site: Site, visit: Visit) -> Response:
    scope = visit.request.scope
    sender = sender_of(scope)
    try:
        async with site.tries.slot(counted_address(scope)):
            access = await site.authentication.access_for(visit.field("password"))
    except TooManyTries:
        site.log.limited("many tries").warning("panel: too many passwords tried from %s", sender)
        response = await show(site, visit, problem="Too many attempts. Wait a few seconds, and try again.", status=429)
        response.headers["retry-after"] = "5"
        return response
    if access is Access.NONE:
        site.log.limited("wrong password").warning("panel: wrong password from %s", sender)
        return await show(site, visit, problem="Wrong password.", status=401)
    response = visit.redirect("/")
    site.authentication.remember(response, visit, site.authentication.logins.begin(access))
    logger.info(
        "panel: logged in from %s, %s",
        sender,
        "with read-only access" if access is Access.READ else "with full access",
    )
    await site.authentication.end(visit.login)  # the browser has replaced its cookie
    return response


async def log_out(site: Site, visit: Visit) -> Response:
    await site.authentication.end(visit.login)
    response = visit.redirect("/login")
    response.delete_cookie(visit.cookie)
    return response


PAGES = (
    Page("GET", "/login", show, Access.NONE),
    Page("POST", "/login", log_in, Access.NONE),
    Page("POST", "/logout", log_out, Access.NONE),
)

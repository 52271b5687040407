"""The end of the log, of all gateways or of one."""

import asyncio

from starlette.responses import Response

from wsgateway.admin.site import PATH, Page, Site, refused
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.logs import LEVELS, tail

LINES = 300
"""Lines on one page."""


async def show_all(site: Site, visit: Visit) -> Response:
    """Show the log of all gateways, or of the selected one."""
    gateway_id, level = visit.request.query_params.get("gateway", ""), _level_of(visit)
    lines = await asyncio.to_thread(tail, LINES, gateway=gateway_id or None, level=level)
    known = [supervised.id for supervised in site.supervisor.all()]
    return visit.page("log.html", lines=lines, level=level, levels=LEVELS, gateway=gateway_id, gateways=known)


async def show_one(site: Site, visit: Visit) -> Response:
    """Show the log of the gateway in the path."""
    supervised, level = site.find_here(visit), _level_of(visit)
    lines = await asyncio.to_thread(tail, LINES, gateway=supervised.id, level=level)
    return visit.page("gateway_log.html", tab="log", supervised=supervised, lines=lines, level=level, levels=LEVELS)


def _level_of(visit: Visit) -> str:
    level = visit.request.query_params.get("level", "INFO")
    if level not in LEVELS:
        raise refused(422, f"level: use one of {', '.join(LEVELS)}.")
    return level


PAGES = (
    Page("GET", "/log", show_all, Access.READ),
    Page("GET", PATH + "/log", show_one, Access.READ),
)

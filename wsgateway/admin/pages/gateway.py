"""A gateway's first page, and what can be done with the gateway there."""

import time
from collections.abc import Iterable

from starlette.responses import Response

from wsgateway.admin.connect import connect_to
from wsgateway.admin.site import LABELS, PATH, Page, Site, confirmation, offered_actions, refused
from wsgateway.admin.trends import trend_of
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.config.values import Startup
from wsgateway.supervisor.instance import Instance


async def show(site: Site, visit: Visit, *, problems: Iterable[str] = (), status: int = 200) -> Response:
    """Show the state of a gateway, its figures, and its processes."""
    supervised = site.find_here(visit)
    inspector = supervised.gateway.inspector
    return visit.page(
        "gateway.html",
        status=status,
        tab="",
        supervised=supervised,
        totals=await inspector.totals(),
        nodes=await inspector.nodes(),
        trend=trend_of([supervised.gateway.trend], time.time()),
        connect=connect_to(supervised, visit.request.scope),
        actions={name: LABELS[name] for name in offered_actions(supervised)},
        roll_label=LABELS["roll"] if isinstance(supervised, Instance) and supervised.workers is not None else "",
        is_disabled=isinstance(supervised, Instance) and supervised.settings.startup is Startup.DISABLED,
        problems=list(problems),
    )


async def act(site: Site, visit: Visit) -> Response:
    """Run an action on a gateway. Actions that close connections ask for confirmation."""
    supervised, name = site.find_here(visit), visit.field("action")
    action = site.actions.get(name)
    if action is None:
        raise refused(422, "This action is not known.")
    question = await confirmation(visit, name, [supervised], path=f"/gateways/{supervised.id}")
    if question is not None:
        return question
    problems = await site.run([action(supervised.id)])
    if problems:
        return await show(site, visit, problems=problems, status=409)
    return visit.redirect("/" if name == "delete" else f"/gateways/{supervised.id}")


PAGES = (
    Page("GET", PATH, show, Access.READ),
    Page("POST", PATH, act, Access.FULL),
)

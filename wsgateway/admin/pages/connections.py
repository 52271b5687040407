"""The connections of a gateway, and one of them."""

from collections.abc import Iterable

from starlette.responses import Response

from wsgateway.admin.pages.pager import Pager
from wsgateway.admin.pages.sending import NOTHING, Draft, Outcome, message_of, send_draft
from wsgateway.admin.site import PATH, Page, Site, closing, refused
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.exceptions import NodeError
from wsgateway.gateway.answers import MAX_OFFSET
from wsgateway.gateway.http.problems import query_int
from wsgateway.logs import logger

ROWS = 50
"""Connections on one page."""

MAX_SEARCH = 200
"""Characters of a search."""

MAX_SELECTED = 1000
"""Connections that one form may close."""


async def show_all(site: Site, visit: Visit, *, problems: Iterable[str] = (), status: int = 200) -> Response:
    """Show a page of the connections of all processes, those that match the filter."""
    supervised = site.find_here(visit)
    offset = query_int(visit.request, "offset", 0, 0, MAX_OFFSET)
    search = visit.request.query_params.get("search", "")[:MAX_SEARCH]
    total, page = await supervised.gateway.inspector.page(search, offset, ROWS)
    return visit.page(
        "connections.html",
        status=status,
        tab="connections",
        supervised=supervised,
        rows=[site.rates.row_of(info) for info in page],
        pager=Pager(offset, ROWS, total),
        search=search,
        max_search=MAX_SEARCH,
        problems=list(problems),
    )


async def close(site: Site, visit: Visit) -> Response:
    """Close the selected connections. Ask for confirmation first."""
    supervised = site.find_here(visit)
    ids = list(dict.fromkeys(visit.form.get("connection", [])))
    path = f"/gateways/{supervised.id}/connections"
    if not ids:
        return await show_all(site, visit, problems=["Select the connections first."], status=422)
    if len(ids) > MAX_SELECTED:
        text = f"{len(ids)} connections are selected, {MAX_SELECTED} are allowed."
        return await show_all(site, visit, problems=[text], status=422)
    if visit.field("sure") != "yes":
        return visit.page(
            "ask.html",
            title="Close the connection?" if len(ids) == 1 else f"Close {len(ids)} connections?",
            text=closing(len(ids)),
            action=f"{path}/close",
            fields=[("sure", "yes"), *(("connection", conn_id) for conn_id in ids)],
            button=("", "", "Close connection" if len(ids) == 1 else "Close connections"),
            back=path,
        )
    closed = await supervised.gateway.inspector.close(ids, 1000, "closed by an administrator")
    if not closed.complete:
        return await show_all(site, visit, problems=["Not every process answered in time."], status=503)
    logger.info("[%s] %d connections were closed in the panel", supervised.id, closed.closed)
    return visit.redirect(path)


async def show_one(site: Site, visit: Visit, *, outcome: Outcome = NOTHING, message: str = "") -> Response:
    """Show one connection and its handshake. Its figures and events are pushed while the page is open."""
    supervised = site.find_here(visit)
    try:
        info = await supervised.gateway.inspector.describe(visit.request.path_params["connection_id"])
    except NodeError as exc:
        raise refused(503, f"{exc}.") from exc
    if info is None:
        raise refused(404, "No connection with that id is open. Nothing is kept of closed connections.")
    return visit.page(
        "connection.html",
        status=outcome.status,
        tab="connections",
        supervised=supervised,
        row=site.rates.row_of(info),
        node=supervised.gateway.inspector.node_of(info.id),
        report=outcome.report,
        problems=outcome.problems,
        message=message,
    )


async def send_to_one(site: Site, visit: Visit) -> Response:
    """Send a message to the connection that the page shows."""
    supervised, conn_id = site.find_here(visit), visit.request.path_params["connection_id"]
    draft = Draft(message=message_of(visit), to="connections", connections=(conn_id,))
    outcome = await send_draft(supervised.gateway, draft, is_json=visit.field("as") == "json")
    return await show_one(site, visit, outcome=outcome, message=draft.message if outcome.problems else "")


CONNECTIONS = PATH + "/connections"

PAGES = (
    Page("GET", CONNECTIONS, show_all, Access.READ),
    Page("POST", CONNECTIONS + "/close", close, Access.FULL),
    Page("GET", CONNECTIONS + "/{connection_id}", show_one, Access.READ),
    Page("POST", CONNECTIONS + "/{connection_id}/send", send_to_one, Access.FULL),
)

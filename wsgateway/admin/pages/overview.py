"""The first page: sums over all gateways, the last hour, each gateway, and how to connect; and what its forms do."""

import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from wsgateway.admin.connect import ConnectInfo, connect_to
from wsgateway.admin.site import LABELS, Page, Site, confirmation, offered_actions, refused
from wsgateway.admin.trends import curve_of, points_of, trend_of
from wsgateway.admin.visit import Visit
from wsgateway.auth.admin import Access
from wsgateway.gateway.registry import GatewayState
from wsgateway.supervisor.instance import Embedded, Instance


@dataclass(frozen=True, slots=True)
class Row:
    """One gateway in the list. `actions` are those that change something in its present state."""

    supervised: Instance | Embedded
    connections: int
    curve: Sequence[float]
    actions: Sequence[str]

    @property
    def id(self) -> str:
        return self.supervised.id

    @property
    def points(self) -> str:
        return points_of(self.curve)

    @property
    def address(self) -> str:
        """Where the gateway listens; empty if the application decides it."""
        supervised = self.supervised
        if isinstance(supervised, Embedded):
            return ""
        return supervised.url or supervised.settings.uds or f"port {supervised.settings.port}"


@dataclass(frozen=True, slots=True)
class Overview:
    """All gateways of a panel."""

    rows: Sequence[Row]
    connects: Sequence[ConnectInfo]
    trend: str

    @property
    def connections(self) -> int:
        return sum(row.connections for row in self.rows)

    @property
    def running(self) -> int:
        return sum(row.supervised.state is GatewayState.RUNNING for row in self.rows)

    @property
    def actions(self) -> dict[str, str]:
        """The labels of those actions that change something for at least one gateway."""
        return {name: label for name, label in LABELS.items() if any(name in row.actions for row in self.rows)}


async def overview_of(gateways: Sequence[Instance | Embedded], scope: Mapping[str, Any]) -> Overview:
    """Return the overview of `gateways` for the sender of `scope`, a request to the panel."""
    rows, now = [], time.time()
    for supervised in gateways:
        totals = await supervised.gateway.inspector.totals()
        curve = curve_of(supervised.gateway.trend, now)
        rows.append(Row(supervised, int(totals["connections"]), curve, offered_actions(supervised)))
    connects = [connect_to(supervised, scope) for supervised in gateways]
    return Overview(rows, connects, trend_of([supervised.gateway.trend for supervised in gateways], now))


async def show(site: Site, visit: Visit, *, problems: Iterable[str] = (), status: int = 200) -> Response:
    return visit.page(
        "overview.html",
        status=status,
        overview=await overview_of(site.supervisor.all(), visit.request.scope),
        problems=list(problems),
    )


async def act(site: Site, visit: Visit) -> Response:
    """Run an action on the selected gateways, or reload the settings file.

    Actions that close connections ask for confirmation.
    """
    name, ids = visit.field("action"), visit.form.get("id", [])
    if name == "reload":
        return await _run(site, visit, [site.supervisor.reload()])
    action = site.actions.get(name)
    if action is None:
        raise refused(422, "This action is not known.")
    if not ids:
        return await show(site, visit, problems=["Select the gateways first."], status=422)
    selected = [site.find(gateway_id) for gateway_id in ids]
    ids_again = [("id", supervised.id) for supervised in selected]
    question = await confirmation(visit, name, selected, path="/", fields=ids_again)
    if question is not None:
        return question
    return await _run(site, visit, [action(supervised.id) for supervised in selected])


async def _run(site: Site, visit: Visit, actions: list[Coroutine[Any, Any, None]]) -> Response:
    """Begin all `actions`. Show the gateways, with the reason of each refused action."""
    problems = await site.run(actions)
    return await show(site, visit, problems=problems, status=409) if problems else visit.redirect("/")


PAGES = (
    Page("GET", "/", show, Access.READ),
    Page("POST", "/", act, Access.FULL),
)

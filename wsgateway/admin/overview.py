"""What the first page of the panel shows: sums over all gateways, the last hour, each gateway, and how to connect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsgateway.admin.connect import Connect, connect_to
from wsgateway.admin.trends import curve_of, points_of, trend_of
from wsgateway.config.values import Startup
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
    connects: Sequence[Connect]
    trend: str

    @property
    def connections(self) -> int:
        return sum(row.connections for row in self.rows)

    @property
    def running(self) -> int:
        return sum(row.supervised.state is GatewayState.RUNNING for row in self.rows)

    def actions(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return those of `labels` that change something for at least one gateway."""
        return {name: label for name, label in labels.items() if any(name in row.actions for row in self.rows)}


async def overview_of(gateways: Sequence[Instance | Embedded], scope: Mapping[str, Any]) -> Overview:
    """Return the overview of `gateways` for the sender of `scope`, a request to the panel."""
    rows = []
    for supervised in gateways:
        totals = await supervised.gateway.inspector.totals()
        curve = curve_of(supervised.gateway.trend)
        rows.append(Row(supervised, int(totals["connections"]), curve, offered_actions(supervised)))
    connects = [connect_to(supervised, scope) for supervised in gateways]
    return Overview(rows, connects, trend_of(supervised.gateway.trend for supervised in gateways))


def offered_actions(supervised: Instance | Embedded) -> list[str]:
    """Return the actions that change something in the present state of the gateway, in the order of their buttons."""
    match supervised.state:
        case GatewayState.RUNNING | GatewayState.STARTING:
            actions = ["restart", "stop"]
        case GatewayState.STOPPED | GatewayState.FAILED:
            may_start = isinstance(supervised, Embedded) or supervised.settings.startup is not Startup.DISABLED
            actions = ["start"] if may_start else []
        case _:
            actions = []
    return [*actions, "delete"] if supervised.is_editable else actions
